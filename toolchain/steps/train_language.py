"""The training step of a causal language model: one run, one seed, alone or distilled."""

from __future__ import annotations

from toolchain.handover.context import StepContext
from toolchain.training.job import run_job
from toolchain.training.run_language import run_language


def run(context: StepContext) -> None:
    """Writes `model/`, a Hugging Face folder, and `training.json`; see toolchain/steps/__init__.py."""
    run_job(run_language, context)
