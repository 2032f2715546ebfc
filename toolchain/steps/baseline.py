"""The baseline step: the variant to compare with, out of an earlier bundle."""

from __future__ import annotations

import msgspec

from toolchain.evaluation.baseline import BASELINE_FILE, copy_baseline
from toolchain.handover.context import StepContext


def run(context: StepContext) -> None:
    """Writes `variant/`, `baseline.json`, and for a language model `prompts/` and `prompts.json`."""
    config = context.config
    baseline = copy_baseline(context.inputs["bundle"], context.out, name=config["name"], task=config["task"])
    context.write_json(BASELINE_FILE, msgspec.to_builtins(baseline))
