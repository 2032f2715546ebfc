"""The sensors data: windows of vibration of twelve machines on three sites, and the fault of each.

Everything is drawn from one seeded generator (PCG64). Figures are rounded to four significant digits, as the
sensor sends them, so that the last bits of a machine's sine do not reach the data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.dataset import Dataset
from models.sensors.vibration import FIGURES, Windows, acceleration, figures

CLASSES = ("normal", "imbalance", "misalignment", "outer_race", "inner_race", "looseness")
COLUMNS = (*FIGURES, "shaft_hz", "load", "temperature")
# What a site does to a measurement: noise in m/s², air in °C, and how often the thermometer is silent.
SITES = {"harbour": (0.34, 14.0, 0.045), "mill": (0.22, 27.0, 0.02), "plant": (0.16, 21.0, 0.01)}
MACHINES_A_SITE = 4
WINDOWS_A_MACHINE = 300
# The share of windows that show a sound machine.
NORMAL_SHARE = 0.4
DIGITS = 4


def load(seed: int = 7) -> Dataset:
    """All 3,600 rows, machine by machine: inputs (3600, 14) in the order of `COLUMNS`, NaN where the
    thermometer was silent; attributes `site` and `machine`."""
    rng = np.random.default_rng(seed)
    rows: list[npt.NDArray[np.float32]] = []
    labels: list[npt.NDArray[np.int64]] = []
    sites: list[str] = []
    machines: list[str] = []
    for site, conditions in SITES.items():
        for number in range(1, MACHINES_A_SITE + 1):
            inputs, faults = _machine(conditions, rng)
            rows.append(inputs)
            labels.append(faults)
            sites += [site] * len(faults)
            machines += [f"{site}-{number}"] * len(faults)
    return Dataset(
        inputs=np.concatenate(rows),
        labels=np.concatenate(labels),
        classes=CLASSES,
        source="Generated vibration of rotating machines (models/sensors/vibration.py)",
        license="Apache-2.0",
        attributes={"site": np.array(sites), "machine": np.array(machines)},
    )


def _machine(
    conditions: tuple[float, float, float], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The windows of one machine: its own speed, mounting and residual faults, and from window to window
    another load, and another fault of another severity."""
    site_noise, air, silent = conditions
    count = WINDOWS_A_MACHINE
    faults = rng.choice(len(CLASSES), size=count, p=_shares())
    load = rng.uniform(0.2, 1.0, count)
    shaft = rng.uniform(18.0, 45.0) * (1.0 - 0.03 * load + 0.01 * rng.standard_normal(count))
    residual = rng.uniform(0.05, 0.3, 3)
    # Log-uniform: most faults are young ones, which is what makes them hard to tell.
    severity = np.exp(rng.uniform(np.log(0.35), np.log(4.0), count))

    def of(name: str, base: float, scale: float) -> npt.NDArray[np.float64]:
        shown = np.where(faults == CLASSES.index(name), severity * scale, 0.0)
        return base * (1 + 0.25 * rng.standard_normal(count)).clip(0.2) + shown

    windows = Windows(
        shaft_hz=shaft,
        load=load,
        gain=np.full(count, rng.uniform(0.8, 1.25)),
        noise=site_noise * rng.uniform(0.8, 1.2) * (1 + 0.15 * load),
        imbalance=of("imbalance", residual[0], 0.6),
        misalignment=of("misalignment", residual[1], 0.55),
        outer_race=of("outer_race", 0.08, 1.5),
        inner_race=of("inner_race", 0.08, 2.2),
        looseness=of("looseness", 0.2 * residual[2], 0.4),
    )
    temperature = air + 24 * load + 0.25 * shaft + 3 * rng.standard_normal(count)
    hot = np.isin(faults, [CLASSES.index("outer_race"), CLASSES.index("inner_race")])
    warm = faults == CLASSES.index("misalignment")
    temperature += np.where(hot, 5 * severity, 0.0) + np.where(warm, 2.5 * severity, 0.0)
    table = np.column_stack([figures(acceleration(windows, rng), shaft), shaft, load, temperature])
    table = _rounded(table)
    table[rng.uniform(size=count) < silent, COLUMNS.index("temperature")] = np.nan
    return table.astype(np.float32), faults.astype(np.int64)


def _shares() -> list[float]:
    other = (1 - NORMAL_SHARE) / (len(CLASSES) - 1)
    return [NORMAL_SHARE] + [other] * (len(CLASSES) - 1)


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """To DIGITS significant digits."""
    magnitude = np.floor(np.log10(np.maximum(np.abs(values), 1e-12)))
    scale = 10.0 ** (DIGITS - 1 - magnitude)
    rounded: npt.NDArray[np.float64] = np.round(values * scale) / scale
    return rounded
