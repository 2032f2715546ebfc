"""What `edgeops inspect` shows: a bundle's content as data, and the same as tables.

A bundle that was not verified may say anything, so its texts are shown as they are: no markup in them is
followed, and characters that could drive a terminal are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from edgeops.bundle import read_document, read_manifest, verify_bundle, walk
from edgeops.errors import ArtifactError
from edgeops.manifest import MEASUREMENTS_FILE, SIGNATURE_FILE, Manifest, TensorSpec, Variant
from edgeops.signing.keys import PublicKeys
from edgeops.sizes import size_words

EVALUATION_FOLDER = "evaluation/"
MAX_DOCUMENT_BYTES = 16 << 20


def describe(bundle_dir: Path, keys: PublicKeys) -> dict[str, Any]:
    """The content of a bundle as JSON-compatible data.

    With `keys` (by key id) the bundle is verified first, and `ArtifactError` refuses what does not hold.
    With none, nothing is verified and `signature.checked` is false. `gates` are those of every JSON document
    in `evaluation/` that has some; sizes are in bytes, as the manifest lists them.
    """
    signer = verify_bundle(bundle_dir, keys).key_id if keys else None
    manifest = read_manifest(bundle_dir)
    fields = manifest.fields
    present = set(walk(bundle_dir))
    files = manifest.all_files()
    measurements = _document(bundle_dir, MEASUREMENTS_FILE) if MEASUREMENTS_FILE in present else None
    gates = [
        gate
        for path in sorted(files)
        if path.startswith(EVALUATION_FOLDER) and path.endswith(".json")
        for gate in _gates(path, _document(bundle_dir, path))
    ]
    return {
        "path": str(bundle_dir),
        "name": fields.name,
        "version": fields.version,
        "digest": manifest.digest,
        "schema_version": fields.schema_version,
        "task": fields.task,
        "description": fields.description,
        "signature": {
            "present": SIGNATURE_FILE in present,
            "checked": signer is not None,
            "key_id": signer,
        },
        "files": len(files),
        "size_bytes": sum(entry.size_bytes for entry in files.values()),
        "variants": [_variant(variant) for variant in fields.variants],
        "inputs": [_tensor(spec) for spec in fields.inputs],
        "outputs": [_tensor(spec) for spec in fields.outputs],
        "classes": list(fields.classification.classes) if fields.classification else [],
        "features": [feature.name for feature in fields.features],
        "language": None if fields.language is None else msgspec.to_builtins(fields.language),
        "fallback": _fallback(manifest),
        "gates": [_with_value(gate, measurements) for gate in gates],
        "measurements": measurements,
    }


def render(description: dict[str, Any]) -> None:
    """Prints a description as tables, coloured on a terminal only."""
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(f"{description['name']} {description['version']}", style="bold")
    if description["description"]:
        console.print(_plain(description["description"]))
    _print_signature(console, description["signature"])
    console.print(f"Digest     {description['digest']}", soft_wrap=True)
    console.print(f"Content    {description['files']} files, {size_words(description['size_bytes'])}")
    for what in ("inputs", "outputs"):
        for spec in description[what]:
            shape = " x ".join("any" if size < 0 else str(size) for size in spec["shape"])
            contract = "".join(f", {part}" for part in _contract(spec))
            console.print(
                f"{what[:-1].capitalize():<11}{_plain(spec['name'])}: {spec['dtype']}, {shape}{contract}",
                soft_wrap=True,
            )
    if (language := description["language"]) is not None:
        console.print(f"Language   {language['context_tokens']} tokens, {_plain(language['chat_template'])}")
    if (fallback := description["fallback"]) is not None:
        threshold, temperature = fallback["confidence_threshold"], fallback["temperature"]
        scaled = "" if temperature == 1 else f" at temperature {temperature:g}"
        console.print(f"Fallback   {fallback['variant']} below a confidence of {threshold:g}{scaled}")
    console.print()
    for spec in description["inputs"]:
        if "columns" in spec:
            console.print(_columns_table(spec))
    console.print(_variants_table(description["variants"]))
    console.print(_quality_table(description["variants"]))
    if description["gates"]:
        console.print(_gates_table(description["gates"]))
    else:
        console.print("No gates are recorded in evaluation/.", style="dim")


def _variant(variant: Variant) -> dict[str, Any]:
    return {
        "id": variant.id,
        "format": variant.format,
        "precision": variant.precision,
        "target": variant.target,
        "engine": variant.runtime.engine,
        "engine_min_version": variant.runtime.min_version,
        "size_bytes": sum(entry.size_bytes for entry in variant.files),
        "memory_bytes": variant.memory_bytes,
        "quality": dict(variant.quality),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """A tensor with its data contract: the bounds that it has, and nothing of those that it has not."""
    tensor: dict[str, Any] = {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
    limits = {"minimum": spec.minimum, "maximum": spec.maximum, "max_characters": spec.max_characters}
    tensor |= {name: value for name, value in limits.items() if value is not None}
    if spec.columns:
        tensor["columns"] = [
            {name: value for name, value in msgspec.to_builtins(column).items() if value is not None}
            for column in spec.columns
        ]
    ranges = [(spec.minimum, spec.maximum), *((each.minimum, each.maximum) for each in spec.columns)]
    if any(bound is not None for bounds in ranges for bound in bounds):
        tensor["outside"] = spec.outside
    return tensor


def _fallback(manifest: Manifest) -> dict[str, Any] | None:
    policy = manifest.fields.fallback
    if policy is None:
        return None
    return {
        "variant": policy.variant,
        "confidence_threshold": policy.confidence_threshold,
        "temperature": policy.temperature,
    }


def _document(bundle_dir: Path, path: str) -> dict[str, Any]:
    try:
        return read_document(bundle_dir, path, max_bytes=MAX_DOCUMENT_BYTES)
    except ValueError as error:
        raise _unreadable(path, str(error)) from error


def _gates(path: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    gates = document.get("gates", [])
    if not isinstance(gates, list) or not all(
        isinstance(gate, dict) and isinstance(gate.get("name"), str) and isinstance(gate.get("passed"), bool)
        for gate in gates
    ):
        raise _unreadable(path, "its gates lack name and passed")
    return gates


def _with_value(gate: dict[str, Any], measurements: dict[str, Any] | None) -> dict[str, Any]:
    # What a gate judged by time or memory is no part of the identity, and so stands in the measurements.
    measured = (measurements or {}).get("gates")
    if gate.get("value") is None and isinstance(measured, dict) and gate["name"] in measured:
        return gate | {"value": measured[gate["name"]]}
    return gate


def _unreadable(path: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be shown: {why}.", remedy="Build the bundle again with edgeops build.", subject=path
    )


def _print_signature(console: Console, signature: dict[str, Any]) -> None:
    if signature["checked"]:
        console.print(f"Signature  verified, key {signature['key_id']}", style="green", soft_wrap=True)
    elif signature["present"]:
        console.print("Signature  NOT CHECKED: give the builder's key with --key", style="yellow")
    else:
        console.print("Signature  NONE: this bundle is not signed", style="red")


def _table(title: str, *columns: str, numbers: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(_plain(name))
    for name in numbers:
        table.add_column(_plain(name), justify="right")
    return table


def _variants_table(variants: Sequence[dict[str, Any]]) -> Table:
    table = _table("Variants", "id", "runs on", "engine", numbers=("size", "memory"))
    for variant in variants:
        engine = f"{variant['engine']} {variant['engine_min_version']}+"
        table.add_row(
            *(_plain(text) for text in (variant["id"], variant["target"], engine)),
            size_words(variant["size_bytes"]),
            size_words(variant["memory_bytes"]),
        )
    return table


def _contract(spec: dict[str, Any]) -> list[str]:
    """What a tensor's contract says, but for its columns, in words."""
    parts = []
    if "minimum" in spec or "maximum" in spec:
        parts.append(_range(spec))
    if "max_characters" in spec:
        parts.append(f"at most {spec['max_characters']} characters")
    if "outside" in spec:
        parts.append("refused outside" if spec["outside"] == "refuse" else "counted outside")
    return parts


def _range(bounds: dict[str, Any]) -> str:
    low, high = bounds.get("minimum"), bounds.get("maximum")
    if low is None:
        return "any" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


def _columns_table(spec: dict[str, Any]) -> Table:
    table = _table(f"Columns of {_plain(spec['name'])}", "column", "values", numbers=("nulls",))
    for column in spec["columns"]:
        rate = column["max_null_rate"]
        table.add_row(_plain(column["name"]), _range(column), f"at most {rate:.4g}" if rate else "none")
    return table


def _quality_table(variants: Sequence[dict[str, Any]]) -> Table:
    table = _table("Quality", "metric", numbers=[variant["id"] for variant in variants])
    for metric in sorted({metric for variant in variants for metric in variant["quality"]}):
        values = [variant["quality"].get(metric) for variant in variants]
        table.add_row(_plain(metric), *(_number(value) for value in values))
    return table


def _gates_table(gates: Sequence[dict[str, Any]]) -> Table:
    table = _table("Gates", "gate", "outcome", numbers=("value",))
    for gate in gates:
        table.add_row(
            _plain(gate["name"]),
            "passed" if gate["passed"] else "FAILED",
            _number(gate.get("value")),
            style=None if gate["passed"] else "red",
        )
    return table


def _plain(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, int) else ""
