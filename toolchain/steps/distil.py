"""The student step: trains the student with the teacher and without, for each seed, and tells the gain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeops.errors import ArtifactError, ConfigError
from toolchain.steps.arrays import Array, load_part
from toolchain.steps.context import StepContext
from toolchain.steps.gain import summary
from toolchain.steps.training import (
    Distillation,
    accuracy,
    build,
    load_weights,
    logits_of,
    make_deterministic,
    save_weights,
    train,
)


def run(context: StepContext) -> None:
    """Writes `weights.npz` (the first seed's distilled student) and `training.json`.

    `training.json` has the held-out accuracy of both students for each seed. The figures are told, never
    chosen by: picking the best seed on them would make them worthless.
    """
    make_deterministic()
    student = context.config["student"]
    classes = context.read_json("data", "data.json")["classes"]
    inputs, labels = _chosen_rows(context, student["class_share"], classes)
    teacher = build(context.config["teacher"], seed=0)
    load_weights(teacher, context.inputs["teacher"])
    distillation = Distillation(logits=logits_of(teacher, inputs), **student["distillation"])
    held_out = load_part(context.inputs["data"], "held_out")
    seeds = student["seeds"]
    runs: list[dict[str, Any]] = []
    parameters = 0
    for number, seed in enumerate(seeds):
        figures: dict[str, Any] = {"seed": seed}
        for half, (kind, soft) in enumerate({"alone": None, "distilled": distillation}.items()):
            done = 2 * number + half

            def progress(share: float, done: int = done, note: str = f"{kind}, seed {seed}") -> None:
                context.progress((done + share) / (2 * len(seeds)), note)

            module = build(student, seed=seed)
            train(
                module,
                inputs,
                labels,
                student["training"],
                seed=seed,
                distillation=soft,
                progress=progress,
            )
            figures[kind] = accuracy(module, *held_out)
            if kind == "distilled" and number == 0:
                save_weights(module, context.out)
                parameters = sum(parameter.numel() for parameter in module.parameters())
        runs.append(figures)
    context.write_json(
        "training.json",
        {"parameters": parameters, "train_rows": len(labels), "distillation": summary(runs)},
    )


def _chosen_rows(
    context: StepContext, class_share: Mapping[str, float], classes: list[str]
) -> tuple[Array, Array]:
    """The training rows, of each class the first `class_share` of them in the split's order."""
    inputs, labels = load_part(context.inputs["data"], "train")
    keep = np.ones(len(labels), dtype=bool)
    for name, share in class_share.items():
        if name not in classes:
            raise ConfigError(
                f"class_share names the class {name!r}, which the data does not have.",
                remedy=f"Use one of {', '.join(classes)}.",
                subject="student.class_share",
            )
        rows = np.flatnonzero(labels == classes.index(name))
        keep[rows[math.ceil(share * len(rows)) :]] = False
    if not keep.any():
        raise ArtifactError(
            "class_share leaves no rows to train on.",
            remedy="Raise the shares in the recipe.",
            subject="student.class_share",
        )
    return inputs[keep], labels[keep]
