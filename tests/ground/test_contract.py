"""The data contract: what is refused, what is counted, and that the quick way says what the slow one does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.contract import Breach, Contract, check_data, check_request
from edgeops.errors import BadRequestError
from edgeops.manifest import ColumnSpec, TensorSpec
from edgeops.serving.host import DTYPES, Array
from edgeops.serving.text_tensor import text_array

IMAGE = TensorSpec(name="x", dtype="FP32", shape=(-1, 3), minimum=0.0, maximum=1.0)
TABLE = TensorSpec(
    name="x",
    dtype="FP32",
    shape=(-1, 3),
    columns=(
        ColumnSpec(name="age", minimum=0.0, maximum=120.0),
        ColumnSpec(name="income", minimum=0.0, max_null_rate=0.25),
        ColumnSpec(name="balance"),
    ),
)
TEXT = TensorSpec(name="x", dtype="BYTES", shape=(-1,), max_characters=5)
NAN, INF = float("nan"), float("inf")


def replace(spec: TensorSpec, **changes: Any) -> TensorSpec:
    return TensorSpec(**{**{field: getattr(spec, field) for field in spec.__struct_fields__}, **changes})


def of(*rows: list[float], dtype: type = np.float32) -> dict[str, Array]:
    return {"x": np.array(rows, dtype)}


def refusal(spec: TensorSpec, inputs: dict[str, Array]) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        Contract([spec]).outside(inputs)
    assert caught.value.http_status == 400
    return caught.value


@pytest.mark.parametrize("spec", [IMAGE, TABLE], ids=["image", "table"])
def test_a_sound_request_breaks_nothing(spec: TensorSpec) -> None:
    inputs = of([0.0, 1.0, 0.5], [1.0, 0.0, 0.25])
    assert Contract([spec]).outside(inputs) == 0
    assert check_request(inputs, [spec]) == check_data(inputs, [spec]) == ()


def test_values_beyond_their_bounds_are_counted() -> None:
    inputs = of([-0.5, 1.5, 0.5], [2.0, -3.0, 1.0])
    assert Contract([IMAGE]).outside(inputs) == 4
    assert check_request(inputs, [IMAGE]) == (
        Breach("x", None, "minimum", 2, -3.0, 0.0, refused=False),
        Breach("x", None, "maximum", 2, 2.0, 1.0, refused=False),
    )


def test_where_the_contract_says_so_they_are_refused() -> None:
    error = refusal(replace(TABLE, outside="refuse"), of([130.0, 1.0, 1.0]))
    assert error.subject == "x"
    assert error.details == {"rule": "maximum", "column": "age", "value": 130.0, "bound": 120.0}
    assert error.message == "Column 'age' of the input 'x' has 1 value above the maximum 120, up to 130."
    assert error.remedy is not None


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("spec", [IMAGE, replace(IMAGE, minimum=None, maximum=None), TABLE])
def test_what_is_not_finite_is_always_refused(spec: TensorSpec, value: float) -> None:
    assert "column" in refusal(spec, of([value, 0.5, 0.5])).details
    assert [breach.refused for breach in check_data(of([value, 0.5, 0.5]), [spec])] == [True]


def test_a_null_is_refused_but_in_a_column_that_may_have_some() -> None:
    contract = Contract([TABLE])
    assert contract.outside(of([1.0, NAN, 1.0])) == 0
    error = refusal(TABLE, of([1.0, NAN, NAN]))
    assert (error.details["rule"], error.details["column"]) == ("null", "balance")
    assert "'income'" in refusal(TABLE, of([1.0, INF, 1.0])).message
    # The bounds of the others still hold beside a null.
    assert contract.outside(of([130.0, NAN, 1.0])) == 1


@pytest.mark.parametrize(("nulls", "breaks"), [(0, False), (1, False), (2, True)])
def test_a_null_rate_is_that_of_the_whole_data(nulls: int, breaks: bool) -> None:
    rows = [[1.0, NAN if row < nulls else 1.0, 1.0] for row in range(4)]
    breaches = check_data(of(*rows), [TABLE])
    assert [(breach.rule, breach.column, breach.bound) for breach in breaches] == (
        [("null_rate", "income", 0.25)] if breaks else []
    )
    assert check_request(of(*rows), [TABLE]) == ()
    if breaks:
        assert (breaches[0].count, breaches[0].worst) == (2, 0.5)
        assert str(breaches[0]).endswith("has 0.5 of its values null (NaN), and at most 0.25 may be")


def test_bounds_are_compared_in_the_tensors_own_dtype() -> None:
    """0.1 as float32 is more than 0.1: data that was written as 0.1 in a recipe must lie inside."""
    for bound in (0.1, 0.7, 1e-40, 3.4e38):
        spec = replace(IMAGE, minimum=bound, maximum=bound)
        assert Contract([spec]).outside(of([bound] * 3)) == 0
    beyond = np.nextafter(np.float32(0.1), np.float32(1))
    assert Contract([replace(IMAGE, maximum=0.1)]).outside(of([float(beyond), 0.0, 0.0])) == 1


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name.startswith(("INT", "UINT"))])
def test_integers_are_compared_exactly(dtype: str) -> None:
    info = np.iinfo(DTYPES[dtype])
    spec = TensorSpec(name="x", dtype=dtype, shape=(-1,), minimum=0.5, maximum=10.5)
    column = TensorSpec(
        name="x", dtype=dtype, shape=(-1, 1), columns=(ColumnSpec(name="c", minimum=0.5, maximum=10.5),)
    )
    for value, outside in ((0, 1), (1, 0), (10, 0), (11, 1), (info.min, 1), (info.max, 1)):
        inputs = {"x": np.array([value], DTYPES[dtype])}
        assert Contract([spec]).outside(inputs) == outside
        assert Contract([column]).outside({"x": inputs["x"].reshape(1, 1)}) == outside
    open_end = TensorSpec(name="x", dtype=dtype, shape=(-1,), minimum=-1e300, maximum=1e300)
    assert Contract([open_end]).outside({"x": np.array([info.min, info.max], DTYPES[dtype])}) == 0


def test_a_columns_bounds_and_the_tensors_hold_both() -> None:
    spec = replace(TABLE, minimum=-10.0, maximum=100.0)
    assert Contract([spec]).outside(of([110.0, 0.0, 0.0])) == 1
    assert Contract([spec]).outside(of([-1.0, 0.0, -10.0])) == 1
    assert Contract([spec]).outside(of([100.0, 0.0, -10.0])) == 0


@pytest.mark.parametrize(
    ("texts", "rule"),
    [
        (["12345"], None),
        (["ü" * 5, ""], None),
        (["ok", "123456"], "max_characters"),
        (["\ud800"], "text"),
        ([b"ok"], "text"),
        ([3], "text"),
        ([None], "text"),
    ],
)
def test_texts(texts: list[Any], rule: str | None) -> None:
    inputs = {"x": text_array(texts)}
    if rule is None:
        assert Contract([TEXT]).outside(inputs) == 0
        assert check_data(inputs, [TEXT]) == ()
    else:
        assert refusal(TEXT, inputs).details["rule"] == rule
        assert [breach.rule for breach in check_data(inputs, [TEXT])] == [rule]


def test_a_text_that_is_too_long_is_told_how_much() -> None:
    error = refusal(TEXT, {"x": text_array(["123456", "1" * 80])})
    assert "a text of 80 characters, and at most 5 may be" in error.message


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "'x' is missing"),
        ({"y": np.zeros((1, 3), np.float32)}, "no input 'y'"),
        ({"x": np.zeros((1, 3))}, "dtype float64, and the model wants FP32"),
        ({"x": text_array(["a"])}, "dtype object, and the model wants FP32"),
    ],
)
@pytest.mark.parametrize("spec", [IMAGE, TABLE], ids=["image", "table"])
def test_inputs_of_which_nothing_can_be_said(spec: TensorSpec, inputs: dict[str, Array], says: str) -> None:
    assert says in refusal(spec, inputs).message
    with pytest.raises(BadRequestError, match=says):
        check_data(inputs, [spec])


def test_another_number_of_columns_is_refused() -> None:
    for shape in ((1, 2), (1, 4), (3, 1), ()):
        assert "the 3 columns" in refusal(TABLE, {"x": np.ones(shape, np.float32)}).message
    assert "dtype" in refusal(TEXT, {"x": np.array(["a"])}).message


def test_every_input_has_its_own_contract() -> None:
    other = replace(IMAGE, name="y", minimum=5.0, maximum=6.0)
    inputs = {"x": np.full((1, 3), 0.5, np.float32), "y": np.full((1, 3), 0.5, np.float32)}
    assert Contract([IMAGE, other]).outside(inputs) == 3
    assert [breach.input for breach in check_request(inputs, [IMAGE, other])] == ["y"]


def test_no_rows_break_nothing() -> None:
    for spec in (IMAGE, TABLE):
        empty = {"x": np.zeros((0, 3), np.float32)}
        assert Contract([spec]).outside(empty) == 0
        assert check_data(empty, [spec]) == ()


VALUES = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1e-7, 1.5, 120.5, -5.0, 3e38, NAN, INF, -INF])
ARRAYS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=VALUES)
SPECS = st.sampled_from(
    [
        IMAGE,
        TABLE,
        replace(IMAGE, minimum=None),
        replace(IMAGE, maximum=None),
        replace(TABLE, outside="refuse"),
        replace(TABLE, minimum=-1.0, maximum=200.0),
        replace(TABLE, columns=tuple(ColumnSpec(name=name, max_null_rate=1.0) for name in "abc")),
    ]
)


@given(ARRAYS, SPECS, st.booleans())
def test_the_quick_answer_is_that_of_the_report(array: Array, spec: TensorSpec, turned: bool) -> None:
    inputs = {"x": np.asfortranarray(array) if turned else array}
    breaches = check_request(inputs, [spec])
    # The report against a plain loop.
    expected = 0
    refused = False
    for row in array.tolist():
        for number, value in enumerate(row):
            column = spec.columns[number] if spec.columns else ColumnSpec(name="")
            if value != value:
                refused = refused or column.max_null_rate == 0
            elif value in (INF, -INF):
                refused = True
            else:
                low = max(-INF if b is None else b for b in (spec.minimum, column.minimum))
                high = min(INF if b is None else b for b in (spec.maximum, column.maximum))
                expected += not low <= value <= high
    assert sum(b.count for b in breaches if b.rule in ("minimum", "maximum")) == expected
    refused = refused or (spec.outside == "refuse" and expected > 0)
    assert any(breach.refused for breach in breaches) == refused
    try:
        assert Contract([spec]).outside(inputs) == expected
        assert not refused
    except BadRequestError:
        assert refused
