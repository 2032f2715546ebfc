"""Makes `drift_table.py`: the null distribution of both drift statistics, by simulation.

    python -m fleet.calibrate_drift            # about ten minutes on one core

Both statistics compare ranks, so uniform values stand for every continuous feature. A window's sketch is a
real one (KLL, k = 200), so its noise is in the table. The reference's grid is drawn exactly: order statistics
of uniform values are ratios of partial sums of gamma variables (Devroye 1986, "Non-Uniform Random Variate
Generation", chapter V), which costs the same for any reference count. The sketch's own coin flips cannot be
seeded, so a second run differs in the third digit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeops.profiles import GRID_POINTS, ReferenceFeature
from edgeops.sketches import Sketch, kll_of
from fleet.drift import Reference

SEED = 20_240_501
RUNS = 20_000
LEVELS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
COUNTS = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
# None: a reference without sampling error.
REFERENCE_COUNTS: tuple[int | None, ...] = (200, 1_000, 5_000, None)

TARGET = Path(__file__).with_name("drift_table.py")

Array = npt.NDArray[np.float64]


def uniform_reference(count: int | None, rng: np.random.Generator) -> ReferenceFeature:
    """The reference feature of `count` uniform values, without drawing them all."""
    ranks = np.linspace(0.0, 1.0, GRID_POINTS)
    grid = ranks
    if count is not None:
        # Inverse empirical distribution: the ceil(rank * count)-th smallest value, the first for rank 0.
        order = np.maximum(np.ceil(ranks * count - 1e-9), 1.0)
        steps = np.diff(order, prepend=0.0)
        sums = np.cumsum(np.where(steps > 0, rng.standard_gamma(np.maximum(steps, 1e-300)), 0.0))
        grid = sums / (sums[-1] + rng.standard_gamma(count + 1 - order[-1]))
    return ReferenceFeature(
        count=count if count is not None else 1 << 40,
        invalid=0,
        mean=0.5,
        variance=1 / 12,
        quantiles=tuple(float(value) for value in grid.astype(np.float32)),
    )


def simulate(count: int, runs: int, rng: np.random.Generator) -> Array:
    """Shape (reference counts, 2, runs): KS and PSI of `runs` windows of `count` values under the null."""
    result = np.empty((len(REFERENCE_COUNTS), 2, runs))
    for run in range(runs):
        sketch = Sketch.parse(kll_of(rng.random(count, dtype=np.float32)))
        for place, reference_count in enumerate(REFERENCE_COUNTS):
            distance = Reference(uniform_reference(reference_count, rng)).distance(sketch)
            result[place, :, run] = distance.ks, distance.psi
    return result


def table(runs: int) -> Array:
    """Critical values, shape (2, counts, reference counts, levels): the (1 - level) quantiles."""
    rng = np.random.default_rng(SEED)
    upper = 1 - np.array(LEVELS)
    critical = np.empty((2, len(COUNTS), len(REFERENCE_COUNTS), len(LEVELS)))
    for row, count in enumerate(COUNTS):
        samples = simulate(count, runs, rng)
        critical[:, row] = np.moveaxis(np.quantile(samples, upper, axis=-1), 0, -1).swapaxes(0, 1)
        sys.stderr.write(f"n = {count} done\n")
    return critical


def source(critical: Array, runs: int) -> str:
    """The module's text."""
    lines = [
        '"""Critical values of the drift statistics under the null. Generated: do not edit.',
        "",
        f"Made by `python -m fleet.calibrate_drift` with seed {SEED} and {runs} windows a row, at k = 200.",
        "Rows go over COUNTS, within them over REFERENCE_COUNTS (None: no sampling error), then LEVELS.",
        '"""',
        "",
        "# fmt: off",
        f"LEVELS = {LEVELS!r}",
        f"COUNTS = {COUNTS!r}",
        f"REFERENCE_COUNTS: tuple[int | None, ...] = {REFERENCE_COUNTS!r}",
    ]
    for name, rows in zip(("KS", "PSI"), critical, strict=True):
        lines += ["", f"{name} = ("]
        for count, cells in zip(COUNTS, rows, strict=True):
            lines.append(f"    (  # n = {count}")
            lines += [f"        ({', '.join(f'{value:.4g}' for value in cell)})," for cell in cells]
            lines.append("    ),")
        lines.append(")")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulates, and writes the table beside this file."""
    TARGET.write_text(source(table(RUNS), RUNS))


if __name__ == "__main__":
    main()
