"""Rows and documents from files: what is read, and the one sentence for what is not."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import ArtifactError
from edgeops_testkit.sources import DATA, INPUT, TEXT_INPUT, step_context
from models.dataset import Dataset
from toolchain.handover.arrays import load_attributes, load_part
from toolchain.importing.documents import load_documents
from toolchain.importing.rows import load_rows
from toolchain.steps.data import run

TABLE = "tabular-classification"
TEXT = "text-classification"
WORDS = "token-classification"


def rows(path: Path, task: str, **more: Any) -> Dataset:
    given: dict[str, Any] = {"label": "label", "columns": ("a", "b"), "classes": (), **more}
    return load_rows(path, name=path.name, task=task, source="s", license="l", **given)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_table_has_its_columns_in_the_recipes_order(tmp_path: Path) -> None:
    path = write(
        tmp_path, "t.csv", 'label,b,site,a\r\nok,1.5,"oslo, n",2\r\nbad,,rome,nan\n\nok,-1e3,rome,0\n'
    )
    data = rows(path, TABLE)
    assert np.array_equal(data.inputs, np.array([[2, 1.5], [np.nan, np.nan], [0, -1000]], np.float32), True)
    assert data.classes == ("bad", "ok")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.attributes["site"].tolist() == ["oslo, n", "rome", "rome"]
    assert rows(path, TABLE, classes=("ok", "bad")).labels.tolist() == [0, 1, 0]


@given(
    values=st.lists(
        st.tuples(st.floats(width=32, allow_infinity=False), st.floats(width=32, allow_infinity=False)),
        min_size=1,
        max_size=20,
    )
)
def test_numbers_survive_a_csv(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    text = "a,b,label\n" + "".join(f"{a!r},{b!r},x\n" for a, b in values)
    data = rows(write(tmp_path_factory.mktemp("csv"), "t.csv", text), TABLE)
    assert np.array_equal(data.inputs, np.array(values, np.float32), equal_nan=True)


def test_texts_have_labels_and_attributes(tmp_path: Path) -> None:
    lines = [
        {"text": "so gut", "label": "good", "year": 2020},
        {"text": "ärgerlich", "label": "bad", "year": 2021},
    ]
    path = write(tmp_path, "t.jsonl", "\n".join(json.dumps(line) for line in lines) + "\n")
    data = rows(path, TEXT)
    assert data.inputs.tolist() == ["so gut", "ärgerlich"]
    assert data.labels.tolist() == [1, 0]
    assert data.attributes["year"].tolist() == ["2020", "2021"]


def test_words_have_labels(tmp_path: Path) -> None:
    lines = [{"text": "a dog", "label": ["X", "N"]}, {"text": "home", "label": ["N"]}]
    path = write(tmp_path, "t.jsonl", "\n".join(json.dumps(line) for line in lines))
    data = rows(path, WORDS)
    assert data.classes == ("N", "X")
    assert data.labels.tolist() == [[1, 0], [0, -100]]


def test_arrays_have_classes_and_attributes(tmp_path: Path) -> None:
    inputs = np.arange(12, dtype=np.float32).reshape(4, 3)
    for labels in (np.array([1, 0, 1, 1]), np.array(["y", "x", "y", "y"])):
        np.savez(
            tmp_path / "t.npz",
            inputs=inputs,
            labels=labels,
            classes=np.array(["x", "y"]),
            site=np.array(["o", "r", "o", "r"]),
        )
        data = rows(tmp_path / "t.npz", "image-classification")
        assert np.array_equal(data.inputs, inputs)
        assert data.labels.tolist() == [1, 0, 1, 1]
        assert data.attributes["site"].tolist() == ["o", "r", "o", "r"]


def test_a_file_goes_through_the_step(tmp_path: Path) -> None:
    lines = [f"{i % 7},{i},{'pq'[i % 2]},{'no' if i % 3 else 'yes'}" for i in range(60)]
    path = write(tmp_path, "t.csv", "a,b,site,kind\n" + "\n".join(lines))
    columns = [{"name": name, "minimum": None, "maximum": None, "max_null_rate": 0.0} for name in "ab"]
    config = {
        "data": {**DATA, "file": "deep/t.csv", "label": "kind", "license": "MIT"},
        "task": TABLE,
        "input": {**INPUT, "shape": [2], "columns": columns},
    }
    step = step_context(tmp_path / "step", config, file=path)
    run(step)
    told = json.loads((step.out / "data.json").read_bytes())
    assert told["classes"] == ["no", "yes"]
    assert (told["source"], told["license"]) == ("t.csv", "MIT")
    inputs, _ = load_part(step.out, "held_out")
    assert inputs.shape == (18, 2)
    assert set(load_attributes(step.out, "train")["site"]) == {"p", "q"}


@pytest.mark.parametrize(
    ("name", "content", "task", "what"),
    [
        ("t.csv", "a,a,b,label\n1,1,1,x\n", TABLE, "the column 'a' twice"),
        ("t.csv", "a,label\n1,x\n", TABLE, "no column 'b'"),
        ("t.csv", "a,b\n1,2\n", TABLE, "no column 'label'"),
        ("t.csv", "", TABLE, "no column 'a'"),
        ("t.csv", "a,b,label\n1,2,x\n1,2\n", TABLE, "2 cells in line 3, and its header has 3"),
        ("t.csv", "a,b,label\n1,zwei,x\n", TABLE, "no number in line 2, column 'b': 'zwei'"),
        ("t.csv", "a,b,label\n1,1_000,x\n", TABLE, "no number in line 2, column 'b'"),
        ("t.csv", "a,b,label\n1,inf,x\n", TABLE, "beyond float32 in line 2, column 'b'"),
        ("t.csv", "a,b,label\n1e39,1,x\n", TABLE, "beyond float32 in line 2, column 'a'"),
        ("t.csv", "a,b,label\n1,2,\n", TABLE, "no label in line 2"),
        ("t.csv", b"a,b,label\n1,2,\xff\n", TABLE, "not UTF-8 text \\(byte 14\\)"),
        ("t.csv", 'a,b,label\n1,2,"x\n', TABLE, "no CSV in line"),
        ("t.csv", "a,b,label\n" + "9" * 200_000, TABLE, "no CSV in line 2"),
        ("t.csv", "a,b,label\n1,2,x\n", TEXT, "not a kind of file that text-classification takes"),
        ("t.pkl", b"\x80\x04N.", TABLE, "not a kind of file"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"text": 3, "label": "x"}', TEXT, "no text in line 2"),
        ("t.jsonl", '{"text": "a", "text": "b", "label": "x"}', TEXT, "no JSON in line 1 .*twice"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}', TEXT, "no label in line 2"),
        ("t.jsonl", '{"text": "a", "label": "x", "s": 1}\n{"text": "b", "label": "x"}', TEXT, "'s' in some"),
        ("t.jsonl", '{"text": "a", "label": "x", "s": {}}', TEXT, "no text or whole number in line 1"),
        ("t.jsonl", '["text"]', TEXT, "no JSON object in line 1"),
        ("t.jsonl", "[" * 100_000, TEXT, "no JSON in line 1"),
        ("t.jsonl", '{"text": "a\\u0000", "label": "x"}', TEXT, "ends in NUL"),
        (
            "t.jsonl",
            '{"text": "a", "label": "x"}\n{"text": "b", "label": ["x"]}',
            WORDS,
            "one label in row 0",
        ),
        ("t.npz", b"PK\x03\x04 nothing", "image-classification", "no NumPy archive"),
    ],
)
def test_files_that_are_not_what_they_must_be(
    tmp_path: Path, name: str, content: str | bytes, task: str, what: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(ArtifactError, match=what) as caught:
        rows(path, task)
    assert caught.value.subject == name
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message


def archive(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"inputs": np.zeros((2, 2), np.float32), "classes": np.array(["x"]), **arrays})
    return path


def test_archives_that_are_not_what_they_must_be(tmp_path: Path) -> None:
    labels = np.zeros(2, np.int64)
    cases = {
        "no array 'labels'": archive(tmp_path / "a.npz"),
        "Python objects in 'labels.npy'": archive(tmp_path / "b.npz", labels=np.array([{}, {}])),
        "not a list of texts": archive(tmp_path / "c.npz", labels=labels, classes=np.array([1])),
        "'site' that is not one text": archive(tmp_path / "d.npz", labels=labels, site=np.array(["o"])),
        "which is none of the classes": archive(tmp_path / "e.npz", labels=np.array(["x", "z"])),
    }
    for what, path in cases.items():
        with pytest.raises(ArtifactError, match=what):
            rows(path, "image-classification")


def test_a_small_archive_may_not_unpack_to_any_size(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 2)}
    )
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as file:
        file.writestr("inputs.npy", header.getvalue())
    with pytest.raises(ArtifactError, match="unpacks to more than"):
        rows(tmp_path / "t.npz", "image-classification")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("wb") as file:
        file.truncate(3 << 30)  # sparse: it takes no room
    with pytest.raises(ArtifactError, match="is the most"):
        rows(tmp_path / "t.csv", TABLE)


def documents(path: Path) -> tuple[str, ...]:
    return load_documents(path, name=path.name, source="s", license="l").documents


def test_documents_are_lines_of_json_or_parted_by_empty_lines(tmp_path: Path) -> None:
    lines = '{"text": "one\\n\\ntwo"}\n{"text": "three"}\n'
    assert documents(write(tmp_path, "d.jsonl", lines)) == ("one\n\ntwo", "three")
    text = "\none\nmore\r\n \r\ntwo\n\n\nthree\n"
    assert documents(write(tmp_path, "d.txt", text)) == ("one\nmore", "two", "three")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("d.jsonl", '{"txt": "a"}', "no text in line 1"),
        ("d.txt", b"\xff\xfe", "not UTF-8"),
        ("d.md", "a", "not a kind of file"),
    ],
)
def test_documents_that_are_not(tmp_path: Path, name: str, content: str | bytes, what: str) -> None:
    with pytest.raises(ArtifactError, match=what):
        documents(write(tmp_path, name, content))


def test_too_few_documents_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "d.txt", "one\n\ntwo")
    config = {"data": {**DATA, "file": "d.txt"}, "task": "text-generation", "input": TEXT_INPUT}
    with pytest.raises(ArtifactError, match=r"The 2 rows of d\.txt leave none"):
        run(step_context(tmp_path / "step", config, file=path))
