"""Labelled rows from a file: `.npz`, `.csv` (tabular) or `.jsonl` (text). Files come from anywhere, so each
is held against bounds before its content is, and no pickle is ever read."""

from __future__ import annotations

import csv
import io
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from edgeops.canonical import strict_json
from edgeops.errors import ArtifactError
from models.dataset import Dataset
from toolchain.handover.arrays import Array
from toolchain.importing.contract import NO_LABEL

MAX_FILE_BYTES = 2 << 30
MAX_ARRAY_BYTES = 4 << 30
MAX_MEMBERS = 256
TEXT_KEY = "text"

# What reading a damaged archive raises: zipfile (RuntimeError for one that wants a password), its
# decompressors, whose errors have no common base, and numpy.lib.format.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
# What an array's header raises, which NumPy reads as a Python literal: the literal itself (TypeError for a
# key that cannot be one, MemoryError for one that is nested too deeply), the tokenizer by which NumPy cleans
# what Python 2 wrote, and the making of a dtype.
_HEADER_ERRORS = (
    ValueError,
    TypeError,
    IndexError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    MemoryError,
)


def load_rows(
    path: Path,
    *,
    name: str,
    task: str,
    label: str,
    columns: Sequence[str],
    classes: Sequence[str],
    source: str,
    license: str,
) -> Dataset:
    """The rows in the file at `path`, which errors call `name`.

    `.npz`: arrays `inputs`, `labels` (int64, or texts), `classes`; any other array is an attribute.
    `.csv`: a header; `columns` in their order are the input (empty: null), `label` the label, the others
    attributes. `.jsonl`: `text`, `label` (for token classification a list, one for each word), the others
    attributes. Classes are `classes`, or if there are none the file's own: for `.npz` its array, else the
    labels in the order of their code points.

    Raises `ArtifactError` (subject: `name`), naming row and column where it can.
    """
    check_size(path, name)
    suffix = Path(name).suffix.lower()
    if suffix == ".npz":
        inputs, labels, attributes, own = _from_npz(path, name)
        classes = tuple(classes) or own
    elif suffix == ".csv" and task == "tabular-classification":
        inputs, labels, attributes = _from_csv(path, name, label, columns)
    elif suffix == ".jsonl" and task in ("text-classification", "token-classification", "feature-extraction"):
        inputs, labels, attributes = _from_jsonl(path, name, label)
    else:
        raise bad_file(
            name, f"is not a kind of file that {task} takes (.npz; .csv for tables, .jsonl for text)"
        )
    if isinstance(labels, list):
        classes = tuple(classes) or tuple(sorted({one for row in labels for one in _each(row)}))
        labels = _indices(labels, classes, name)
    return Dataset(
        inputs=inputs,
        labels=labels,
        classes=tuple(classes),
        source=source,
        license=license,
        attributes={key: text_array(values, name) for key, values in sorted(attributes.items())},
    )


def text_array(texts: Sequence[str], name: str) -> Array:
    """Texts as `<U…`, which spends four bytes on each character of the longest for every row."""
    longest = max(map(len, texts), default=1)
    if 4 * longest * len(texts) > MAX_ARRAY_BYTES:
        raise bad_file(
            name, f"has {len(texts)} texts and one of {longest} characters: too many for one array"
        )
    array = np.array(texts, dtype=f"<U{max(longest, 1)}")
    if array.tolist() != list(texts):  # NumPy drops NUL characters from an end
        raise bad_file(name, "has a text that ends in NUL characters")
    return array


def read_text(path: Path, name: str) -> str:
    """A UTF-8 file. Raises `ArtifactError` naming the byte that is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_file(name, f"is not UTF-8 text (byte {error.start})") from error


def json_lines(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers (from 1). Empty lines are passed over."""
    for number, line in enumerate(read_text(path, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = strict_json(line.encode())
        except ValueError as error:
            raise bad_file(name, f"has no JSON in line {number} ({error})") from error
        if not isinstance(value, dict):
            raise bad_file(name, f"has no JSON object in line {number}")
        yield number, value


def check_size(path: Path, name: str) -> None:
    """Whether the file is a plain one of a size that can be read whole."""
    if not path.is_file():
        raise bad_file(name, "is no file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise bad_file(name, f"has {path.stat().st_size} bytes, and {MAX_FILE_BYTES} is the most")


def bad_file(name: str, what: str) -> ArtifactError:
    """The error that a data file is not what it must be."""
    return ArtifactError(
        f"The data file {name} {what}.", remedy="Correct the file (docs/recipe.md, data).", subject=name
    )


def _from_npz(
    path: Path, name: str
) -> tuple[Array, Array | list[Any], dict[str, list[str]], tuple[str, ...]]:
    arrays = _read_npz(path, name)
    for required in ("inputs", "labels", "classes"):
        if required not in arrays:
            raise bad_file(name, f"has no array {required!r}")
    classes = arrays.pop("classes")
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise bad_file(name, "has classes that are not a list of texts")
    inputs, labels = arrays.pop("inputs"), arrays.pop("labels")
    attributes: dict[str, list[str]] = {}
    for key, values in arrays.items():
        if values.dtype.kind not in "Uiub" or values.shape != inputs.shape[:1]:
            raise bad_file(name, f"has an array {key!r} that is not one text or whole number a row")
        attributes[key] = [str(value) for value in values.tolist()]
    if labels.dtype.kind == "U" and labels.ndim == 1:
        return inputs, labels.tolist(), attributes, tuple(classes.tolist())
    return inputs, labels, attributes, tuple(classes.tolist())


def _read_npz(path: Path, name: str) -> dict[str, Array]:
    """The arrays, after their headers were held against bounds: a small archive can unpack to any size."""
    arrays: dict[str, Array] = {}
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if len(members) > MAX_MEMBERS or len(set(members)) != len(members):
                raise bad_file(name, f"has more than {MAX_MEMBERS} arrays, or one twice")
            for member in members:
                with archive.open(member) as file:
                    shape, dtype = _array_header(file, name, member)
                if dtype.hasobject:
                    raise bad_file(name, f"has Python objects in {member!r}, which only a pickle can hold")
                total += math.prod(shape) * dtype.itemsize
                if total > MAX_ARRAY_BYTES:
                    raise bad_file(name, f"unpacks to more than {MAX_ARRAY_BYTES} bytes")
                with archive.open(member) as file:
                    arrays[member.removesuffix(".npy")] = npy_format.read_array(file, allow_pickle=False)
    except _ARCHIVE_ERRORS as error:
        raise bad_file(name, f"is no NumPy archive ({' '.join(str(error).split())[:200]})") from error
    return arrays


def _array_header(file: IO[bytes], name: str, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array that begins here; sizes are whole numbers from 0."""
    reader = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }.get(npy_format.read_magic(file))
    if reader is None:
        raise bad_file(name, f"has an array {member!r} in an unknown version of the format")
    try:
        shape, _, dtype = reader(file)
    except _HEADER_ERRORS as error:
        raise bad_file(name, f"has an array {member!r} with a damaged header") from error
    # NumPy takes True for a size, and any negative number.
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise bad_file(name, f"has an array {member!r} of the shape {str(shape)[:100]}")
    return shape, dtype


def _from_csv(
    path: Path, name: str, label: str, columns: Sequence[str]
) -> tuple[Array, list[str], dict[str, list[str]]]:
    rows = _csv_rows(path, name)
    _, header = next(rows, (1, []))
    doubled = {column for column in header if header.count(column) > 1}
    if doubled:
        raise bad_file(name, f"has the column {min(doubled)!r} twice")
    missing = [column for column in (*columns, label) if column not in header]
    if missing or not columns:
        raise bad_file(
            name, f"has no column {missing[0]!r}" if missing else "needs input.columns in the recipe"
        )
    positions = [header.index(column) for column in columns]
    labels: list[str] = []
    values: list[list[float]] = []
    attributes: dict[str, list[str]] = {c: [] for c in header if c not in columns and c != label}
    for line, row in rows:
        if len(row) != len(header):
            raise bad_file(name, f"has {len(row)} cells in line {line}, and its header has {len(header)}")
        values.append([_number(row[p], name, line, header[p]) for p in positions])
        labels.append(row[header.index(label)])
        if not labels[-1]:
            raise bad_file(name, f"has no label in line {line}")
        for column, cells in attributes.items():
            cells.append(row[header.index(column)])
    with np.errstate(over="ignore"):
        return np.array(values, np.float32).reshape(len(values), len(columns)), labels, attributes


def _csv_rows(path: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(read_text(path, name), newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise bad_file(name, f"is no CSV in line {reader.line_num} ({error})") from error


def _number(cell: str, name: str, line: int, column: str) -> float:
    text = cell.strip()
    if not text or text.lower() == "nan":
        return math.nan
    try:
        if "_" in text:  # Python's own spelling of numbers, and nobody else's
            raise ValueError
        value = float(text)
    except ValueError:
        raise bad_file(name, f"has no number in line {line}, column {column!r}: {text[:40]!r}") from None
    if not math.isfinite(value) or abs(value) > float(np.finfo(np.float32).max):
        raise bad_file(name, f"has a number beyond float32 in line {line}, column {column!r}: {text[:40]!r}")
    return value


def _from_jsonl(path: Path, name: str, label: str) -> tuple[Array, list[Any], dict[str, list[str]]]:
    texts: list[str] = []
    labels: list[Any] = []
    attributes: dict[str, list[str]] = {}
    for line, value in json_lines(path, name):
        text, own = value.pop(TEXT_KEY, None), value.pop(label, None)
        if not isinstance(text, str):
            raise bad_file(name, f"has no text in line {line}, field {TEXT_KEY!r}")
        one = isinstance(own, str) and own
        if not one and not (isinstance(own, list) and own and all(isinstance(o, str) and o for o in own)):
            raise bad_file(name, f"has no label in line {line}, field {label!r}")
        if texts and value.keys() != attributes.keys():
            odd = min(value.keys() ^ attributes.keys())
            raise bad_file(name, f"has the field {odd!r} in some lines only, or not in line {line}")
        for key, attribute in value.items():
            if not isinstance(attribute, str | int):
                raise bad_file(name, f"has no text or whole number in line {line}, field {key!r}")
            attributes.setdefault(key, []).append(str(attribute))
        texts.append(text)
        labels.append(own)
    return text_array(texts, name), labels, attributes


def _each(label: str | list[str]) -> list[str]:
    return label if isinstance(label, list) else [label]


def _indices(labels: Sequence[str | list[str]], classes: Sequence[str], name: str) -> Array:
    """Class numbers: (rows,), or (rows, words) with -100 past a row's end if the labels are lists."""
    numbers: Mapping[str, int] = {one: number for number, one in enumerate(classes)}
    lists = [isinstance(label, list) for label in labels]
    if any(lists) and not all(lists):
        raise bad_file(name, f"has one label in row {lists.index(False)}, and a list of them in others")
    width = max((len(_each(label)) for label in labels), default=0)
    if width * len(labels) * 8 > MAX_ARRAY_BYTES:
        raise bad_file(name, f"has {len(labels)} rows and one of {width} labels: too many for one array")
    result = np.full((len(labels), width), NO_LABEL, np.int64)
    for row, label in enumerate(labels):
        for position, one in enumerate(_each(label)):
            if one not in numbers:
                raise bad_file(name, f"has the label {one!r} in row {row}, which is none of the classes")
            result[row, position] = numbers[one]
    return result if any(lists) else result[:, 0] if labels else np.zeros(0, np.int64)
