"""Splits, and data that does not fit its recipe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit import sources
from edgeops_testkit.sources import DATA, INPUT, TEXT_INPUT, step_context
from models.dataset import Corpus, Dataset, split_rows
from toolchain.handover.arrays import (
    arrays_digest,
    load_arrays,
    load_attributes,
    load_documents,
    load_part,
    save_arrays,
)
from toolchain.handover.context import load_factory
from toolchain.steps.data import run

SHARES = {"seed": 1, "calibration": 0.2, "held_out": 0.3}
COLUMNS = [
    {"name": "a", "minimum": -20.0, "maximum": 20.0, "max_null_rate": 0.0},
    {"name": "b", "minimum": None, "maximum": None, "max_null_rate": 0.02},
    {"name": "c", "minimum": None, "maximum": None, "max_null_rate": 0.0},
]


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


def test_the_parts_are_rows_of_the_data_with_their_attributes(tmp_path: Path) -> None:
    folder = sources.data_folder(tmp_path, "three_columns", "tabular-classification")
    data = sources.three_columns()
    split = split_rows(120, **SHARES)
    inputs, labels = load_part(folder, "held_out")
    assert np.array_equal(inputs, data.inputs[split.held_out])
    assert np.array_equal(labels, data.labels[split.held_out])
    sites = load_attributes(folder, "calibration")
    assert np.array_equal(sites["site"], data.attributes["site"][split.calibration])


def test_documents_are_split_whole(tmp_path: Path) -> None:
    folder = sources.data_folder(tmp_path, "short_documents", "text-generation", TEXT_INPUT)
    parts = [load_documents(folder, part) for part in ("train", "calibration", "held_out")]
    assert sorted(document for part in parts for document in part) == sorted(
        sources.short_documents().documents
    )
    assert [len(part) for part in parts] == [10, 4, 6]


def changed(change: str, value: Any = None) -> Dataset:
    """The three columns with something wrong with them."""
    data = sources.three_columns()
    inputs, labels, fields = data.inputs.copy(), data.labels.copy(), vars(data)
    if change == "put":
        inputs[5, 0] = value
    elif change == "nulls":
        inputs[:value, 1] = np.nan
    elif change == "label":
        labels[3] = value
    elif change == "dtype":
        inputs = inputs.astype(value)
    elif change == "labels":
        labels = labels.astype(value)
    elif change == "width":
        inputs = inputs[:, :value]
    elif change == "short":
        labels = labels[:-1]
    elif change == "attribute":
        fields = {**fields, "attributes": {"site": np.arange(120)}}
    elif change == "classes":
        fields = {**fields, "classes": tuple(value)}
    elif change == "empty":
        inputs, labels, fields = inputs[:0], labels[:0], {**fields, "attributes": {}}
    return Dataset(**{**fields, "inputs": inputs, "labels": labels})


def test_the_data_itself_fits(tmp_path: Path) -> None:
    assert nulls_after(tmp_path, "nothing", None) == 0
    assert nulls_after(tmp_path, "nulls", 2) == 2, "two of 120 rows are below the rate of 0.02"


def nulls_after(tmp_path: Path, change: str, value: Any) -> int:
    """Runs the step on the changed data. Returns how many null values the parts of 120 rows have."""
    data = {
        **DATA,
        "factory": f"{Path(__file__).stem}:changed",
        "options": {"change": change, "value": value},
    }
    config = {"data": data, "task": "tabular-classification", "input": {**INPUT, "columns": COLUMNS}}
    context = step_context(tmp_path, config)
    run(context)
    parts = [load_part(context.out, part)[0] for part in ("train", "calibration", "held_out")]
    assert sum(map(len, parts)) == 120
    return sum(int(np.isnan(part).sum()) for part in parts)


@pytest.fixture(autouse=True)
def _this_module_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.parametrize(
    ("change", "value", "what"),
    [
        ("dtype", "float64", "float64 .*is declared"),
        ("width", 2, "is declared"),
        ("put", float("inf"), "column 'a' .* not finite, first in row 5 \\(inf\\)"),
        ("put", 20.5, "column 'a' .* above the maximum 20, up to 20.5, first in row 5 \\(20.5\\)"),
        ("put", -21, "column 'a' .* below the minimum -20.*row 5"),
        ("put", float("nan"), "column 'a' .* null .* may have none, first in row 5"),
        ("nulls", 3, "column 'b' .* 0.025 of its values null .* at most 0.02"),
        ("labels", "int32", "not one int64 a row"),
        ("short", None, "not one int64 a row"),
        ("label", 3, "the label 3 of row 3 is outside the 3 classes"),
        ("label", -1, "the label -1 of row 3"),
        ("attribute", None, "attribute 'site'"),
        ("classes", "abb", "one of them twice"),
        ("classes", "abcd", "No held-out row shows the class 'd'"),
        ("empty", None, "no rows"),
    ],
)
def test_data_that_does_not_fit_the_recipe_is_refused(
    tmp_path: Path, change: str, value: Any, what: str
) -> None:
    with pytest.raises(ArtifactError, match=what):
        nulls_after(tmp_path, change, value)


def texts(*given: str) -> Dataset:
    """Texts of two classes in turn."""
    labels = np.arange(len(given), dtype=np.int64) % 2
    return Dataset(np.array(given), labels, ("no", "yes"), "made here", "CC0-1.0")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["ok"] * 19 + ["x" * 41], "text of 41 characters, and at most 40 may be, first in row 19"),
        (["ok", "half \ud83d"] * 10, "not Unicode text, first in row 1"),
    ],
)
def test_texts_that_do_not_fit_are_refused(tmp_path: Path, given: list[str], what: str) -> None:
    from toolchain.importing.contract import check_dataset

    with pytest.raises(ArtifactError, match=what):
        check_dataset(texts(*given), {**TEXT_INPUT, "max_characters": 40}, "text-classification", "here")


def test_words_need_a_label_each(tmp_path: Path) -> None:
    from toolchain.importing.contract import check_dataset

    good = sources.word_kinds()
    assert check_dataset(good, TEXT_INPUT, "token-classification", "here") is good
    for text, what in (("the dog runs home now so far away", "row 0 has 8 words"), ("two  spaces", "single")):
        inputs = good.inputs.astype("<U80")
        inputs[0] = text
        with pytest.raises(ArtifactError, match=what):
            check_dataset(
                Dataset(inputs, good.labels, good.classes, "", ""), TEXT_INPUT, "token-classification", "here"
            )


@pytest.mark.parametrize("documents", [("a", " "), ("a", "\ud800"), (1,)])
def test_documents_must_be_texts(documents: tuple[Any, ...]) -> None:
    from toolchain.importing.contract import check_corpus

    with pytest.raises(ArtifactError, match="document"):
        check_corpus(Corpus(documents, "", ""), "here")


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
