"""The data contract of a model's inputs, held against training data in the toolchain and against every
request on the device and in the hub: one implementation, so that both mean the same by it.

Refused always: what is not finite, a null (NaN) in a column that has none in training, a text that is too
long or no Unicode. A value beyond its bounds is counted, or refused where the contract says so.
Bounds are compared in the tensor's own dtype: what training data held lies inside, whatever its rounding.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from edgeops.errors import BadRequestError
from edgeops.manifest import TensorSpec
from edgeops.serving.host import DTYPES, Array

Rule = Literal["finite", "null", "null_rate", "minimum", "maximum", "text", "max_characters"]

_less_equal = np.less_equal  # a look-up less for every row


@dataclass(frozen=True)
class Breach:
    """`count` values of one input (of one of its columns, if it has some) that break one rule.

    `worst` is the value farthest beyond `bound`: a number, a text's length, or for `null_rate` the share of
    nulls. Both are None for rules without a bound. `refused` says whether a request with it is refused.
    """

    input: str
    column: str | None
    rule: Rule
    count: int
    worst: float | None
    bound: float | None
    refused: bool

    def __str__(self) -> str:
        where = f"the input {self.input!r}"
        if self.column is not None:
            where = f"column {self.column!r} of {where}"
        values = "1 value" if self.count == 1 else f"{self.count} values"
        if self.rule == "finite":
            return f"{where} has {values} not finite"
        if self.rule == "null":
            return f"{where} has {values} null (NaN), and may have none"
        if self.rule == "null_rate":
            return f"{where} has {self.worst:.4g} of its values null (NaN), and at most {self.bound:g} may be"
        if self.rule == "text":
            return f"{where} has {values} not Unicode text"
        if self.rule == "max_characters":
            return f"{where} has a text of {self.worst} characters, and at most {self.bound} may be"
        beyond = "below the minimum" if self.rule == "minimum" else "above the maximum"
        return f"{where} has {values} {beyond} {self.bound:.9g}, up to {self.worst:.9g}"


def check_request(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> tuple[Breach, ...]:
    """Every rule that a request's inputs break, in the order of `specs` and of their columns.

    Raises `BadRequestError` (subject: the input) when an input is missing, or has another dtype or number of
    columns: then nothing can be said about its values.
    """
    return tuple(_breaches(inputs, specs, as_data=False))


def check_data(inputs: Mapping[str, Array], specs: Sequence[TensorSpec]) -> tuple[Breach, ...]:
    """Every rule that a data set breaks: as `check_request`, but that a column may have as many nulls as its
    `max_null_rate` says, counted over all rows (rule `null_rate`). Raises as `check_request` does."""
    return tuple(_breaches(inputs, specs, as_data=True))


class Contract:
    """The contract of some inputs, made ready to be held against many requests: a sound row of some hundred
    numbers costs about a microsecond for each input. Thread-safe."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = tuple(specs)
        self._holds: list[Callable[[Mapping[str, Array]], bool]] = []
        for spec in specs:
            if spec.dtype == "BYTES":
                self._holds.append(_Texts(spec).hold)
            elif spec.columns and spec.dtype != "BOOL":
                self._holds.append(_Columns(spec).hold)
            elif DTYPES[spec.dtype].kind == "f" or spec.minimum is not None or spec.maximum is not None:
                self._holds.append(_Uniform(spec).hold)

    def outside(self, inputs: Mapping[str, Array]) -> int:
        """How many values of a request lie beyond bounds that only count.

        Raises `BadRequestError` when the contract refuses it: `subject` is the input, `details` hold `rule`,
        `column`, `value` and `bound` of the first breach. And as `check_request` does.
        """
        for hold in self._holds:
            if not hold(inputs):
                return self._judge(inputs)
        return 0

    def _judge(self, inputs: Mapping[str, Array]) -> int:
        breaches = check_request(inputs, self._specs)
        for breach in breaches:
            if breach.refused:
                raise BadRequestError(
                    f"{str(breach)[0].upper()}{str(breach)[1:]}.",
                    remedy="Send data such as the model was trained on.",
                    subject=breach.input,
                    details={
                        "rule": breach.rule,
                        "column": breach.column,
                        "value": breach.worst,
                        "bound": breach.bound,
                    },
                )
        return sum(breach.count for breach in breaches)


class _Uniform:
    """The bounds that all values of one input share: the dtype's own where the contract has none."""

    def __init__(self, spec: TensorSpec) -> None:
        self._name, self._dtype = spec.name, DTYPES[spec.dtype]
        self._low, self._high = _bounds(self._dtype, spec.minimum, spec.maximum)

    def hold(self, inputs: Mapping[str, Array]) -> bool:
        """Whether there are values, and every one is inside its bounds."""
        array = inputs.get(self._name)
        if array is None or array.dtype != self._dtype or not array.size:
            return False
        # The position of the least value is that of a NaN if there is one, and NaN compares false.
        # (argmin and item take a third of the time that min does.)
        least: float = array.item(array.argmin())
        largest: float = array.item(array.argmax())
        return least >= self._low and largest <= self._high


class _Columns:
    """The bounds of one input's columns, held against each of its rows.

    What a small request costs is the number of calls into NumPy, not the arithmetic. So a single row is
    copied between its least and its largest values, and one call compares (low, row) with (row, high).
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._name, self._dtype = spec.name, DTYPES[spec.dtype]
        # In the shape of one row: comparing arrays of equal shapes takes half the time of broadcasting.
        self._row_shape = (1,) * (len(spec.shape) - 1) + (len(spec.columns),)
        self._low, self._high = (bound.reshape(self._row_shape) for bound in _column_bounds(spec))
        self._nullable = np.array([column.max_null_rate > 0 for column in spec.columns])
        self._some_nullable = self._dtype.kind == "f" and bool(self._nullable.any())
        self._row_bytes = slice(self._low.nbytes, 2 * self._low.nbytes)
        self._all_inside = b"\1" * (2 * len(spec.columns))
        self._idle = [self._scratch()]

    def hold(self, inputs: Mapping[str, Array]) -> bool:
        """Whether every value is inside its bounds, or a null where there may be one."""
        array = inputs.get(self._name)
        if array is None or array.dtype != self._dtype:
            return False
        if array.shape != self._row_shape:
            return self._hold_rows(array)
        try:
            scratch = self._idle.pop()
        except IndexError:  # other threads have them
            scratch = self._scratch()
        memory, low_row, row_high, flags, inside = scratch
        memory[self._row_bytes] = array.tobytes()
        _less_equal(low_row, row_high, flags)
        all_inside = inside == self._all_inside
        self._idle.append(scratch)
        return all_inside or (self._some_nullable and self._hold_rows(array))

    def _hold_rows(self, array: Array) -> bool:
        if array.shape[-1:] != self._row_shape[-1:]:
            return False
        if not array.size:
            return True
        inside = (array >= self._low) & (array <= self._high)
        if inside.item(inside.argmin()):  # all of them; a third of the time that `all` takes
            return True
        if not self._some_nullable:
            return False
        inside |= np.isnan(array) & self._nullable
        return bool(inside.all())

    def _scratch(self) -> tuple[mmap.mmap, Array, Array, Array, bytearray]:
        """What one thread at a time compares a row in: memory with room for the row, its views (low, row) and
        (row, high), and the outcome as an array and as bytes."""
        width = len(self._nullable)
        # A mapping takes the bytes of a row in half the time that an array takes a row. Being copy-on-write,
        # it is not shared with the children of a fork.
        memory = mmap.mmap(-1, 3 * self._low.nbytes, access=mmap.ACCESS_COPY)
        values = np.frombuffer(memory, self._dtype)
        values[:width], values[2 * width :] = self._low.reshape(-1), self._high.reshape(-1)
        inside = bytearray(2 * width)
        return memory, values[: 2 * width], values[width:], np.frombuffer(inside, np.bool_), inside


class _Texts:
    """The bound on the texts of one input."""

    def __init__(self, spec: TensorSpec) -> None:
        self._name = spec.name
        self._longest = 1 << 62 if spec.max_characters is None else spec.max_characters

    def hold(self, inputs: Mapping[str, Array]) -> bool:
        """Whether every value is Unicode text and short enough."""
        array = inputs.get(self._name)
        if array is None or array.dtype != object:
            return False
        for text in array.flat:
            if type(text) is not str or len(text) > self._longest:
                return False
            if not (text.isascii() or _is_unicode(text)):
                return False
        return True


def _breaches(inputs: Mapping[str, Array], specs: Sequence[TensorSpec], *, as_data: bool) -> Iterator[Breach]:
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            _refuse_names(inputs, specs, spec.name)
        if array.dtype != DTYPES[spec.dtype]:
            raise BadRequestError(
                f"The input {spec.name!r} has dtype {array.dtype.name}, and the model wants {spec.dtype}.",
                subject=spec.name,
            )
        if spec.dtype == "BYTES":
            yield from _text_breaches(array, spec)
        else:
            yield from _number_breaches(array, spec, as_data=as_data)


def _refuse_names(inputs: Mapping[str, Array], specs: Sequence[TensorSpec], missing: str) -> NoReturn:
    # A wrong name tells more than the one that is missing for it.
    known = {spec.name for spec in specs}
    for name in inputs:
        if name not in known:
            raise BadRequestError(f"The model has no input {name!r}.", subject=name)
    raise BadRequestError(f"The input {missing!r} is missing.", subject=missing)


def _text_breaches(array: Array, spec: TensorSpec) -> Iterator[Breach]:
    texts = [text for text in array.flat if isinstance(text, str) and _is_unicode(text)]
    if others := array.size - len(texts):
        yield Breach(spec.name, None, "text", others, None, None, refused=True)
    if spec.max_characters is not None:
        long = [len(text) for text in texts if len(text) > spec.max_characters]
        if long:
            yield Breach(
                spec.name, None, "max_characters", len(long), max(long), spec.max_characters, refused=True
            )


def _number_breaches(array: Array, spec: TensorSpec, *, as_data: bool) -> Iterator[Breach]:
    if spec.dtype == "BOOL" or not array.size:
        return
    if not spec.columns:
        low, high = _bounds(array.dtype, spec.minimum, spec.maximum)
        yield from _value_breaches(array.reshape(-1), spec, None, low, high)
        return
    if array.shape[-1:] != (len(spec.columns),):
        raise BadRequestError(
            f"The input {spec.name!r} has shape {list(array.shape)}, and its last axis must have the "
            f"{len(spec.columns)} columns.",
            subject=spec.name,
        )
    rows = array.reshape(-1, len(spec.columns))
    bounds = zip(*_column_bounds(spec), strict=True)
    for number, (column, (low, high)) in enumerate(zip(spec.columns, bounds, strict=True)):
        values = rows[:, number]
        null = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        count = int(null.sum())
        if count and column.max_null_rate == 0:
            yield Breach(spec.name, column.name, "null", count, None, None, refused=True)
        elif as_data and count > column.max_null_rate * len(values):
            rate, most = count / len(values), column.max_null_rate
            yield Breach(spec.name, column.name, "null_rate", count, rate, most, refused=False)
        yield from _value_breaches(values[~null], spec, column.name, low.item(), high.item())


def _value_breaches(
    values: Array, spec: TensorSpec, column: str | None, low: float, high: float
) -> Iterator[Breach]:
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if wrong := int(values.size - finite.sum()):
            yield Breach(spec.name, column, "finite", wrong, None, None, refused=True)
            values = values[finite]
    refused = spec.outside == "refuse"
    below, above = values[values < low], values[values > high]
    if below.size:
        yield Breach(spec.name, column, "minimum", below.size, below.min().item(), low, refused=refused)
    if above.size:
        yield Breach(spec.name, column, "maximum", above.size, above.max().item(), high, refused=refused)


def _column_bounds(spec: TensorSpec) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The least and the largest sound value of each column, in the input's dtype. A column's own bounds and
    the tensor's hold both."""
    dtype = DTYPES[spec.dtype]
    pairs = []
    for column in spec.columns:
        low, high = _bounds(dtype, column.minimum, column.maximum)
        all_low, all_high = _bounds(dtype, spec.minimum, spec.maximum)
        pairs.append((max(low, all_low), min(high, all_high)))
    return np.array([low for low, _ in pairs], dtype), np.array([high for _, high in pairs], dtype)


def _bounds(dtype: np.dtype[Any], minimum: float | None, maximum: float | None) -> tuple[float, float]:
    """Bounds as numbers of `dtype`; where there is none, the dtype's own least and largest finite value."""
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)

        def rounded(value: float) -> float:
            with np.errstate(over="ignore"):
                return float(np.clip(dtype.type(value), -largest, largest))

        return (
            -largest if minimum is None else rounded(minimum),
            largest if maximum is None else rounded(maximum),
        )
    info = np.iinfo(dtype)
    return (
        info.min if minimum is None else min(max(math.ceil(minimum), info.min), info.max),
        info.max if maximum is None else min(max(math.floor(maximum), info.min), info.max),
    )


def _is_unicode(text: str) -> bool:
    """Whether a text has a UTF-8 form; half a surrogate pair has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
