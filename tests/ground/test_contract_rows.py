"""The quick way through the contract, against a plain loop over values: random inputs, dtypes, bounds, nulls,
batches and layouts; and two requests at once."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from random import Random
from types import FrameType
from typing import Any

import numpy as np
import pytest

from edgeops.contract import Contract
from edgeops.errors import BadRequestError
from edgeops.manifest import ColumnSpec, TensorSpec
from edgeops.serving.host import DTYPES, Array
from edgeops.serving.text_tensor import text_array

# What a contract says of a request: how many values are outside, or the refused input, rule and column.
Verdict = int | tuple[object, object, object]

NAN, INF = float("nan"), float("inf")
NUMBERS = ("FP16", "FP32", "FP64", "INT8", "UINT8", "INT32", "INT64", "UINT64")
BOUNDS = (None, -1e300, -200.5, -1.0, -0.0, 0.0, 0.1, 1.0, 7.5, 300.0, 1e300)
TEXTS: tuple[Any, ...] = ("", "four", "fünf5", "sixsix", "\ud800", b"four", 4)
WEIGHTS = (10, 10, 5, 5, 1, 1, 1)


def verdict(contract: Contract, inputs: dict[str, Array]) -> Verdict:
    try:
        return contract.outside(inputs)
    except BadRequestError as error:
        rule, column = error.details.get("rule"), error.details.get("column")
        return error.subject, rule, column


def expected(specs: list[TensorSpec], inputs: dict[str, Array]) -> Verdict:
    """The contract, one value at a time in Python's own numbers."""
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None or array.dtype != DTYPES[spec.dtype]:
            return spec.name, None, None
        if spec.columns and array.size and array.shape[-1:] != (len(spec.columns),):
            return spec.name, None, None
    outside = 0
    for spec in specs:
        if spec.dtype == "BYTES":
            rules = text_rules(spec, list(inputs[spec.name].flat))
        else:
            rules = number_rules(spec, inputs[spec.name])
        for rule, column, count, refused in rules:
            if count and refused:
                return spec.name, rule, column
            outside += count
    return outside


def text_rules(spec: TensorSpec, texts: list[Any]) -> Iterator[tuple[str, str | None, int, bool]]:
    sound = [text for text in texts if isinstance(text, str) and "\ud800" not in text]
    yield "text", None, len(texts) - len(sound), True
    most = INF if spec.max_characters is None else spec.max_characters
    yield "max_characters", None, sum(len(text) > most for text in sound), True


def number_rules(spec: TensorSpec, array: Array) -> Iterator[tuple[str, str | None, int, bool]]:
    width = len(spec.columns)
    flat = array.reshape(-1).tolist()
    for number in range(width or 1):
        column = spec.columns[number] if width else ColumnSpec(name="", max_null_rate=0.0)
        name = column.name if width else None
        values = flat[number::width] if width else flat
        if width:
            nulls = sum(value != value for value in values)
            yield "null", name, nulls if column.max_null_rate == 0 else 0, True
            values = [value for value in values if value == value]
        yield "finite", name, sum(not math.isfinite(value) for value in values), True
        values = [value for value in values if math.isfinite(value)]
        low, high = limits(spec, column)
        refused = spec.outside == "refuse"
        yield "minimum", name, sum(value < low for value in values), refused
        yield "maximum", name, sum(value > high for value in values), refused


def limits(spec: TensorSpec, column: ColumnSpec) -> tuple[float, float]:
    lows = [in_dtype(spec, bound) for bound in (spec.minimum, column.minimum) if bound is not None]
    highs = [in_dtype(spec, bound) for bound in (spec.maximum, column.maximum) if bound is not None]
    return max(lows, default=-INF), min(highs, default=INF)


def in_dtype(spec: TensorSpec, bound: float) -> float:
    """A bound has the rounding of a float tensor, and lies in the range of any."""
    dtype = DTYPES[spec.dtype]
    if dtype.kind != "f":
        return min(max(bound, int(np.iinfo(dtype).min)), int(np.iinfo(dtype).max))
    largest = float(np.finfo(dtype).max)
    return float(dtype.type(min(max(bound, -largest), largest)))


def some_spec(random: Random, name: str) -> TensorSpec:
    if random.random() < 0.1:
        return TensorSpec(name=name, dtype="BYTES", shape=(-1,), max_characters=random.choice([None, 4, 5]))
    width = random.randint(1, 5)
    columns = tuple(
        ColumnSpec(
            name=f"c{number}",
            minimum=random.choice(BOUNDS),
            maximum=random.choice(BOUNDS),
            max_null_rate=random.choice([0.0, 0.0, 0.5]),
        )
        for number in range(random.choice([0, width, width]))
    )
    return TensorSpec(
        name=name,
        dtype=random.choice(NUMBERS),
        shape=random.choice([(-1, width), (-1, width), (1, width), (-1, -1, width), (-1, 2, width)]),
        minimum=random.choice([None, *BOUNDS]),
        maximum=random.choice([None, *BOUNDS]),
        outside=random.choice(["count", "refuse"]),
        columns=columns,
    )


def some_array(random: Random, spec: TensorSpec) -> Array:
    if spec.dtype == "BYTES":
        return text_array(random.choices(TEXTS, WEIGHTS, k=random.randint(0, 3)))
    shape = [random.choice([1, 1, 1, 2, 3, 0]) if size < 0 else size for size in spec.shape]
    if random.random() < 0.05:
        shape.reverse()
    if is_bounded(spec) and random.random() < 0.02:
        return np.zeros(shape, "complex64")
    # Values inside the bounds of their own column, but now and then just beyond, or no number.
    dtype = DTYPES[spec.dtype]
    rare_share = random.choice([0.0, 0.02, 0.3])
    odd = [-0.0, np.finfo(dtype).max, NAN, NAN, INF, -INF] if dtype.kind == "f" else []
    usual, rare = [], []
    for column in spec.columns or (ColumnSpec(name=""),):
        low, high = limits(spec, column)
        edges = [edge for bound in (low, high, 0.5) for edge in around(bound, dtype)]
        usual.append([edge for edge in edges if low <= edge <= high] or edges)
        rare.append(edges + odd)
    values = [
        random.choice((rare if random.random() < rare_share else usual)[number % len(usual)])
        for number in range(math.prod(shape))
    ]
    array: Array = np.array(values, dtype).reshape(shape)
    layout = random.choice(["C", "F", "strided", "read-only"])
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided":
        return np.repeat(array, 2, axis=-1)[..., ::2]
    array.flags.writeable = layout != "read-only"
    return array


def is_bounded(spec: TensorSpec) -> bool:
    """Integers without bounds are the engine's alone to check."""
    checked = DTYPES[spec.dtype].kind in "fO" or bool(spec.columns)
    return checked or spec.minimum is not None or spec.maximum is not None


def around(bound: float, dtype: np.dtype[Any]) -> list[Any]:
    """The nearest values of `dtype` at, below and above a bound, as Python's numbers."""
    if dtype.kind == "f":
        largest = np.finfo(dtype).max
        middle = dtype.type(min(max(bound, -float(largest)), float(largest)))
        return [middle.item(), *(np.nextafter(middle, end).item() for end in (-largest, largest))]
    info = np.iinfo(dtype)
    within = min(max(bound, int(info.min)), int(info.max))
    near = (math.floor(within), math.ceil(within), math.floor(within) - 1, math.ceil(within) + 1)
    return [value for value in near if info.min <= value <= info.max]


@pytest.mark.parametrize("seed", range(10))
def test_every_request_is_judged_as_a_plain_loop_judges_it(seed: int) -> None:
    random = Random(seed)
    verdicts: Counter[str] = Counter()
    for _ in range(40):
        specs = [some_spec(random, name) for name in random.choice(["x", "x", "xy", "xyz"])]
        contract = Contract(specs)
        # One contract answers many: nothing of a request may be left for the next.
        for _ in range(5):
            sent = [spec for spec in specs if not is_bounded(spec) or random.random() > 0.01]
            inputs = {spec.name: some_array(random, spec) for spec in sent}
            copies = {name: array.copy() for name, array in inputs.items()}
            want = expected(specs, inputs)
            assert verdict(contract, inputs) == want, (specs, inputs)
            for name, array in inputs.items():
                np.testing.assert_array_equal(array, copies[name])
            verdicts["sound" if want == 0 else "counted" if isinstance(want, int) else "refused"] += 1
    assert min(verdicts[kind] for kind in ("sound", "counted", "refused")) >= 10, verdicts


ROW = TensorSpec(
    name="x",
    dtype="FP32",
    shape=(-1, 64),
    columns=tuple(ColumnSpec(name=f"c{number}", minimum=-number, maximum=number) for number in range(64)),
)


@pytest.mark.parametrize("beyond", [-1.0, 1.0])
def test_each_column_has_its_own_bounds(beyond: float) -> None:
    contract = Contract([ROW])
    for number in range(64):
        row = np.zeros((1, 64), np.float32)
        row[0, number] = number * beyond
        assert contract.outside({"x": row}) == 0
        row[0, number] = np.nextafter(row[0, number], np.float32(INF * beyond))
        assert contract.outside({"x": row}) == 1


def test_a_request_in_the_middle_of_another_changes_nothing() -> None:
    """Before every line of the one, the other is judged in whole, as it may be in another thread."""
    contract = Contract([ROW])
    sound, beyond = np.zeros((1, 64), np.float32), np.full((1, 64), 100, np.float32)
    answers = Counter[int]()

    def interrupt(frame: FrameType, event: str, arg: object) -> Any:
        answers[contract.outside({"x": sound})] += 1
        return interrupt

    tracing = sys.gettrace()
    sys.settrace(interrupt)
    try:
        answer = contract.outside({"x": beyond})
    finally:
        sys.settrace(tracing)
    assert answer == 64
    assert list(answers) == [0]
    assert answers[0] > 10
