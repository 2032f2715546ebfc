"""How far a merged window sketch lies from the reference grid: Kolmogorov-Smirnov and PSI.

Both compare ranks only. So for a continuous feature their distribution under "nothing changed" depends on
the window's count, the reference's count and the sketch's k, and on nothing else: `fleet.significance` has it
by Monte Carlo. Ties (discrete features, constants) make both statistics smaller under the null, so that
there the tests are conservative.

KS: the largest distance between the two distribution functions (Kolmogorov 1933, Smirnov 1939). PSI: the
population stability index, sum of (p - q) ln(p / q) over bins with equal shares of the reference (Lewis 1994,
"An Introduction to Credit Scoring"), which is Jeffreys' divergence of the binned distributions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeops.profiles import ReferenceFeature
from edgeops.sketches import Sketch

Array = npt.NDArray[np.float64]

# At k = 200 a sketch resolves some 75 ranks: beyond 20 bins its own noise would be compared.
PSI_BINS = 10


@dataclass(frozen=True)
class Distance:
    """How far a window's feature is from the reference: `count` values seen, KS in [0, 1], PSI >= 0."""

    count: int
    reference_count: int
    ks: float
    psi: float


class Reference:
    """A reference feature, prepared for comparing many sketches with it."""

    def __init__(self, feature: ReferenceFeature) -> None:
        grid = np.array(feature.quantiles, dtype=np.float32)
        last = grid.size - 1
        values = np.unique(grid)
        self.count = feature.count
        # The grid holds q_i = min {x: F(x) >= i / last}. So for a value v of it, F(v) lies in
        # [i, i + 1) / last with the largest i whose q_i <= v, and F just below v in [i - 1, i) / last with
        # the smallest i whose q_i >= v.
        at = np.searchsorted(grid, values, side="right") - 1
        below = np.searchsorted(grid, values, side="left")
        just_below = np.nextafter(values, np.float32(-np.inf))
        points, place = np.unique(np.concatenate([just_below, values]), return_inverse=True)
        self._points: list[float] = [float(point) for point in points]
        self._below, self._at = place[: values.size], place[values.size :]
        self._at_low, self._at_high = at / last, np.minimum(at + 1, last) / last
        self._below_low, self._below_high = np.maximum(below - 1, 0) / last, below / last
        self._edges, self._shares = self._bins(at, last)

    def distance(self, sketch: Sketch) -> Distance:
        """How far `sketch` is from this reference. It must have seen at least one value."""
        if sketch.count == 0:
            raise ValueError("an empty sketch has no distance from anything")
        shares = np.array(sketch.cdf(self._points))
        at, below = shares[self._at], shares[self._below]
        gaps = (at - self._at_high, self._at_low - at, below - self._below_high, self._below_low - below)
        ks = max(0.0, *(float(gap.max()) for gap in gaps))
        return Distance(sketch.count, self.count, ks, self._psi(at, sketch.count))

    @staticmethod
    def _bins(at: npt.NDArray[np.intp], last: int) -> tuple[npt.NDArray[np.intp], Array]:
        """Upper edges, as indices of distinct values, of bins with nearly equal shares of the reference, and
        these shares. An atom that spans several bins makes them one; the last bin has no upper edge."""
        wanted = np.linspace(0, last, PSI_BINS + 1)[1:-1]
        edges = np.unique(np.searchsorted(at, np.round(wanted)))
        return edges, np.diff(at[edges] / last, prepend=0.0, append=1.0)

    def _psi(self, at: Array, count: int) -> float:
        window = np.diff(at[self._edges], prepend=0.0, append=1.0)
        p, q = _smooth(window, count), _smooth(self._shares, self.count)
        return float(((p - q) * np.log(p / q)).sum())


def _smooth(shares: Array, count: int) -> Array:
    # Half a value more in every bin, so that an empty one has a logarithm.
    smoothed: Array = (shares * count + 0.5) / (count + 0.5 * shares.size)
    return smoothed
