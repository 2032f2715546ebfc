"""The baseline: the preferred variant of an earlier version's bundle, evaluated as a new one is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeops.bundle import open_file, read_manifest
from edgeops.canonical import canonical_json, sha256_stream
from edgeops.errors import ArtifactError
from edgeops.manifest import FileEntry, Manifest
from toolchain.evaluation.prompting import (
    PROMPTS_FILE,
    PROMPTS_FOLDER,
    SYSTEM_FILE,
    TEMPLATE_FILE,
    PromptSettings,
)
from toolchain.evaluation.variant import MODEL_FILES, VARIANT_FOLDER
from toolchain.handover.context import StepContext

BASELINE_FILE = "baseline.json"


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What `baseline.json` says of the variant that was copied: its id in its bundle, and what evaluating it
    needs that the recipe says of the others."""

    version: str
    variant: str
    format: str
    precision: str
    digest: str
    classes: tuple[str, ...] = ()


def copy_baseline(bundle: Path, out: Path, *, name: str, task: str) -> Baseline:
    """Copies the variant that devices prefer to `out/variant/`, and a language model's prompts to
    `out/prompts/` with `prompts.json`. Every file copied has the digest that the bundle's manifest says.

    Raises `ArtifactError` when the folder is no bundle, is one of another model or task, or a file differs.
    Whose signature it bears is not looked at: the baseline's figures are compared with, nothing of it ships.
    """
    manifest = read_manifest(bundle)
    fields = manifest.fields
    if (fields.name, fields.task) != (name, task):
        raise ArtifactError(
            f"The baseline is a bundle of {fields.name} ({fields.task}), and this one of {name} ({task}).",
            remedy="Give an earlier bundle of the same model.",
            subject="manifest.json",
        )
    devices = manifest.variants_for("device")
    if not devices:
        raise ArtifactError("The baseline has no variant for devices.", subject="manifest.json")
    variant = devices[0]
    first = Path(variant.files[0].path)
    for entry in variant.files:
        relative = Path(entry.path).relative_to(first.parent)
        target = MODEL_FILES[variant.format] if entry is variant.files[0] else relative.as_posix()
        _copy(bundle, entry, out / VARIANT_FOLDER / target)
    _copy_prompts(bundle, manifest, out)
    return Baseline(
        version=fields.version,
        variant=variant.id,
        format=variant.format,
        precision=variant.precision,
        digest=manifest.digest,
        classes=fields.classification.classes if fields.classification is not None else (),
    )


def evaluated(context: StepContext, classes: tuple[str, ...]) -> Mapping[str, Any]:
    """The evaluate step's config with `format` and `precision`, which of a baseline only it knows. Raises
    `ArtifactError` if the baseline's classes are others: then no figure means the same."""
    config = context.config
    if config["format"] is not None:
        return config
    baseline = msgspec.convert(context.read_json("model", BASELINE_FILE), Baseline)
    if baseline.classes and baseline.classes != classes:
        raise ArtifactError(
            f"The baseline {baseline.version} tells {len(baseline.classes)} classes apart that are not this "
            "recipe's, or not in its order, so the two cannot be compared.",
            remedy="Leave the baseline out, or give one with the same classes.",
            subject=baseline.variant,
        )
    return {**config, "format": baseline.format, "precision": baseline.precision}


def _copy_prompts(bundle: Path, manifest: Manifest, out: Path) -> None:
    language = manifest.fields.language
    if language is None:
        return
    entries = {entry.path: entry for entry in manifest.fields.files}
    _copy(bundle, entries[language.chat_template], out / PROMPTS_FOLDER / TEMPLATE_FILE)
    if language.system_prompt is not None:
        _copy(bundle, entries[language.system_prompt], out / PROMPTS_FOLDER / SYSTEM_FILE)
    settings = PromptSettings(stop=language.stop, context_tokens=language.context_tokens)
    (out / PROMPTS_FILE).write_bytes(canonical_json(msgspec.to_builtins(settings)))


def _copy(bundle: Path, entry: FileEntry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_file(bundle, entry.path) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    with target.open("rb") as copied:
        if sha256_stream(copied) != entry.sha256:
            raise ArtifactError(
                f"{entry.path} of the baseline is not the file that its manifest lists.",
                remedy="Fetch or build that bundle again.",
                subject=entry.path,
            )
