"""Splits, and data that does not fit its recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import ArtifactError, ConfigError
from models.dataset import Dataset, split_rows
from toolchain.steps.arrays import arrays_digest, load_arrays, load_part, save_arrays
from toolchain.steps.context import StepContext, load_factory
from toolchain.steps.data import run

CONFIG = {"seed": 1, "calibration": 0.2, "held_out": 0.3}
INPUT = {"name": "x", "shape": [2], "minimum": 0.0, "maximum": 1.0}


@given(
    rows=st.integers(1, 500),
    seed=st.integers(0, 2**32 - 1),
    calibration=st.floats(0.01, 0.49),
    held_out=st.floats(0.01, 0.49),
)
def test_a_split_is_a_partition_and_the_same_each_time(
    rows: int, seed: int, calibration: float, held_out: float
) -> None:
    split = split_rows(rows, seed=seed, calibration=calibration, held_out=held_out)
    parts = [split.train, split.calibration, split.held_out]
    assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
    assert len(split.held_out) == int(rows * held_out)
    assert len(split.calibration) == int(rows * calibration)
    again = split_rows(rows, seed=seed, calibration=calibration, held_out=held_out)
    assert np.array_equal(split.train, again.train)


@pytest.mark.parametrize(("calibration", "held_out"), [(0.5, 0.5), (0.0, 0.5), (0.5, 0.0), (-0.1, 0.5)])
def test_shares_that_leave_nothing_are_refused(calibration: float, held_out: float) -> None:
    with pytest.raises(ValueError, match="leave nothing"):
        split_rows(10, seed=1, calibration=calibration, held_out=held_out)


def good(rows: int = 200) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "inputs": rng.random((rows, 2), dtype=np.float32),
        "labels": rng.integers(0, 3, rows).astype(np.int64),
        "classes": ("a", "b", "c"),
        "source": "made here",
        "license": "CC0-1.0",
    }


def context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> StepContext:
    """The data step's context for a factory, in a module of its own, that returns the changed data."""
    fields = good()
    change(fields)
    save_arrays(tmp_path / "given.npz", {name: fields[name] for name in ("inputs", "labels")})
    name = f"factory_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np\nfrom models.dataset import Dataset\n"
        "def load():\n"
        f"    arrays = np.load({str(tmp_path / 'given.npz')!r})\n"
        "    return Dataset(inputs=arrays['inputs'], labels=arrays['labels'],\n"
        f"        classes={fields['classes']!r}, source='made here', license='CC0-1.0')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    config = {"data": {**CONFIG, "factory": f"{name}:load"}, "input": INPUT}
    return StepContext(config=config, inputs={}, out=out, records={}, progress=lambda share, note: None)


def test_the_parts_are_rows_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = context(tmp_path, monkeypatch, lambda fields: None)
    run(step)
    data = Dataset(**good())
    split = split_rows(200, **CONFIG)
    inputs, labels = load_part(step.out, "held_out")
    assert np.array_equal(inputs, data.inputs[split.held_out])
    assert np.array_equal(labels, data.labels[split.held_out])


def put(fields: dict[str, Any], name: str, value: Any) -> None:
    fields[name] = value


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda f: put(f, "inputs", f["inputs"].astype(np.float64)), "float64"),
        (lambda f: put(f, "inputs", f["inputs"][:, :1]), "is declared"),
        (lambda f: f["inputs"].__setitem__((3, 1), np.nan), "not finite"),
        (lambda f: f["inputs"].__setitem__((3, 1), 1.5), "0 to 1 is declared"),
        (lambda f: put(f, "labels", f["labels"].astype(np.int32)), "not one int64 a row"),
        (lambda f: put(f, "labels", f["labels"][:-1]), "not one int64 a row"),
        (lambda f: f["labels"].__setitem__(0, 3), "outside the classes"),
        (lambda f: put(f, "classes", ("a", "b", "c", "d")), "No held-out row shows the class 'd'"),
    ],
)
def test_data_that_does_not_fit_the_recipe_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    with pytest.raises(ArtifactError, match=what):
        run(context(tmp_path, monkeypatch, change))


def test_a_factory_that_is_not_there_is_named() -> None:
    for reference in ("models.nosuch:load", "models.dataset:nosuch", "models.dataset:__doc__"):
        with pytest.raises(ConfigError) as caught:
            load_factory(reference)
        assert caught.value.subject == reference


def test_equal_arrays_are_equal_files(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1], dtype=np.int64)}
    for name in ("one", "two"):
        save_arrays(tmp_path / f"{name}.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert arrays_digest(load_arrays(tmp_path / "one.npz")) == arrays_digest(arrays)
    assert arrays_digest(arrays) != arrays_digest({**arrays, "a": arrays["a"].T})


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", a=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load_arrays(tmp_path / "evil.npz")
