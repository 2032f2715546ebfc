"""The ONNX export step: any source becomes a graph that ends in what the recipe calls its output."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

import onnx

from quantize.onnx_graph import canonical_bytes, op_counts
from toolchain.handover.context import StepContext

MODEL_FILE = "model.onnx"


def run(context: StepContext) -> None:
    """Writes `variant/model.onnx`, for text and language beside it `tokenizer.json` and `config.json`; and
    `export.json`: exporter, opset, operators."""
    folder = context.out / "variant"
    folder.mkdir()
    model = _EXPORTERS[context.config["model"]["source"]](context)
    (folder / MODEL_FILE).write_bytes(canonical_bytes(model))
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    context.write_json("export.json", {"opset": opset, "ops": op_counts(model)})


def _python(context: StepContext) -> onnx.ModelProto:
    from toolchain.exporting.torch_onnx import export_rows
    from toolchain.handover.arrays import load_part
    from toolchain.importing.torch_module import answers_of, check_answers
    from toolchain.training.modules import WEIGHTS_FILE, build, load_weights, make_deterministic

    make_deterministic()
    config = context.config
    module = build(config["model"], seed=0)
    load_weights(module, context.inputs["model"] / "model" / WEIGHTS_FILE)
    rows = load_part(context.inputs["data"], "calibration")[0][:2]
    classes = context.read_json("data", "data.json")["classes"]
    answers = answers_of(module, rows, config["task"])
    check_answers(answers, len(rows), len(classes), config["task"], config["model"]["factory"])
    return export_rows(
        module,
        config["input"]["shape"],
        name=config["input"]["name"],
        output=config["output"],
        task=config["task"],
    )


def _huggingface(context: StepContext) -> onnx.ModelProto:
    from toolchain.exporting.transformer_onnx import export_transformer

    config = context.config
    return export_transformer(
        context.inputs["model"] / "model",
        context.out / "variant",
        task=config["task"],
        contract=config["input"],
        output=config["output"],
    )


def _sklearn(context: StepContext) -> onnx.ModelProto:
    from toolchain.exporting.sklearn_onnx import export_pipeline
    from toolchain.importing.sklearn_pipeline import MODEL_FILE as PIPELINE_FILE
    from toolchain.importing.sklearn_pipeline import load_pipeline, trusted_types

    config = context.config
    path = context.inputs["model"] / "model" / PIPELINE_FILE
    estimator = load_pipeline(path, PIPELINE_FILE, trusted=trusted_types(config["model"]))
    return export_pipeline(
        estimator, config["input"]["shape"], name=config["input"]["name"], output=config["output"]
    )


def _onnx(context: StepContext) -> onnx.ModelProto:
    folder, variant = context.inputs["model"] / "model", context.out / "variant"
    shutil.copytree(folder, variant, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MODEL_FILE))
    return onnx.load(folder / MODEL_FILE)


_EXPORTERS: Mapping[str, Callable[[StepContext], onnx.ModelProto]] = {
    "python": _python,
    "huggingface": _huggingface,
    "sklearn": _sklearn,
    "onnx": _onnx,
}
