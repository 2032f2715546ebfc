"""`edgeops diff`: what changed from one bundle to another, read from their own documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from edgeops.bundle import read_document, read_manifest, verify_bundle, walk
from edgeops.errors import ArtifactError
from edgeops.manifest import MEASUREMENTS_FILE, Manifest, Variant
from edgeops.signing.keys import PublicKeys
from toolchain.comparing.differences import ABSENT, differences

PROVENANCE_FILE = "provenance/slsa.json"
REPORT_FILE = "evaluation/report.json"
PROMPTS_FOLDER = "prompts/"
MAX_DOCUMENT_BYTES = 64 << 20

# The parts of a comparison that the bundles' identity follows from; `measured` is true of a run only.
SECTIONS = ("data", "config", "tools", "code", "prompts", "contract", "variants", "quality", "gates")
# What a manifest says about the interface and how to use it. The rest has sections of its own.
_CONTRACT = (
    "task", "description", "preprocessing", "inputs", "outputs", "classification", "features", "fallback",
    "language", "selftest",
)  # fmt: skip

Change = dict[str, Any]


class _Bundle:
    """One of the two, and its documents; one that is missing is empty, and named in `missing`."""

    def __init__(self, folder: Path, keys: PublicKeys) -> None:
        self.key_id = verify_bundle(folder, keys).key_id if keys else None
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._present = set(walk(folder))
        self.missing: list[str] = []
        self.slsa = self._document(PROVENANCE_FILE)
        self.report = self._document(REPORT_FILE)
        self.measurements = self._document(MEASUREMENTS_FILE)

    def _document(self, path: str) -> dict[str, Any]:
        if path not in self._present:
            self.missing.append(path)
            return {}
        try:
            return read_document(self.folder, path, max_bytes=MAX_DOCUMENT_BYTES)
        except ValueError as error:
            raise ArtifactError(
                f"{self.folder / path} cannot be read: {error}.",
                remedy="Build the bundle again with edgeops build.",
                subject=path,
            ) from error

    @property
    def definition(self) -> dict[str, Any]:
        return _mapping(_mapping(self.slsa.get("predicate")).get("buildDefinition"))

    @property
    def recipe(self) -> dict[str, Any]:
        return _mapping(_mapping(self.definition.get("externalParameters")).get("recipe"))

    def dependencies(self) -> dict[str, dict[str, Any]]:
        found = self.definition.get("resolvedDependencies")
        items = found if isinstance(found, list) else []
        return {str(item["name"]): item for item in items if isinstance(item, dict) and "name" in item}

    def title(self) -> dict[str, Any]:
        return {
            "path": str(self.folder),
            "name": self.manifest.fields.name,
            "version": self.manifest.fields.version,
            "digest": self.manifest.digest,
            "key_id": self.key_id,
            "missing": self.missing,
        }


def compare(old_dir: Path, new_dir: Path, keys: PublicKeys) -> dict[str, Any]:
    """What changed from the bundle in `old_dir` to that in `new_dir`, as JSON-compatible data.

    `same` tells whether their digests are equal. Each of `SECTIONS`, and `measured`, is a list of changes
    with `field`, `old` and `new` (left out where there is none); `variants`, `quality` and `measured` also
    name the `variant`, and figures have their `change`. With `keys` (by key id) both are verified first.

    Raises `ArtifactError` on a bundle that does not hold, or whose documents cannot be read.
    """
    old, new = _Bundle(old_dir, keys), _Bundle(new_dir, keys)
    old_raw, new_raw = old.manifest.raw, new.manifest.raw
    return {
        "old": old.title(),
        "new": new.title(),
        "verified": bool(keys),
        "same": old.manifest.digest == new.manifest.digest,
        "data": _changes(_data(old), _data(new)),
        "config": _changes(old.recipe, new.recipe),
        "tools": _changes(_tools(old), _tools(new)),
        "code": _changes(_code(old), _code(new)),
        "prompts": _changes(_prompts(old), _prompts(new)),
        "contract": _changes(*({name: raw.get(name) for name in _CONTRACT} for raw in (old_raw, new_raw))),
        "variants": _by_variant(
            *({v.id: _shape(v) for v in bundle.manifest.fields.variants} for bundle in (old, new))
        ),
        "quality": _figures(
            *({v.id: v.quality for v in bundle.manifest.fields.variants} for bundle in (old, new))
        ),
        "gates": _changes(_gates(old), _gates(new)),
        "measured": _figures(*(_mapping(bundle.measurements.get("variants")) for bundle in (old, new))),
    }


def _data(bundle: _Bundle) -> dict[str, Any]:
    """What the build read, but for code, tools and prompts: by digest and source; and its rows."""
    read = {
        name: {key: item[key] for key in ("digest", "uri", "annotations") if key in item}
        for name, item in bundle.dependencies().items()
        if not name.startswith(("code:", "tool:", "prompt:"))
    }
    return {**read, "rows": bundle.report.get("rows")}


def _tools(bundle: _Bundle) -> dict[str, str]:
    return {
        name.removeprefix("tool:"): unquote(str(item.get("uri", "")).rpartition("@")[2])
        for name, item in bundle.dependencies().items()
        if name.startswith("tool:")
    }


def _code(bundle: _Bundle) -> dict[str, Any]:
    return {
        name.removeprefix("code:"): _mapping(item.get("digest")).get("sha256")
        for name, item in bundle.dependencies().items()
        if name.startswith("code:")
    }


def _prompts(bundle: _Bundle) -> dict[str, str]:
    files = bundle.manifest.fields.files
    return {file.path: file.sha256 for file in files if file.path.startswith(PROMPTS_FOLDER)}


def _gates(bundle: _Bundle) -> dict[str, Any]:
    found = bundle.report.get("gates")
    gates = [gate for gate in found if isinstance(gate, dict)] if isinstance(found, list) else []
    return {
        str(gate.get("name")): {key: gate.get(key) for key in ("passed", "value") if key in gate}
        for gate in gates
    }


def _shape(variant: Variant) -> dict[str, Any]:
    return {
        "format": variant.format,
        "precision": variant.precision,
        "target": variant.target,
        "engine": f"{variant.runtime.engine} {variant.runtime.min_version}+",
        "size_bytes": sum(file.size_bytes for file in variant.files),
        "memory_bytes": variant.memory_bytes,
        "files": {file.path.removeprefix(f"variants/{variant.id}/"): file.sha256 for file in variant.files},
    }


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    return [_change(found.path, found.old, found.new) for found in differences(dict(old), dict(new))]


def _change(field: str, old: Any, new: Any) -> Change:
    values = {"old": old, "new": new}
    return {"field": field, **{name: value for name, value in values.items() if value is not ABSENT}}


def _by_variant(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    changes: list[Change] = []
    for variant in _ordered(old, new):
        if variant not in new:
            changes.append({"variant": variant, "field": "removed"})
        elif variant not in old:
            changes.append({"variant": variant, "field": "added", "new": new[variant]["size_bytes"]})
        else:
            changes += [{"variant": variant, **item} for item in _changes(old[variant], new[variant])]
    return changes


def _figures(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Numbers of the variants that both have, where they differ."""
    changes: list[Change] = []
    for variant in _ordered(old, new):
        if variant in old and variant in new:
            for item in _changes(_mapping(old[variant]), _mapping(new[variant])):
                values = item.get("old"), item.get("new")
                numbers = [value for value in values if isinstance(value, int | float)]
                change = {"change": round(numbers[1] - numbers[0], 9)} if len(numbers) == 2 else {}
                changes.append({"variant": variant, **item, **change})
    return changes


def _ordered(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*new, *old]))


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
