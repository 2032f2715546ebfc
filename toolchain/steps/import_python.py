"""The import step of a torch module that comes trained: by its factory, or by weights beside the recipe."""

from __future__ import annotations

from pathlib import Path

from edgeops.errors import ConfigError
from toolchain.handover.arrays import load_part
from toolchain.handover.context import StepContext
from toolchain.importing.limits import bounded_memory
from toolchain.importing.pickles import refuse_pickle
from toolchain.importing.torch_module import answers_of, check_answers
from toolchain.training.modules import (
    WEIGHTS_FILE,
    build,
    count_parameters,
    load_weights,
    make_deterministic,
    save_weights,
)


def run(context: StepContext) -> None:
    """Writes `model/weights.safetensors` and `training.json`."""
    model, task = context.config["model"], context.config["task"]
    if context.config["input"]["dtype"] != "FP32":
        raise ConfigError(
            "A torch module from a factory takes FP32 tensors, and the recipe's input is text.",
            remedy="Use the source huggingface for models of text.",
            subject="input.dtype",
        )
    make_deterministic()
    weights = context.inputs.get("weights")
    if weights is not None:
        refuse_pickle(
            weights, Path(model["weights"]).name, "Save the weights by safetensors.torch.save_file."
        )
    with bounded_memory(weights.stat().st_size if weights is not None else 0, model["factory"]):
        module = build(model, seed=0)
        if weights is not None:
            load_weights(module, weights)
        rows = load_part(context.inputs["data"], "calibration")[0][:2]
        answers = answers_of(module, rows, task)
    classes = context.read_json("data", "data.json")["classes"]
    check_answers(answers, len(rows), len(classes), task, model["factory"])
    folder = context.out / "model"
    folder.mkdir()
    save_weights(module, folder / WEIGHTS_FILE)
    context.write_json("training.json", {"source": "python", "parameters": count_parameters(module)})
