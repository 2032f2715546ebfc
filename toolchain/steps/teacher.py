"""The teacher step: trains the large network that the student learns from and the cloud answers with."""

from __future__ import annotations

from toolchain.steps.arrays import load_part
from toolchain.steps.context import StepContext
from toolchain.steps.training import accuracy, build, make_deterministic, save_weights, train


def run(context: StepContext) -> None:
    """Writes `weights.npz`, and `training.json` with the accuracy on the calibration rows."""
    make_deterministic()
    teacher = context.config["teacher"]
    inputs, labels = load_part(context.inputs["data"], "train")
    module = build(teacher, seed=teacher["seed"])
    train(
        module,
        inputs,
        labels,
        teacher["training"],
        seed=teacher["seed"],
        progress=lambda share: context.progress(share, "training"),
    )
    save_weights(module, context.out)
    context.write_json(
        "training.json",
        {
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "train_rows": len(labels),
            "calibration_accuracy": accuracy(module, *load_part(context.inputs["data"], "calibration")),
        },
    )
