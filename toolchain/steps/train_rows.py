"""The training step of a torch module on rows of numbers: one run, one seed, alone or distilled."""

from __future__ import annotations

from toolchain.handover.context import StepContext
from toolchain.training.job import run_job
from toolchain.training.run_rows import run_rows


def run(context: StepContext) -> None:
    """Writes `model/weights.safetensors` and `training.json`; see toolchain/steps/__init__.py."""
    run_job(run_rows, context)
