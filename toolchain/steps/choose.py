"""The step that weighs the runs of a trained model: the first seed's ships, and what distilling gained is
told."""

from __future__ import annotations

import shutil

from toolchain.steps.context import StepContext
from toolchain.training.gain import alone, summary


def run(context: StepContext) -> None:
    """Writes `model/`, the first seed's model (distilled, if there is a teacher), and `training.json`.

    Nothing is chosen by the figures: picking the best seed on the held-out rows would make them worthless.
    """
    config = context.config
    metric = "perplexity" if config["task"] == "text-generation" else "accuracy"
    kinds = ("alone", "distilled") if config["distilled"] else ("alone",)
    runs = [
        {
            "seed": seed,
            **{kind: context.read_json(f"run-{seed}-{kind}", "training.json")[metric] for kind in kinds},
        }
        for seed in config["seeds"]
    ]
    shipped = f"run-{config['seeds'][0]}-{kinds[-1]}"
    shutil.copytree(context.inputs[shipped] / "model", context.out / "model")
    training = context.read_json(shipped, "training.json")
    told = summary(runs, metric=metric) if config["distilled"] else alone(runs, metric=metric)
    # The figures of one run stand among the runs; what is the same in all stays beside them.
    of_one_run = {metric, "seed", "kind"}
    context.write_json(
        "training.json",
        {
            **{name: value for name, value in training.items() if name not in of_one_run},
            "distillation" if config["distilled"] else "training": told,
        },
    )
