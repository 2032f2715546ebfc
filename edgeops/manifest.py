"""The manifest: what is in a bundle and what it needs. Its SHA-256 is the bundle's identity.

Parsed values are frozen structs; the JSON they came from is kept beside them, so fields that this
version does not know survive a round trip. A newer (or older) major schema is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from edgeops.canonical import canonical_json, sha256_bytes, strict_json
from edgeops.errors import ArtifactError
from edgeops.manifest_fields import (
    TEXT_FEATURES,
    Classification,
    ColumnSpec,
    Dtype,
    FallbackPolicy,
    Feature,
    FeatureKind,
    FileEntry,
    Language,
    ManifestFields,
    Runtime,
    SelfTest,
    Target,
    TensorSpec,
    Variant,
)
from edgeops.manifest_rules import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MEASUREMENTS_FILE,
    OUTSIDE_IDENTITY,
    REVISION_FILE,
    SCHEMA_VERSION,
    SIGNATURE_FILE,
    bad_manifest,
    check_fields,
    is_safe_path,
)

__all__ = [
    "MANIFEST_FILE",
    "MAX_MANIFEST_BYTES",
    "MEASUREMENTS_FILE",
    "OUTSIDE_IDENTITY",
    "REVISION_FILE",
    "SCHEMA_VERSION",
    "SIGNATURE_FILE",
    "TEXT_FEATURES",
    "Classification",
    "ColumnSpec",
    "Dtype",
    "FallbackPolicy",
    "Feature",
    "FeatureKind",
    "FileEntry",
    "Language",
    "Manifest",
    "ManifestFields",
    "Runtime",
    "SelfTest",
    "Target",
    "TensorSpec",
    "Variant",
    "is_safe_path",
]


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
            raise bad_manifest(f"is larger than {MAX_MANIFEST_BYTES} bytes")
        try:
            raw = strict_json(data)
        except ValueError as error:
            raise bad_manifest(f"is not valid JSON ({error})") from error
        if not isinstance(raw, dict):
            raise bad_manifest("is not a JSON object")
        _check_schema_version(raw.get("schema_version"))
        try:
            fields = msgspec.convert(raw, ManifestFields)
        except msgspec.ValidationError as error:
            raise bad_manifest(f"does not fit the schema: {error}") from error
        check_fields(fields)
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
        raise bad_manifest(f"has no variant {variant_id!r}")

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
        raise bad_manifest(f"has no canonical form ({error})") from error


def _prune(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}
