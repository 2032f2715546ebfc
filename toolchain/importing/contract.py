"""The data contract held against a whole data set, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeops.contract import Breach, check_data
from edgeops.errors import ArtifactError, BadRequestError
from edgeops.manifest import ColumnSpec, TensorSpec
from models.dataset import Corpus, Dataset
from toolchain.handover.arrays import Array

NO_LABEL = -100


def input_spec(contract: Mapping[str, Any]) -> TensorSpec:
    """The manifest's tensor from a recipe's `input` (plain values): one row more in front of its shape."""
    return TensorSpec(
        name=contract["name"],
        dtype=contract["dtype"],
        shape=(-1, *contract["shape"]),
        minimum=contract["minimum"],
        maximum=contract["maximum"],
        outside=contract["outside"],
        columns=tuple(msgspec.convert(column, ColumnSpec) for column in contract["columns"]),
        max_characters=contract["max_characters"],
    )


def check_dataset(data: object, contract: Mapping[str, Any], task: str, origin: str) -> Dataset:
    """`data`, if it is a `Dataset` that fits the recipe's `input` and `task`. `origin` names its factory or
    file in errors.

    Raises `ArtifactError` (subject: `origin`) that names row, column, value and bound of the first breach;
    `details["breaches"]` has all of them.
    """
    if not isinstance(data, Dataset):
        raise unfit(origin, f"it is no models.dataset.Dataset but a {type(data).__name__}")
    spec = input_spec(contract)
    inputs = data.inputs
    if spec.dtype == "BYTES":
        if inputs.dtype.kind != "U" or inputs.ndim != 1:
            raise unfit(origin, f"inputs are {inputs.dtype} of shape {inputs.shape}, not one text a row")
        inputs = inputs.astype(object)
    elif inputs.dtype != np.float32 or inputs.shape[1:] != spec.shape[1:]:
        declared = f"float32 {tuple(spec.shape[1:])} is declared"
        raise unfit(origin, f"a row is {inputs.dtype} {inputs.shape[1:]}, and {declared}")
    if len(inputs) == 0:
        raise unfit(origin, "it has no rows")
    try:
        breaches = check_data({spec.name: inputs}, (spec,))
    except BadRequestError as error:
        raise unfit(origin, error.message.rstrip(".")) from error
    if breaches:
        first = breaches[0]
        where = _row(first, inputs, spec)
        raise unfit(
            origin,
            str(first) + (f", first in row {where[0]} ({where[1]})" if where is not None else ""),
            details={"breaches": [msgspec.to_builtins(breach) for breach in breaches]},
        )
    _check_labels(data, task, origin)
    _check_attributes(data, origin)
    return data


def check_corpus(data: object, origin: str) -> Corpus:
    """`data`, if it is a `Corpus` of texts that are not empty and have a UTF-8 form."""
    if not isinstance(data, Corpus):
        raise unfit(origin, f"it is no models.dataset.Corpus but a {type(data).__name__}")
    for number, document in enumerate(data.documents):
        if not isinstance(document, str) or not document.strip():
            raise unfit(origin, f"document {number} is empty, or no text")
        try:
            document.encode()
        except UnicodeEncodeError as error:
            raise unfit(origin, f"document {number} is not Unicode text ({error.reason})") from error
    return data


def check_held_out(data: Dataset, held_out: Array, task: str) -> None:
    """Whether the held-out labels can say something of every class. Raises `ArtifactError` naming the one
    that no row shows; for feature extraction, if no two rows belong together."""
    present, counts = np.unique(held_out[held_out != NO_LABEL], return_counts=True)
    if task == "feature-extraction":
        if not np.any(counts > 1):
            raise _too_few("No two held-out rows belong together, so nothing can be said of the vectors.")
        return
    missing = sorted(set(range(len(data.classes))) - set(present.tolist()))
    if missing:
        name = data.classes[missing[0]]
        raise _too_few(
            f"No held-out row shows the class {name!r}, so nothing can be said of it.", subject=name
        )


def unfit(origin: str, what: str, *, details: Mapping[str, object] | None = None) -> ArtifactError:
    """The error that the data of `origin` is not what the recipe says."""
    return ArtifactError(
        f"The data of {origin} does not fit the recipe: {what}.",
        remedy="Correct the recipe's input, or the data.",
        subject=origin,
        details=details,
    )


def _too_few(what: str, *, subject: str | None = None) -> ArtifactError:
    return ArtifactError(what, remedy="Hold out more rows, or bring more data.", subject=subject)


def _row(breach: Breach, inputs: Array, spec: TensorSpec) -> tuple[int, str] | None:
    """The first row (from 0) with such a breach, and the value there. A rate has none."""
    if breach.rule == "null_rate":
        return None
    for number, row in enumerate(inputs):
        values = [row] if spec.dtype == "BYTES" else np.ravel(row)
        if breach.column is not None:
            position = [column.name for column in spec.columns].index(breach.column)
            values = np.reshape(values, (-1, len(spec.columns)))[:, position]
        for value in values:
            if _breaks(value, breach):
                return number, f"{len(value)} characters" if isinstance(value, str) else f"{value:.9g}"
    return None


def _breaks(value: Any, breach: Breach) -> bool:
    match breach.rule:
        case "finite":
            return not np.isfinite(value)
        case "null":
            return bool(np.isnan(value))
        case "minimum":
            return breach.bound is not None and bool(value < breach.bound)
        case "maximum":
            return breach.bound is not None and bool(value > breach.bound)
        case "max_characters":
            return breach.bound is not None and len(value) > breach.bound
    return any("\ud800" <= character <= "\udfff" for character in value)


def _check_labels(data: Dataset, task: str, origin: str) -> None:
    labels, rows = data.labels, len(data.inputs)
    if len(set(data.classes)) != len(data.classes) or not data.classes:
        raise unfit(origin, "it has no classes, or one of them twice")
    if task == "token-classification":
        if labels.dtype != np.int64 or labels.ndim != 2 or len(labels) != rows:
            raise unfit(origin, "labels are not int64 of shape (rows, words)")
        _check_words(data, origin)
    elif labels.dtype != np.int64 or labels.shape != (rows,):
        raise unfit(origin, "labels are not one int64 a row")
    used = labels[labels != NO_LABEL] if task == "token-classification" else labels
    wrong = (used < 0) | (used >= len(data.classes))
    if np.any(wrong):
        value = used[wrong][0]
        row = int(np.argwhere(labels == value)[0][0])
        raise unfit(origin, f"the label {value} of row {row} is outside the {len(data.classes)} classes")


def _check_words(data: Dataset, origin: str) -> None:
    for row, (text, labels) in enumerate(zip(data.inputs, data.labels, strict=True)):
        if text.split(" ") != text.split():
            raise unfit(origin, f"the words of row {row} are not parted by single spaces")
        words, labelled = len(text.split(" ")), int(np.sum(labels != NO_LABEL))
        if labelled != words or np.any(labels[:words] == NO_LABEL):
            raise unfit(origin, f"row {row} has {words} words and {labelled} labels")


def _check_attributes(data: Dataset, origin: str) -> None:
    for name, values in data.attributes.items():
        if values.dtype.kind != "U" or values.shape != (len(data.inputs),):
            raise unfit(origin, f"the attribute {name!r} is not one text a row")


def check_classes(names: Sequence[str], classes: Sequence[str], origin: str) -> None:
    """Whether a model's own classes are the data's, in the same order. Raises `ArtifactError` with both."""
    if list(names) != list(classes):
        raise ArtifactError(
            f"The model {origin} has the classes {_listed(names)}, and the data has {_listed(classes)}.",
            remedy="Bring data with the model's classes in the model's order (data.classes of the recipe).",
            subject=origin,
            details={"model": list(names), "data": list(classes)},
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return f"[{shown}{', …' if len(names) > 12 else ''}]"
