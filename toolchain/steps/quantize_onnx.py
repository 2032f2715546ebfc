"""Quantizes an exported ONNX model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeops.engines.onnx_file import check_onnx_file
from edgeops.engines.tokenizer import TOKENIZER_FILE, TextTokenizer
from edgeops.errors import ConfigError
from quantize import onnx_dynamic, onnx_static, onnx_weight_only
from quantize.result import Quantized
from toolchain.handover.arrays import Array, load_part
from toolchain.handover.context import StepContext
from toolchain.recipe.variants import Scheme
from toolchain.steps.quantizing import judged, write_record

MODEL_FILE = "model.onnx"
DEFAULT_CALIBRATION = "minmax"
DEFAULT_GROUP = 32
BITS = {"int8": 8, "int4": 4}


def run(context: StepContext) -> None:
    """Writes `variant/` with the quantized model and what else the export holds, and `quantization.json`."""
    export, target = context.inputs["export"] / "variant", context.out / "variant"
    shutil.copytree(export, target, ignore=shutil.ignore_patterns(MODEL_FILE))
    with judged(context.config):
        done = _quantize(context, export / MODEL_FILE, target / MODEL_FILE)
    write_record(context, done)


def _quantize(context: StepContext, source: Path, target: Path) -> Quantized:
    config = context.config
    scheme = config["scheme"] or _default_scheme(config, source)
    if scheme == "dynamic":
        return onnx_dynamic.quantize(source, target)
    if scheme == "weight-only":
        return onnx_weight_only.quantize(
            source,
            target,
            bits=BITS[config["precision"]],
            block_size=config["group_size"] or DEFAULT_GROUP,
        )
    return onnx_static.quantize(
        source,
        target,
        rows=calibration_rows(context, config, source),
        method=config["calibration"] or DEFAULT_CALIBRATION,
    )


def _default_scheme(config: Mapping[str, Any], source: Path) -> Scheme:
    if config["precision"] == "int4":
        return "weight-only"
    static = config["task"] != "text-generation" and onnx_static.is_called_for(source)
    return "static" if static else "dynamic"


def calibration_rows(context: StepContext, config: Mapping[str, Any], source: Path) -> list[dict[str, Array]]:
    """The calibration part as the graph takes it, one row each: text through the variant's tokenizer."""
    if config["task"] == "text-generation":
        raise ConfigError(
            "Static quantization is not offered for text generation.",
            remedy="Use the scheme dynamic or weight-only.",
            subject="scheme",
        )
    inputs, _ = load_part(context.inputs["data"], "calibration")
    if config["input"]["dtype"] != "BYTES":
        name = config["input"]["name"]
        return [{name: inputs[i : i + 1].astype(np.float32, copy=False)} for i in range(len(inputs))]
    names = check_onnx_file(source, allow_links=True).inputs
    tokenizer = TextTokenizer.load(source.parent / TOKENIZER_FILE)
    batches = (tokenizer.encode_batch([str(text)]) for text in inputs)
    return [{name: getattr(batch, name) for name in names} for batch in batches]
