"""The sensors model: physics that can be seen in the figures, data that stays the same, models that learn."""

from pathlib import Path

import numpy as np
import pytest

import models.sensors
from models.dataset import split_rows
from models.sensors import data as sensors
from models.sensors.pipelines import committee, network
from models.sensors.vibration import (
    FIGURES,
    INNER_ORDER,
    OUTER_ORDER,
    SAMPLE_RATE_HZ,
    SAMPLES,
    Windows,
    acceleration,
    figures,
)
from toolchain.importing.contract import check_dataset
from toolchain.plan.step import plain
from toolchain.recipe.file import read_recipe

RECIPE = Path(models.sensors.__path__[0]) / "recipe.yaml"
ROWS = 60


def measured(**faults: float) -> dict[str, np.ndarray]:
    """The mean figures of windows of one machine with these faults, at 30 Hz and 60% load."""
    zero = np.zeros(ROWS)
    fields = dict.fromkeys(Windows.__dataclass_fields__, zero)
    fields |= {"shaft_hz": zero + 30, "load": zero + 0.6, "gain": zero + 1, "noise": zero + 0.2}
    windows = Windows(**{**fields, **{name: zero + value for name, value in faults.items()}})
    table = figures(acceleration(windows, np.random.default_rng(1)), windows.shaft_hz)
    return dict(zip(FIGURES, table.T, strict=True))


def test_a_bearing_has_the_rates_of_its_geometry() -> None:
    # A 6205 in every table of bearing frequencies: 3.585 and 5.415 times the shaft.
    assert pytest.approx(3.585, abs=2e-3) == OUTER_ORDER
    assert pytest.approx(5.415, abs=2e-3) == INNER_ORDER
    assert pytest.approx(9) == OUTER_ORDER + INNER_ORDER


@pytest.mark.parametrize(
    ("fault", "size", "line"),
    [
        ("imbalance", 1.0, "order_1"),
        ("misalignment", 1.0, "order_2"),
        ("outer_race", 3.0, "envelope_outer"),
        ("inner_race", 4.0, "envelope_inner"),
    ],
)
def test_a_fault_shows_where_physics_says(fault: str, size: float, line: str) -> None:
    sound, broken = measured(), measured(**{fault: size})
    rise = {name: broken[name].mean() / sound[name].mean() for name in FIGURES if name != "crest_factor"}
    lines = [name for name in rise if name.startswith(("order_", "envelope_"))]
    assert max(lines, key=lambda name: rise[name]) == line
    assert rise[line] > 4


def test_only_looseness_shows_at_half_the_shafts_speed() -> None:
    sound = measured()["order_half"].mean()
    for fault in ("imbalance", "misalignment", "outer_race", "inner_race"):
        assert measured(**{fault: 1.0})["order_half"].mean() < 1.5 * sound
    assert measured(looseness=1.0)["order_half"].mean() > 4 * sound


def test_imbalance_grows_with_the_square_of_speed() -> None:
    zero = np.zeros(ROWS)
    lines = []
    for speed in (20.0, 40.0):
        fields = dict.fromkeys(Windows.__dataclass_fields__, zero)
        fields |= {"shaft_hz": zero + speed, "gain": zero + 1, "imbalance": zero + 1}
        windows = Windows(**fields)
        table = figures(acceleration(windows, np.random.default_rng(1)), windows.shaft_hz)
        lines.append(table[:, FIGURES.index("order_1")].mean())
    assert lines[1] / lines[0] == pytest.approx(4, rel=0.02)
    assert lines[0] == pytest.approx((20 / 25) ** 2, rel=0.02)


def test_figures_of_a_plain_tone_are_known() -> None:
    t = np.arange(SAMPLES) / SAMPLE_RATE_HZ
    tone = np.sqrt(2) * 3 * np.sin(2 * np.pi * 32 * t)[None]  # a whole number of turns
    found = dict(zip(FIGURES, figures(tone, np.array([32.0]))[0], strict=True))
    assert found["rms"] == pytest.approx(3)
    assert found["crest_factor"] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert found["kurtosis"] == pytest.approx(1.5, rel=1e-3)
    assert found["order_1"] == pytest.approx(np.sqrt(2) * 3, rel=1e-3)
    assert found["order_2"] == pytest.approx(0, abs=1e-3)


@pytest.fixture(scope="module")
def loaded() -> sensors.Dataset:
    return sensors.load()


@pytest.mark.slow
def test_the_data_fits_its_recipe_and_comes_again(loaded: sensors.Dataset) -> None:
    recipe = read_recipe(RECIPE)
    assert tuple(column.name for column in recipe.input.columns) == sensors.COLUMNS
    check_dataset(loaded, plain(recipe.input), recipe.task, "sensors")
    again = sensors.load(**recipe.data.options)
    assert np.array_equal(loaded.inputs, again.inputs, equal_nan=True)
    assert not np.array_equal(loaded.labels, sensors.load(seed=8).labels)
    assert len(set(loaded.attributes["machine"])) == 12
    share = np.isnan(loaded.inputs).mean(axis=0)
    assert share[-1] > 0.005 and not share[:-1].any()


@pytest.mark.slow
def test_the_models_learn_and_neither_is_perfect(loaded: sensors.Dataset) -> None:
    recipe = read_recipe(RECIPE)
    told = recipe.data
    rows = split_rows(3600, seed=told.seed, calibration=told.calibration, held_out=told.held_out)
    inputs, labels = loaded.inputs[rows.held_out], loaded.labels[rows.held_out]
    accuracy = {}
    for name, factory in (("network", network), ("committee", committee)):
        estimator = factory(**recipe.models[name].options)  # type: ignore[union-attr]
        estimator.fit(loaded.inputs[rows.train], loaded.labels[rows.train])
        accuracy[name] = float((estimator.predict(inputs) == labels).mean())
    assert 0.93 < accuracy["network"] < 0.98
    assert accuracy["network"] < accuracy["committee"] < 0.99
