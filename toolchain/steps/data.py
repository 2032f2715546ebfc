"""The data step: loads the recipe's data, holds it against the recipe, splits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeops.errors import ArtifactError
from models.dataset import Dataset, split_rows
from toolchain.steps.arrays import DATA_FILE, PARTS, Array, arrays_digest, save_arrays
from toolchain.steps.context import StepContext, load_factory


def run(context: StepContext) -> None:
    """Writes `data.npz` (`<part>_inputs` and `<part>_labels` of each part) and `data.json`."""
    config = context.config["data"]
    data: Dataset = load_factory(config["factory"])()
    _check(data, config["factory"], context.config["input"])
    split = split_rows(
        len(data.labels), seed=config["seed"], calibration=config["calibration"], held_out=config["held_out"]
    )
    arrays: dict[str, Array] = {}
    rows = {"train": split.train, "calibration": split.calibration, "held_out": split.held_out}
    for part in PARTS:
        arrays[f"{part}_inputs"] = data.inputs[rows[part]]
        arrays[f"{part}_labels"] = data.labels[rows[part]]
    _check_classes(data, arrays["held_out_labels"])
    save_arrays(context.out / DATA_FILE, arrays)
    context.write_json(
        "data.json",
        {
            "classes": list(data.classes),
            "source": data.source,
            "license": data.license,
            "rows": {part: len(rows[part]) for part in PARTS},
            "sha256": arrays_digest(arrays),
        },
    )


def _check(data: Dataset, factory: str, contract: Mapping[str, Any]) -> None:
    """The data must be what the recipe says a client sends, before anything is trained on it."""
    inputs, labels = data.inputs, data.labels
    shape, low, high = tuple(contract["shape"]), contract["minimum"], contract["maximum"]
    if inputs.dtype != np.float32 or inputs.shape[1:] != shape:
        raise _unfit(factory, f"a row is {inputs.dtype} {inputs.shape[1:]}, and float32 {shape} is declared")
    if not np.all(np.isfinite(inputs)):
        raise _unfit(factory, "inputs hold values that are not finite")
    if inputs.min() < low or inputs.max() > high:
        span = f"{inputs.min():g} to {inputs.max():g}"
        raise _unfit(factory, f"inputs go from {span}, and {low:g} to {high:g} is declared")
    if labels.dtype != np.int64 or labels.shape != inputs.shape[:1]:
        raise _unfit(factory, "labels are not one int64 a row")
    if labels.min() < 0 or labels.max() >= len(data.classes):
        raise _unfit(factory, "labels lie outside the classes")


def _check_classes(data: Dataset, held_out: Array) -> None:
    missing = sorted(set(range(len(data.classes))) - set(held_out.tolist()))
    if missing:
        raise ArtifactError(
            f"No held-out row shows the class {data.classes[missing[0]]!r}, so nothing can be said of it.",
            remedy="Hold out more rows, or bring more data.",
            subject=data.classes[missing[0]],
        )


def _unfit(factory: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"The data of {factory} does not fit the recipe: {what}.",
        remedy="Correct the recipe's input, or the data.",
        subject=factory,
    )
