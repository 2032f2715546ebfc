"""The manifest: what is in a bundle and what it needs. Its SHA-256 is the bundle's identity.

Parsed values are frozen structs; the JSON they came from is kept beside them, so fields that this
version does not know survive a round trip. A newer (or older) major schema is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

from edgeops.canonical import canonical_json, sha256_bytes, strict_json
from edgeops.errors import ArtifactError
from edgeops.names import is_digest, is_name, is_version

SCHEMA_VERSION = "1.0"
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "model.sig"
MEASUREMENTS_FILE = "measurements.json"
MAX_MANIFEST_BYTES = 4 << 20

Target = Literal["device", "cloud"]
FeatureKind = Literal["mean", "std", "min", "max", "element"]


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its path relative to the bundle, with forward slashes; its digest; its size."""

    path: str
    sha256: str
    size_bytes: int


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant runs in: `engine` is `onnxruntime`, `llama.cpp` or `mlx`."""

    engine: str
    min_version: str
    instruction_sets: tuple[str, ...] = ()


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One model file set for one format and precision.

    `target` says where it is meant to run: on devices, or in the hub for fallback. `files[0]` is the
    file that the engine opens. `memory_bytes` is the resident memory that the engine needs for it.
    `quality` holds figures measured in the target engine, on the evaluation set.
    """

    id: str
    format: Literal["onnx", "gguf", "mlx"]
    precision: str
    files: tuple[FileEntry, ...]
    runtime: Runtime
    memory_bytes: int
    target: Target = "device"
    quality: dict[str, float] = {}


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the model's interface. `dtype` is the protocol's name (`FP32`, `INT64`, …); -1 in
    `shape` is a free dimension (the first is the batch). `minimum` and `maximum` bound the values
    that training data had, inclusively; the device refuses what is not finite, and counts what is outside."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    minimum: float | None = None
    maximum: float | None = None


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A number per row that monitoring watches: a statistic over one input tensor's row, or one
    `element` of the flattened row (`index`)."""

    name: str
    input: str
    kind: FeatureKind
    index: int = 0


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a classifier: `output` holds one probability per class (softmax is in the graph),
    `classes` names them in order. Confidence is the largest probability."""

    output: str
    classes: tuple[str, ...]


class FallbackPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When the device asks the cloud: confidence below `confidence_threshold` (in [0, 1]).

    `variant` is the cloud variant that answers. `calibration` says how the threshold was found."""

    confidence_threshold: float
    variant: str
    calibration: dict[str, Any] = {}


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs and expected outputs, one JSON document (see edgeops/selftest.py), and the tolerance:
    |got - expected| <= atol + rtol * |expected|, element by element, for each device variant."""

    path: str
    atol: float
    rtol: float


class ManifestFields(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that this version knows about a bundle."""

    schema_version: str
    name: str
    version: str
    task: str
    variants: tuple[Variant, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: tuple[FileEntry, ...]
    description: str = ""
    preprocessing: str = ""
    classification: Classification | None = None
    features: tuple[Feature, ...] = ()
    fallback: FallbackPolicy | None = None
    selftest: SelfTest | None = None
    reference_profile: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A manifest: `fields` typed, `raw` the JSON object it came from or becomes."""

    fields: ManifestFields
    raw: dict[str, Any]

    @classmethod
    def create(cls, fields: ManifestFields) -> Manifest:
        """A new manifest from typed fields. Raises `ArtifactError` if they break a rule."""
        return cls.parse(_canonical(_prune(msgspec.to_builtins(fields))))

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest in `data`. Raises `ArtifactError`, naming the field, on anything unfit."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise _bad(f"is larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            raw = strict_json(data)
        except ValueError as error:
            raise _bad(f"is not valid JSON ({error})") from error
        if not isinstance(raw, dict):
            raise _bad("is not a JSON object")
        _check_schema_version(raw.get("schema_version"))
        try:
            fields = msgspec.convert(raw, ManifestFields)
        except msgspec.ValidationError as error:
            raise _bad(f"does not fit the schema: {error}") from error
        _check(fields)
        _canonical(raw)
        return cls(fields, raw)

    def to_bytes(self) -> bytes:
        """Canonical JSON (RFC 8785) of `raw`: what is written, hashed and signed."""
        return canonical_json(self.raw)

    @property
    def digest(self) -> str:
        """The SHA-256 of the canonical bytes: the bundle's identity."""
        return sha256_bytes(self.to_bytes())

    @property
    def label(self) -> str:
        """`name version`, for people."""
        return f"{self.fields.name} {self.fields.version}"

    def variant(self, variant_id: str) -> Variant:
        """The variant of that id, or `ArtifactError`."""
        for variant in self.fields.variants:
            if variant.id == variant_id:
                return variant
        raise _bad(f"has no variant {variant_id!r}")

    def variants_for(self, target: Target) -> tuple[Variant, ...]:
        """The variants meant for devices, or for the cloud, in the builder's order of preference."""
        return tuple(v for v in self.fields.variants if v.target == target)

    def all_files(self) -> dict[str, FileEntry]:
        """Every file below the manifest by path: the variants' and the others."""
        entries = [entry for variant in self.fields.variants for entry in variant.files]
        return {entry.path: entry for entry in (*entries, *self.fields.files)}

    def device_files(self, variant_id: str) -> tuple[FileEntry, ...]:
        """What a device fetches for one variant: its files, the self-test and the reference profile."""
        wanted = {self.fields.reference_profile}
        if self.fields.selftest is not None:
            wanted.add(self.fields.selftest.path)
        others = tuple(entry for entry in self.fields.files if entry.path in wanted)
        return (*self.variant(variant_id).files, *others)


def is_safe_path(path: str) -> bool:
    """Whether a bundle may hold a file of that path: relative, normal, no `..`, no odd characters."""
    if not path or len(path) > 512 or "\\" in path or not path.isprintable():
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and str(pure) == path and ".." not in pure.parts and path != "."


def _check_schema_version(version: object) -> None:
    major = SCHEMA_VERSION.split(".")[0]
    if not isinstance(version, str) or version.split(".")[0] != major:
        raise ArtifactError(
            f"{MANIFEST_FILE} has schema version {version!r}, and this edgeops reads {major}.x.",
            remedy="Build the bundle again with this version of edgeops, or update edgeops here.",
            subject=MANIFEST_FILE,
        )


def _canonical(raw: dict[str, Any]) -> bytes:
    # What has no canonical form (a number that overflows, half a surrogate pair) has no digest either.
    try:
        return canonical_json(raw)
    except (ValueError, RecursionError) as error:
        raise _bad(f"has no canonical form ({error})") from error


def _check(fields: ManifestFields) -> None:
    if not is_name(fields.name):
        raise _bad(f"has the name {fields.name!r}, which is not a valid one")
    if not is_version(fields.version):
        raise _bad(f"has the version {fields.version!r}, which is not a semantic one")
    if not fields.variants:
        raise _bad("has no variants")
    _unique("variant", (variant.id for variant in fields.variants))
    entries = [entry for variant in fields.variants for entry in variant.files] + list(fields.files)
    _unique("file", (entry.path for entry in entries))
    for entry in entries:
        if not is_safe_path(entry.path) or entry.path in (MANIFEST_FILE, SIGNATURE_FILE, MEASUREMENTS_FILE):
            raise _bad(f"names a file {entry.path!r}, which a bundle may not hold")
        if not is_digest(entry.sha256) or entry.size_bytes < 0:
            raise _bad(f"has no valid digest and size for {entry.path!r}")
    for variant in fields.variants:
        if not is_name(variant.id) or not variant.files:
            raise _bad(f"has an unusable variant {variant.id!r}")
    _check_references(fields, {entry.path for entry in fields.files})


def _check_references(fields: ManifestFields, others: set[str]) -> None:
    inputs = {spec.name for spec in fields.inputs}
    outputs = {spec.name for spec in fields.outputs}
    for feature in fields.features:
        if feature.input not in inputs:
            raise _bad(f"has a feature on the unknown input {feature.input!r}")
    if fields.classification is not None and fields.classification.output not in outputs:
        raise _bad(f"classifies by the unknown output {fields.classification.output!r}")
    if fields.fallback is not None:
        if not 0 <= fields.fallback.confidence_threshold <= 1:
            raise _bad("has a confidence threshold outside [0, 1]")
        if fields.fallback.variant not in {v.id for v in fields.variants if v.target == "cloud"}:
            raise _bad(f"falls back to {fields.fallback.variant!r}, which is not one of its cloud variants")
    for path in (fields.selftest.path if fields.selftest else None, fields.reference_profile):
        if path is not None and path not in others:
            raise _bad(f"refers to {path!r}, which is not among its files")


def _unique(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise _bad(f"names the {what} {value!r} twice")
        seen.add(value)


def _prune(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


def _bad(what: str) -> ArtifactError:
    return ArtifactError(
        f"{MANIFEST_FILE} {what}.", remedy="Build and sign the bundle again.", subject=MANIFEST_FILE
    )
