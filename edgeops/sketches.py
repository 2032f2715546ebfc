"""Quantile sketches that merge: KLL over float32 (Karnin, Lang, Liberty 2016, arXiv:1603.05346).

The sketch itself is Apache DataSketches' C++. Its reader believes the lengths that it finds, so bytes that
came over a wire are checked against the format first, and damaged ones raise `BadRequestError`. What the
sketch drops silently (NaN) or cannot rank (infinities) is counted beside it as `invalid`.

Serialized bytes differ from run to run (the sketch flips coins): never hash or compare them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketches import kll_floats_sketch

from edgeops.errors import BadRequestError
from edgeops.messages import FeatureProfile

K = 200
MAX_K = 4096
# With 99% confidence no rank is further off than this (DataSketches' fit for k = 200).
RANK_ERROR = 0.0133

# Apache DataSketches, kll_sketch_impl.hpp: preamble of 8 bytes (ints, serial version, family, flags, k, m,
# unused); then, for more than one value, n, min_k, number of levels, unused; the levels' offsets into the
# items; the smallest and largest value; the items.
_PREAMBLE = struct.Struct("<BBBBHBB")
_COUNTS = struct.Struct("<QHBB")
_EMPTY, _SINGLE = 1, 4
_FAMILY = 15
_LEVEL_ZERO_SIZE = 8
_MAX_LEVELS = 60


def kll_of(values: npt.NDArray[np.floating], *, k: int = K) -> bytes:
    """The serialized sketch of `values` (any shape; what is not finite in float32 is left out)."""
    sketch = kll_floats_sketch(k)
    flat = values.astype(np.float32, copy=False).ravel()
    finite = flat[np.isfinite(flat)]
    if finite.size:
        sketch.update(np.ascontiguousarray(finite))
    data: bytes = sketch.serialize()
    return data


class Sketch:
    """A quantile sketch in memory. Ranks are exact within `RANK_ERROR` at k = 200, 99 times in 100."""

    def __init__(self, k: int = K) -> None:
        self._kll: Any = kll_floats_sketch(k)

    @classmethod
    def parse(cls, data: bytes) -> Sketch:
        """The sketch in `data`. Raises `BadRequestError` on bytes that are no sketch of ours."""
        _check(data)
        sketch = cls()
        try:
            sketch._kll = kll_floats_sketch.deserialize(data)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise _bad(str(error)) from error
        return sketch

    @property
    def count(self) -> int:
        """How many values it has seen."""
        return int(self._kll.n)

    def merge(self, other: Sketch) -> None:
        """Takes in all that `other` has seen."""
        self._kll.merge(other._kll)

    def quantile(self, rank: float) -> float:
        """A value whose rank is about `rank` (in [0, 1]); NaN when empty."""
        return self.quantiles([rank])[0]

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """`quantile` of each rank; NaNs when empty."""
        if self.count == 0:
            return [float("nan")] * len(ranks)
        return [float(value) for value in self._kll.get_quantiles(list(ranks), True)]

    def cdf(self, points: Sequence[float]) -> list[float]:
        """For each point (strictly increasing, finite) the share of values not above it; NaNs when empty."""
        if self.count == 0:
            return [float("nan")] * len(points)
        return [float(share) for share in self._kll.get_cdf(list(points), True)][: len(points)]

    def serialize(self) -> bytes:
        """The bytes that `parse` reads."""
        data: bytes = self._kll.serialize()
        return data


def merge(sketches: Iterable[bytes], *, k: int = K) -> Sketch:
    """One sketch of everything that `sketches` (serialized) have seen. Raises `BadRequestError`."""
    merged = Sketch(k)
    for data in sketches:
        merged.merge(Sketch.parse(data))
    return merged


@dataclass(frozen=True, slots=True)
class MergedProfile:
    """Several feature profiles as one: counts, moments and extremes exact up to rounding, and the merged
    sketch. With `count` 0 the mean, M2 and extremes are 0 and say nothing."""

    count: int
    invalid: int
    mean: float
    m2: float
    minimum: float
    maximum: float
    sketch: Sketch

    @property
    def variance(self) -> float:
        """The population variance; 0 when empty."""
        return self.m2 / self.count if self.count else 0.0


def profile_of(column: npt.NDArray[np.floating]) -> FeatureProfile:
    """The profile of one feature's values, taken as float32. With no finite value the moments and
    extremes are 0."""
    values = column.astype(np.float32, copy=False).ravel()
    finite = values[np.isfinite(values)]
    count = int(finite.size)
    mean = float(finite.mean(dtype=np.float64)) if count else 0.0
    return FeatureProfile(
        count=count,
        invalid=int(values.size) - count,
        mean=mean,
        m2=float(np.square(finite.astype(np.float64) - mean).sum()) if count else 0.0,
        minimum=float(finite.min()) if count else 0.0,
        maximum=float(finite.max()) if count else 0.0,
        kll=kll_of(finite),
    )


def merge_profiles(profiles: Iterable[FeatureProfile]) -> MergedProfile:
    """One profile of all of them. Mean and M2 by the pairwise update of Chan, Golub and LeVeque (1979),
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".

    Raises `BadRequestError` when a sketch is damaged or does not hold as many values as its profile says.
    """
    count = invalid = 0
    mean = m2 = minimum = maximum = 0.0
    sketch = Sketch()
    for profile in profiles:
        part = Sketch.parse(profile.kll)
        if part.count != profile.count:
            raise _bad(f"it holds {part.count} values, and its profile says {profile.count}")
        invalid += profile.invalid
        if profile.count == 0:
            continue
        minimum = min(minimum, profile.minimum) if count else profile.minimum
        maximum = max(maximum, profile.maximum) if count else profile.maximum
        total = count + profile.count
        delta = profile.mean - mean
        mean += delta * profile.count / total
        m2 += profile.m2 + delta * delta * count * profile.count / total
        count = total
        sketch.merge(part)
    return MergedProfile(count, invalid, mean, m2, minimum, maximum, sketch)


def _check(data: bytes) -> None:
    """Every length and offset that the C++ reader would follow, and the weights against the count."""
    if len(data) < _PREAMBLE.size:
        raise _bad(f"{len(data)} bytes are too few")
    ints, version, family, flags, k, m, _ = _PREAMBLE.unpack_from(data)
    if family != _FAMILY or m != _LEVEL_ZERO_SIZE or not 8 <= k <= MAX_K:
        raise _bad("the preamble is not that of a KLL sketch")
    form = flags & (_EMPTY | _SINGLE)
    if form == _EMPTY:
        if (ints, version, len(data)) != (2, 1, _PREAMBLE.size):
            raise _bad("it says that it is empty, and is not")
        return
    if form == _SINGLE:
        if (ints, version, len(data)) != (2, 2, _PREAMBLE.size + 4):
            raise _bad("it says that it holds one value, and does not")
        if not np.isfinite(np.frombuffer(data, "<f4", 1, _PREAMBLE.size)[0]):
            raise _bad("a value is not finite")
        return
    if form or (ints, version) != (5, 1) or len(data) < _PREAMBLE.size + _COUNTS.size:
        raise _bad("the preamble contradicts itself")
    _check_levels(data, k)


def _check_levels(data: bytes, k: int) -> None:
    n, min_k, levels, _ = _COUNTS.unpack_from(data, _PREAMBLE.size)
    start = _PREAMBLE.size + _COUNTS.size
    items_at = start + 4 * levels + 8
    if not 1 <= levels <= _MAX_LEVELS or not 8 <= min_k <= k:
        raise _bad("the number of levels or the smallest k is out of range")
    if len(data) < items_at or (len(data) - items_at) % 4:
        raise _bad("the number of levels does not fit the length")
    offsets = list(struct.unpack_from(f"<{levels}I", data, start))
    # The reader derives the end of the last level from k, m and the number of levels.
    end = _capacity(k, levels)
    if end - offsets[0] != (len(data) - items_at) // 4:
        raise _bad("the levels do not fit the length")
    weight = 0
    for level, (low, high) in enumerate(zip(offsets, [*offsets[1:], end], strict=True)):
        if low > high:
            raise _bad("the levels are not in order")
        weight += (high - low) << level
    if weight != n:
        raise _bad("the levels do not add up to the count")
    values = np.frombuffer(data, "<f4", offset=start + 4 * levels)
    smallest, largest = values[0], values[1]
    # Written so that a NaN anywhere fails.
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise _bad("an extreme is not finite")
    if not (values.min() >= smallest and values.max() <= largest):
        raise _bad("a value lies outside the extremes")


def _capacity(k: int, levels: int) -> int:
    """kll_helper.hpp, `compute_total_capacity`: a level at depth d from the top holds k (2/3)^d values,
    rounded, and at least m."""
    return sum(max(_LEVEL_ZERO_SIZE, _depth_capacity(k, levels - level - 1)) for level in range(levels))


def _depth_capacity(k: int, depth: int) -> int:
    if depth > 30:
        half = depth // 2
        return _depth_capacity(_depth_capacity(k, half), depth - half)
    twice: int = (k << (depth + 1)) // 3**depth
    return (twice + 1) >> 1


def _bad(why: str) -> BadRequestError:
    return BadRequestError(f"This is no quantile sketch: {why}.", subject="kll")
