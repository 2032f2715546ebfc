"""The answers step: what the model itself, in the library that it was made with, gives on the held-out rows.
Every variant is held against this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from toolchain.handover.arrays import Array, load_documents, load_part, save_arrays
from toolchain.handover.context import StepContext

ANSWERS_FILE = "answers.npz"
HELD_OUT = "held_out"


def run(context: StepContext) -> None:
    """Writes `answers.npz`; see toolchain/steps/__init__.py."""
    save_arrays(context.out / ANSWERS_FILE, _SOURCES[context.config["model"]["source"]](context))


def _python(context: StepContext) -> dict[str, Array]:
    from toolchain.importing.torch_module import answers_of
    from toolchain.training.modules import WEIGHTS_FILE, build, load_weights, make_deterministic

    make_deterministic()
    module = build(context.config["model"], seed=0)
    load_weights(module, context.inputs["model"] / "model" / WEIGHTS_FILE)
    inputs, _ = load_part(context.inputs["data"], HELD_OUT)
    return {HELD_OUT: answers_of(module, inputs, context.config["task"])}


def _huggingface(context: StepContext) -> dict[str, Array]:
    from toolchain.answering.language import answer_transformer
    from toolchain.answering.transformers_rows import answer_images, answer_texts

    folder, task = context.inputs["model"] / "model", context.config["task"]
    if task == "text-generation":
        documents = load_documents(context.inputs["data"], HELD_OUT)
        tokens, answers = answer_transformer(folder, documents, context.config["held_out_tokens"])
        return {"tokens": tokens, HELD_OUT: answers}
    inputs, _ = load_part(context.inputs["data"], HELD_OUT)
    if task == "image-classification":
        return {HELD_OUT: answer_images(folder, inputs)}
    return {HELD_OUT: answer_texts(folder, inputs.tolist(), task)}


def _sklearn(context: StepContext) -> dict[str, Array]:
    from toolchain.importing.sklearn_pipeline import MODEL_FILE, answer_rows, load_pipeline, trusted_types

    path = context.inputs["model"] / "model" / MODEL_FILE
    estimator = load_pipeline(path, MODEL_FILE, trusted=trusted_types(context.config["model"]))
    inputs, _ = load_part(context.inputs["data"], HELD_OUT)
    return {HELD_OUT: answer_rows(estimator, inputs)}


def _onnx(context: StepContext) -> dict[str, Array]:
    from toolchain.importing.onnx_source import answer_rows

    config = {**context.config, "variant": Path(context.config["model"]["file"]).name}
    inputs, _ = load_part(context.inputs["data"], HELD_OUT)
    return {HELD_OUT: answer_rows(context.inputs["model"] / "model", inputs, config)}


def _gguf(context: StepContext) -> dict[str, Array]:
    from edgeops.engines.llama_engine import LlamaEngine
    from toolchain.answering.language import answer_engine

    documents = load_documents(context.inputs["data"], HELD_OUT)
    engine = LlamaEngine.open(context.inputs["model"] / "model" / "model.gguf")
    try:
        tokens, answers = answer_engine(engine, documents, context.config["held_out_tokens"])
    finally:
        engine.close()
    return {"tokens": tokens, HELD_OUT: answers}


_SOURCES: Mapping[str, Callable[[StepContext], dict[str, Array]]] = {
    "python": _python,
    "huggingface": _huggingface,
    "sklearn": _sklearn,
    "onnx": _onnx,
    "gguf": _gguf,
}
