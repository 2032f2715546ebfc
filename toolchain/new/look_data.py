"""What a data file's rows look like, for the recipe's `data` and `input`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeops.errors import ConfigError
from toolchain.handover.arrays import Array
from toolchain.importing.documents import load_documents
from toolchain.importing.rows import bad_file, load_rows, read_text
from toolchain.recipe.base import Task

# Texts may be this much longer than the longest that the data has.
_ROOM = 2


@dataclass(frozen=True)
class DataFound:
    """What the recipe can say of the data: `input` fields of its rows, and how many `rows` there are.
    `classes` are those of the labels, in the order in which the file's reader numbers them."""

    rows: int
    input: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


def look_at_data(path: Path, task: Task, label: str) -> DataFound:
    """Reads the file. Raises `ConfigError` if it has no such label, and `ArtifactError` if it is not what the
    task takes."""
    terms = {"name": path.name, "source": "", "license": ""}
    if task == "text-generation":
        return DataFound(rows=len(load_documents(path, **terms).documents))
    columns = _columns(path, label) if path.suffix.lower() == ".csv" else ()
    data = load_rows(path, task=task, label=label, columns=columns, classes=(), **terms)
    if data.inputs.dtype.kind == "U":
        longest = max((len(text) for text in data.inputs.tolist()), default=1)
        found = {"dtype": "BYTES", "max_characters": max(longest, 1) * _ROOM}
    else:
        found = {"shape": list(data.inputs.shape[1:]), **_bounds(data.inputs)}
    if columns:
        parts = [data.inputs[:, i] for i in range(len(columns))]
        found = {
            "shape": [len(columns)],
            "columns": [_column(name, part) for name, part in zip(columns, parts, strict=True)],
        }
    return DataFound(rows=len(data.inputs), input=found, classes=data.classes)


def _columns(path: Path, label: str) -> tuple[str, ...]:
    """The columns that hold nothing but numbers, the label aside."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, path.name), newline=""), strict=True))
    except csv.Error as error:
        raise bad_file(path.name, f"is no CSV ({error})") from error
    header, cells = (rows[0], [row for row in rows[1:] if row]) if rows else ([], [])
    if label not in header:
        raise ConfigError(
            f"{path.name} has no column {label!r}; it has {', '.join(header)}.",
            remedy="Name the column of the labels with --label.",
            subject=label,
        )
    return tuple(
        name
        for i, name in enumerate(header)
        if name != label and all(_is_number(row[i]) for row in cells if i < len(row))
    )


def _is_number(cell: str) -> bool:
    if not cell.strip():
        return True
    try:
        float(cell.replace("_", "x"))  # Python's own spelling of numbers, and nobody else's
    except ValueError:
        return False
    return True


def _column(name: str, values: Array) -> dict[str, Any]:
    nulls = float(np.isnan(values).mean())
    rate = {"max_null_rate": min(1.0, math.ceil(nulls * 100) / 100)} if nulls else {}
    return {"name": name, **_bounds(values), **rate}


def _bounds(values: Array) -> dict[str, float | int]:
    """The least and the largest value, rounded outward to two digits; nothing if they are equal."""
    known = values[np.isfinite(values)]
    if not known.size:
        return {}
    low, high = _outward(float(known.min()), math.floor), _outward(float(known.max()), math.ceil)
    return {"minimum": low, "maximum": high} if low < high else {}


def _outward(value: float, rounded: Any) -> float | int:
    if value == 0:
        return 0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    result = float(f"{rounded(value / step) * step:.6g}")
    return int(result) if result.is_integer() and abs(result) < 1e15 else result


def with_names(columns: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The columns in the order of `names`. Raises `ConfigError` if the data lacks one."""
    by_name = {column["name"]: column for column in columns}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ConfigError(
            f"The model takes the column {missing[0]!r}, and the data has no such column of numbers.",
            remedy="Bring data with the model's columns.",
            subject=missing[0],
        )
    return [by_name[name] for name in names]
