"""The step that weighs the runs of a trained model: which one ships, and what distilling gained."""

from __future__ import annotations

import shutil
from itertools import product

from toolchain.handover.context import StepContext
from toolchain.training.gain import MORE_IS_BETTER, alone, summary


def run(context: StepContext) -> None:
    """Writes `model/`, that of the run which is best on the calibration rows, and `training.json`.

    For classifiers these are the ones that may choose (see toolchain/evaluation/parting.py). The held-out
    rows only tell: a figure that had a part in the choice would be that of the luckiest run. So a model that
    learned from a teacher ships only if it is no worse than those that learned alone; of equals the
    distilled one ships, and of these the first seed's.
    """
    config = context.config
    metric = "perplexity" if config["task"] == "text-generation" else "accuracy"
    kinds = ("distilled", "alone") if config["distilled"] else ("alone",)
    figures = {
        (seed, kind): context.read_json(f"run-{seed}-{kind}", "training.json")
        for kind, seed in product(kinds, config["seeds"])
    }
    sign = 1 if MORE_IS_BETTER[metric] else -1
    chosen_by = f"calibration_{metric}"
    seed, kind = max(figures, key=lambda run: sign * figures[run][chosen_by])
    shutil.copytree(context.inputs[f"run-{seed}-{kind}"] / "model", context.out / "model")
    runs = [
        {"seed": seed, **{kind: figures[seed, kind][metric] for kind in kinds}} for seed in config["seeds"]
    ]
    told = summary(runs, metric=metric) if config["distilled"] else alone(runs, metric=metric)
    training = figures[seed, kind]
    # The figures of one run stand among the runs; what it was made of stays beside them.
    of_one_run = {metric, chosen_by, "seed", "kind"}
    context.write_json(
        "training.json",
        {
            **{name: value for name, value in training.items() if name not in of_one_run},
            "shipped": {"seed": seed, "kind": kind, chosen_by: training[chosen_by]},
            "distillation" if config["distilled"] else "training": told,
        },
    )
