"""The training step of a Hugging Face text classifier: one run, one seed, alone or distilled."""

from __future__ import annotations

from toolchain.handover.context import StepContext
from toolchain.training.job import run_job
from toolchain.training.run_text import run_text


def run(context: StepContext) -> None:
    """Writes `model/`, a Hugging Face folder, and `training.json`; see toolchain/steps/__init__.py."""
    run_job(run_text, context)
