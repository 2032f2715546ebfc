"""The import step of a scikit-learn pipeline: fitted here on the training rows, or from a skops file."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeops.errors import ConfigError
from toolchain.handover.arrays import load_part
from toolchain.handover.context import StepContext
from toolchain.importing.limits import bounded_memory
from toolchain.importing.sklearn_pipeline import (
    MODEL_FILE,
    check_estimator,
    fit_pipeline,
    load_pipeline,
    parameter_count,
    save_pipeline,
    trusted_types,
)


def run(context: StepContext) -> None:
    """Writes `model/model.skops` and `training.json`."""
    model, shape = context.config["model"], context.config["input"]["shape"]
    if len(shape) != 1:
        raise ConfigError(
            f"scikit-learn takes rows of columns, and the recipe's input has the shape {shape}.",
            remedy="Give the input the shape [number of columns].",
            subject="input.shape",
        )
    classes = context.read_json("data", "data.json")["classes"]
    folder = context.out / "model"
    folder.mkdir()
    file = context.inputs.get("file")
    told: dict[str, object] = {"source": "sklearn"}
    if file is not None:
        name = Path(model["file"]).name
        with bounded_memory(file.stat().st_size, name):
            estimator = load_pipeline(file, name, trusted=trusted_types(model))
        shutil.copyfile(file, folder / MODEL_FILE)
    else:
        name = model["factory"]
        inputs, labels = load_part(context.inputs["data"], "train")
        estimator = fit_pipeline(model, inputs, labels)
        save_pipeline(estimator, folder / MODEL_FILE)
        told["train_rows"] = len(labels)
    rows, _ = load_part(context.inputs["data"], "calibration")
    check_estimator(estimator, rows[:64], classes, name)
    context.write_json("training.json", {**told, "parameters": parameter_count(estimator)})
