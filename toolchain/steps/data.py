"""The data step: loads the recipe's data, holds it against the recipe, splits it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeops.canonical import canonical_json, digest_of
from edgeops.errors import ArtifactError
from models.dataset import Split, split_rows
from toolchain.handover.arrays import CORPUS_FILE, DATA_FILE, PARTS, Array, arrays_digest, save_arrays
from toolchain.handover.context import StepContext, load_factory
from toolchain.importing.contract import check_corpus, check_dataset, check_held_out
from toolchain.importing.documents import load_documents
from toolchain.importing.rows import load_rows

UNKNOWN_LICENSE = "unknown"


def run(context: StepContext) -> None:
    """Writes `data.npz` (for text generation `corpus.json`) and `data.json` (see toolchain/steps)."""
    if context.config["task"] == "text-generation":
        _write_corpus(context)
    else:
        _write_rows(context)


def _write_rows(context: StepContext) -> None:
    config, contract, task = context.config["data"], context.config["input"], context.config["task"]
    if config["factory"] is not None:
        origin, data = config["factory"], _from_factory(config)
    else:
        origin = Path(config["file"]).name
        data = load_rows(
            context.inputs["file"],
            name=origin,
            task=task,
            label=config["label"],
            columns=[column["name"] for column in contract["columns"]],
            classes=config["classes"],
            **_terms(config, origin),
        )
    checked = check_dataset(data, contract, task, origin)
    split = _split(len(checked.inputs), config, origin)
    arrays: dict[str, Array] = {}
    for part in PARTS:
        rows = getattr(split, part)
        arrays[f"{part}_inputs"] = checked.inputs[rows]
        arrays[f"{part}_labels"] = checked.labels[rows]
        for name, values in checked.attributes.items():
            arrays[f"{part}_attribute_{name}"] = values[rows]
    check_held_out(checked, arrays["held_out_labels"], task)
    save_arrays(context.out / DATA_FILE, arrays)
    context.write_json(
        "data.json",
        {
            "classes": list(checked.classes),
            "source": config["source"] or checked.source,
            "license": config["license"] or checked.license,
            "rows": {part: len(getattr(split, part)) for part in PARTS},
            "attributes": sorted(checked.attributes),
            "sha256": arrays_digest(arrays),
        },
    )


def _write_corpus(context: StepContext) -> None:
    config = context.config["data"]
    if config["factory"] is not None:
        origin, data = config["factory"], _from_factory(config)
    else:
        origin = Path(config["file"]).name
        data = load_documents(context.inputs["file"], name=origin, **_terms(config, origin))
    corpus = check_corpus(data, origin)
    split = _split(len(corpus.documents), config, origin)
    parts = {part: [corpus.documents[row] for row in getattr(split, part)] for part in PARTS}
    (context.out / CORPUS_FILE).write_bytes(canonical_json(parts))
    context.write_json(
        "data.json",
        {
            "classes": [],
            "source": config["source"] or corpus.source,
            "license": config["license"] or corpus.license,
            "rows": {part: len(documents) for part, documents in parts.items()},
            "attributes": [],
            "sha256": digest_of(parts),
        },
    )


def _from_factory(config: Mapping[str, Any]) -> object:
    return load_factory(config["factory"])(**config["options"])


def _terms(config: Mapping[str, Any], origin: str) -> dict[str, str]:
    return {"source": config["source"] or origin, "license": config["license"] or UNKNOWN_LICENSE}


def _split(rows: int, config: Mapping[str, Any], origin: str) -> Split:
    split = split_rows(
        rows, seed=config["seed"], calibration=config["calibration"], held_out=config["held_out"]
    )
    for part in PARTS:
        if not len(getattr(split, part)):
            raise ArtifactError(
                f"The {rows} rows of {origin} leave none for the part {part!r}.",
                remedy="Bring more data, or change the shares in the recipe.",
                subject=origin,
            )
    return split
