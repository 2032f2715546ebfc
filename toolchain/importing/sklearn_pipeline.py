"""scikit-learn pipelines: fitted here, or read from a file of skops' format, which holds no pickle.

https://skops.readthedocs.io/en/stable/persistence.html
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError, ConfigError
from toolchain.handover.arrays import Array
from toolchain.handover.context import load_factory
from toolchain.importing.contract import check_classes
from toolchain.importing.pickles import refuse_pickle

MODEL_FILE = "model.skops"
SCHEMA_FILE = "schema.json"
MAX_UNPACKED_BYTES = 2 << 30
MAX_MEMBERS = 200_000
_NO_PICKLES = "Save the pipeline by skops.io.dump; pickles and joblib files are refused."


def fit_pipeline(model: Mapping[str, Any], inputs: Array, labels: Array) -> Any:
    """The estimator that `factory` and `options` of `model` describe, fitted on rows of shape (rows, columns)
    and class numbers, in one thread. What has no `random_state` of its own draws from NumPy's, seeded.

    Raises `ConfigError` when the factory returns no classifier.
    """
    from threadpoolctl import threadpool_limits

    estimator = load_factory(model["factory"])(**model["options"])
    if not hasattr(estimator, "fit") or not hasattr(estimator, "predict_proba"):
        raise ConfigError(
            f"{model['factory']} returns no scikit-learn classifier with fit and predict_proba.",
            remedy="Return a pipeline that ends in a classifier that gives probabilities.",
            subject=model["factory"],
        )
    np.random.seed(0)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(inputs, labels)


def load_pipeline(path: Path, name: str, *, trusted: Sequence[str] | None) -> Any:
    """The estimator in the skops file at `path`, which errors call `name`. Only types that skops trusts, and
    `trusted` ones, are made; None: all that the file names, for files that this build made itself.

    Raises `ArtifactError` (subject: `name`) naming the types that are not trusted, or why it is no such file.
    """
    import skops.io

    refuse_pickle(path, name, _NO_PICKLES, archives=not zipfile.is_zipfile(path))
    _check_archive(path, name)
    try:
        unknown = skops.io.get_untrusted_types(file=path)
        wrong = sorted(set(unknown) - set(unknown if trusted is None else trusted))
        if wrong:
            raise ArtifactError(
                f"{name} holds types that the recipe does not trust: {', '.join(wrong)}.",
                remedy="Look at each; name those that may be loaded in the model's trusted_types.",
                subject=name,
                details={"types": wrong},
            )
        estimator = skops.io.load(path, trusted=unknown)
    except ArtifactError:
        raise
    except Exception as error:  # skops lets through whatever the types in the file raise
        # It runs their constructors and `__setstate__` on what the file holds, and a type that the recipe
        # trusts may be anyone's.
        raise ArtifactError(
            f"{name} cannot be read by skops ({one_line(error)}).",
            remedy="Save the pipeline again with the installed versions of scikit-learn and skops.",
            subject=name,
        ) from error
    if not hasattr(estimator, "predict_proba"):
        raise ArtifactError(
            f"{name} holds a {type(estimator).__name__}, which gives no probabilities.",
            remedy="Save a fitted pipeline that ends in a classifier with predict_proba.",
            subject=name,
        )
    return estimator


def trusted_types(model: Mapping[str, Any]) -> Sequence[str] | None:
    """What `load_pipeline` may make of the model that the import step left: of a file from outside only what
    the recipe trusts, of a pipeline that was fitted here everything."""
    return None if model["file"] is None else model["trusted_types"]


def save_pipeline(estimator: Any, path: Path) -> None:
    """Writes a skops file. skops names an archive's members by addresses in memory and dates them; here they
    are counted, so that equal pipelines are equal bytes."""
    import skops.io

    buffer = io.BytesIO()
    skops.io.dump(estimator, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        numbers: dict[str, int] = {}

        def numbered(match: re.Match[str]) -> str:
            number = numbers.setdefault(match[2], len(numbers) + 1)
            return f"{match[1]}{number}{match[3]}"

        schema = json.dumps(json.loads(source.read(SCHEMA_FILE)), indent=0)
        schema = re.sub(r'("__id__": )(\d+)()', numbered, schema)
        schema = re.sub(r'("file": ")(\d+)(\.\w+")', numbered, schema)
        members = {}
        for member in source.namelist():
            if member != SCHEMA_FILE:
                stem, dot, suffix = member.partition(".")
                members[f"{numbers[stem]:08d}{dot}{suffix}"] = (f"{numbers[stem]}{dot}{suffix}", member)
        _write(target, SCHEMA_FILE, schema.encode())
        for _, (name, member) in sorted(members.items()):
            _write(target, name, source.read(member))


def check_estimator(estimator: Any, inputs: Array, classes: Sequence[str], name: str) -> None:
    """Whether the estimator takes such rows and has these classes, as numbers from 0 or by their names, in
    order. Raises `ArtifactError`."""
    try:
        probabilities = answer_rows(estimator, inputs)
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{name} cannot take rows of the data ({one_line(error)}).",
            remedy="Bring a pipeline that is fitted to the recipe's input.",
            subject=name,
        ) from error
    own = [one.item() if isinstance(one, np.generic) else one for one in getattr(estimator, "classes_", [])]
    if own != list(range(len(classes))):
        check_classes([str(one) for one in own], classes, name)
    if probabilities.shape != (len(inputs), len(classes)) or not np.all(np.isfinite(probabilities)):
        raise ArtifactError(
            f"{name} gives {probabilities.shape} for {len(inputs)} rows, not one finite probability a class.",
            remedy="Bring a classifier that gives one probability for each class.",
            subject=name,
        )


def answer_rows(estimator: Any, inputs: Array) -> Array:
    """`predict_proba` of rows, float32 of shape (rows, classes)."""
    return np.asarray(estimator.predict_proba(inputs)).astype(np.float32)


def parameter_count(estimator: Any) -> int:
    """How many numbers the steps of an estimator learned: elements of all arrays of floats that its fitted
    attributes (whose names end in an underscore) hold, and the nodes of trees."""
    seen: set[int] = set()

    def count(value: Any) -> int:
        if id(value) in seen:
            return 0
        seen.add(id(value))
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return int(value.size)
        if isinstance(value, list | tuple | np.ndarray):
            return (
                sum(count(item) for item in value)
                if not isinstance(value, np.ndarray) or value.dtype == object
                else 0
            )
        if hasattr(value, "node_count") and hasattr(value, "threshold"):  # sklearn.tree._tree.Tree
            return int(value.node_count)
        if hasattr(value, "get_params"):
            parts = [part for key, part in vars(value).items() if key.endswith("_")]
            return sum(map(count, [*parts, *(step for _, step in getattr(value, "steps", ()))]))
        return 0

    return count(estimator)


def _check_archive(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArtifactError(
            f"{name} is no skops file ({error}).", remedy=_NO_PICKLES, subject=name
        ) from error
    if all(entry.filename != SCHEMA_FILE for entry in entries):
        raise ArtifactError(f"{name} is no skops file (no {SCHEMA_FILE}).", remedy=_NO_PICKLES, subject=name)
    if len(entries) > MAX_MEMBERS or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
        raise ArtifactError(
            f"{name} unpacks to more than {MAX_UNPACKED_BYTES} bytes or {MAX_MEMBERS} files.",
            remedy="Bring a smaller pipeline.",
            subject=name,
        )


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)
