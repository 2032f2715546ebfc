"""The rules that a manifest's fields keep beyond their types."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import get_args

from edgeops.errors import ArtifactError
from edgeops.manifest_fields import TEXT_FEATURES, Dtype, ManifestFields, TensorSpec
from edgeops.names import is_digest, is_name, is_version

SCHEMA_VERSION = "1.0"
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "model.sig"
MEASUREMENTS_FILE = "measurements.json"
REVISION_FILE = "provenance/revision.json"
# Signed, and no part of the identity: what is true of one build only, not of every build of the same inputs.
# A manifest does not list them.
OUTSIDE_IDENTITY = (MEASUREMENTS_FILE, REVISION_FILE)
MAX_MANIFEST_BYTES = 4 << 20


def check_fields(fields: ManifestFields) -> None:
    """Raises `ArtifactError` that names what breaks a rule."""
    if not is_name(fields.name):
        raise bad_manifest(f"has the name {fields.name!r}, which is not a valid one")
    if not is_version(fields.version):
        raise bad_manifest(f"has the version {fields.version!r}, which is not a semantic one")
    if not fields.variants:
        raise bad_manifest("has no variants")
    _unique("variant", (variant.id for variant in fields.variants))
    entries = [entry for variant in fields.variants for entry in variant.files] + list(fields.files)
    _unique("file", (entry.path for entry in entries))
    for entry in entries:
        if not is_safe_path(entry.path) or entry.path in (MANIFEST_FILE, SIGNATURE_FILE, *OUTSIDE_IDENTITY):
            raise bad_manifest(f"names a file {entry.path!r}, which a bundle may not hold")
        if not is_digest(entry.sha256) or entry.size_bytes < 0:
            raise bad_manifest(f"has no valid digest and size for {entry.path!r}")
    for variant in fields.variants:
        if not is_name(variant.id) or not variant.files:
            raise bad_manifest(f"has an unusable variant {variant.id!r}")
    _check_references(fields, {entry.path for entry in fields.files})


def _check_references(fields: ManifestFields, others: set[str]) -> None:
    inputs = {spec.name: spec for spec in fields.inputs}
    outputs = {spec.name for spec in fields.outputs}
    for spec in (*fields.inputs, *fields.outputs):
        _check_tensor(spec)
    _unique("feature", (feature.name for feature in fields.features))
    for feature in fields.features:
        if feature.input not in inputs:
            raise bad_manifest(f"has a feature on the unknown input {feature.input!r}")
        dtype = inputs[feature.input].dtype
        if (dtype == "BYTES") != (feature.kind in TEXT_FEATURES):
            raise bad_manifest(
                f"has the feature {feature.name!r} ({feature.kind}), which {dtype} does not have"
            )
    if fields.classification is not None and fields.classification.output not in outputs:
        raise bad_manifest(f"classifies by the unknown output {fields.classification.output!r}")
    if fields.fallback is not None:
        if not 0 <= fields.fallback.confidence_threshold <= 1:
            raise bad_manifest("has a confidence threshold outside [0, 1]")
        temperature = fields.fallback.temperature
        if not (math.isfinite(temperature) and temperature > 0):
            raise bad_manifest(f"has the temperature {temperature:g}, which is not above 0")
        if fields.fallback.variant not in {v.id for v in fields.variants if v.target == "cloud"}:
            raise bad_manifest(
                f"falls back to {fields.fallback.variant!r}, which is not one of its cloud variants"
            )
    language = fields.language
    if language is not None and language.context_tokens < 1:
        raise bad_manifest("has a language model with no room for a token")
    for path in (
        fields.selftest.path if fields.selftest else None,
        fields.reference_profile,
        language.chat_template if language else None,
        language.system_prompt if language else None,
    ):
        if path is not None and path not in others:
            raise bad_manifest(f"refers to {path!r}, which is not among its files")


def _check_tensor(spec: TensorSpec) -> None:
    """The tensor's data contract says something, and nothing that contradicts itself."""
    name = f"the tensor {spec.name!r}"
    if spec.dtype not in get_args(Dtype):
        raise bad_manifest(f"gives {name} the unknown dtype {spec.dtype!r}")
    if spec.dtype == "BYTES":
        if spec.columns or (spec.minimum, spec.maximum) != (None, None):
            raise bad_manifest(f"bounds the values of {name}, which are text")
        if spec.max_characters is not None and spec.max_characters < 1:
            raise bad_manifest(f"allows {name} no character")
        return
    if spec.max_characters is not None:
        raise bad_manifest(f"bounds the characters of {name}, which is not text")
    _check_bounds(name, spec.minimum, spec.maximum)
    if spec.columns and spec.shape[1:][-1:] != (len(spec.columns),):
        raise bad_manifest(f"names {len(spec.columns)} columns of {name}, whose shape is {list(spec.shape)}")
    _unique("column", (column.name for column in spec.columns))
    for column in spec.columns:
        what = f"column {column.name!r} of {name}"
        _check_bounds(what, column.minimum, column.maximum)
        if not 0 <= column.max_null_rate <= 1:
            raise bad_manifest(f"has a null rate outside [0, 1] for {what}")
        if column.max_null_rate > 0 and not spec.dtype.startswith("FP"):
            raise bad_manifest(f"allows nulls in {what}, and {spec.dtype} has none")


def _check_bounds(what: str, minimum: float | None, maximum: float | None) -> None:
    if not all(math.isfinite(bound) for bound in (minimum, maximum) if bound is not None):
        raise bad_manifest(f"has a bound of {what} that is not finite")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise bad_manifest(f"bounds {what} by {minimum:g} and {maximum:g}, which is nothing")


def _unique(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise bad_manifest(f"names the {what} {value!r} twice")
        seen.add(value)


def is_safe_path(path: str) -> bool:
    """Whether a bundle may hold a file of that path: relative, normal, no `..`, no odd characters."""
    if not path or len(path) > 512 or "\\" in path or not path.isprintable():
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and str(pure) == path and ".." not in pure.parts and path != "."


def bad_manifest(what: str) -> ArtifactError:
    """The error that a manifest `what`, a predicate such as "has no variants"."""
    return ArtifactError(
        f"{MANIFEST_FILE} {what}.", remedy="Build and sign the bundle again.", subject=MANIFEST_FILE
    )
