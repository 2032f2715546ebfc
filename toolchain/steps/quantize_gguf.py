"""Quantizes a GGUF model, with an importance matrix if the recipe says so or if it measures better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeops.canonical import sha256_file
from edgeops.engines.base import LanguageEngine, load_language_engine
from edgeops.errors import ConfigError
from edgeops.manifest import FileEntry, Runtime, Variant
from quantize import gguf_imatrix, gguf_quantize
from quantize.result import Quantized
from toolchain.evaluation.language import mean_kl
from toolchain.handover.context import StepContext
from toolchain.steps.quantizing import judged, write_record

MODEL_FILE = "model.gguf"
IMATRIX_FILE = "imatrix.gguf"
# Of the calibration text, four fifths are what the matrix is collected on, and the last one what both files
# are held against. Apart, or the matrix would be judged on what it was fitted to.
WINDOW_TOKENS = 128
MOST_WINDOWS = 80
JUDGE_SHARE = 5


def run(context: StepContext) -> None:
    """Writes `variant/model.gguf` and `quantization.json`."""
    variant = context.out / "variant"
    variant.mkdir()
    source, target = context.inputs["export"] / "variant" / MODEL_FILE, variant / MODEL_FILE
    precision, choice = context.config["precision"], context.config["imatrix"]
    with judged(context.config):
        if choice == "never":
            done, matrix = gguf_quantize.quantize(source, target, precision, imatrix=None), None
        else:
            done, matrix = _with_matrix(context, source, target, always=choice == "always")
    write_record(context, done, imatrix=matrix)


def _with_matrix(
    context: StepContext, source: Path, target: Path, *, always: bool
) -> tuple[Quantized, dict[str, Any]]:
    precision = context.config["precision"]
    folder = context.inputs["model"] / "model"
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "An importance matrix is collected on the Hugging Face model, and this source has none.",
            remedy="Set imatrix: never, or give the Hugging Face folder as the source.",
            subject="imatrix",
        )
    engine = _engine(source)
    try:
        windows = _windows(context, engine)
        apart = len(windows) - len(windows) // JUDGE_SHARE
        collect, judge = windows[:apart], windows[apart:]
        if not judge:
            raise ConfigError(
                f"An importance matrix takes {JUDGE_SHARE} windows of {WINDOW_TOKENS} tokens of calibration "
                f"text, and there are {len(windows)}.",
                remedy="Set imatrix: never, or calibrate on more documents.",
                subject="imatrix",
            )
        expected = [engine.logits(window) for window in judge] if not always else []
    finally:
        engine.close()
    matrix = context.out / IMATRIX_FILE
    collected = gguf_imatrix.collect(folder, collect, matrix)
    done = gguf_quantize.quantize(source, target, precision, imatrix=matrix)
    told: dict[str, Any] = {"used": True, "arguments": collected.arguments, "sha256": sha256_file(matrix)}
    if always:
        return done, told
    without = target.with_name("without.gguf")
    plain = gguf_quantize.quantize(source, without, precision, imatrix=None)
    kl = {name: _judged(path, judge, expected) for name, path in (("with", target), ("without", without))}
    told = {**told, "kl_mean": kl, "used": kl["with"] < kl["without"]}
    if kl["with"] < kl["without"]:
        without.unlink()
        return done, told
    without.replace(target)
    return plain, told


def _judged(path: Path, windows: list[list[int]], expected: list[Any]) -> float:
    engine = _engine(path)
    try:
        return mean_kl(expected, [engine.logits(window) for window in windows])
    finally:
        engine.close()


def _windows(context: StepContext, engine: LanguageEngine) -> list[list[int]]:
    documents = json.loads((context.inputs["data"] / "corpus.json").read_bytes())["calibration"]
    length = min(WINDOW_TOKENS, engine.context_tokens)
    tokens: list[int] = []
    for document in documents:
        tokens += engine.tokenize(document)
        if len(tokens) >= length * MOST_WINDOWS:
            break
    whole = len(tokens) - len(tokens) % length
    return [tokens[i : i + length] for i in range(0, whole, length)][:MOST_WINDOWS]


def _engine(path: Path) -> LanguageEngine:
    entry = FileEntry(path=path.name, sha256=sha256_file(path), size_bytes=path.stat().st_size)
    variant = Variant(
        id=path.stem,
        format="gguf",
        precision="",
        files=(entry,),
        runtime=Runtime(engine="llama.cpp", min_version="0"),
        memory_bytes=0,
    )
    return load_language_engine(variant, path.parent)
