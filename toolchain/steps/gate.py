"""The gate step: holds every figure against the recipe's conditions. A figure that is missing fails."""

from __future__ import annotations

import msgspec

from edgeops.errors import GateError
from edgeops.manifest import MEASUREMENTS_FILE
from toolchain.documents.report import collect
from toolchain.evaluation.gates import (
    Candidate,
    Outcome,
    each_variant,
    judge,
    judge_fallback,
    memory_gates,
    tokenizer_gates,
)
from toolchain.evaluation.report import EVALUATION_FILE, read_evaluation
from toolchain.handover.context import StepContext
from toolchain.recipe.evaluation import Gate

GATES_FILE = "gates.json"
ROLE = "evaluate-"


def run(context: StepContext) -> None:
    """Writes `gates.json`; the values of measured gates go to `measurements.json` instead, since they
    differ from run to run.

    Raises `GateError` if any gate fails, with the outcomes (`gates`) and the whole evaluation report, with
    what was measured (`report`; see toolchain/documents/report.py), in `details`.
    """
    config = context.config
    variants = [role.removeprefix(ROLE) for role in context.inputs if role.startswith(ROLE)]
    candidates = {
        variant: Candidate(
            evaluation=read_evaluation(context.read_json(f"{ROLE}{variant}", EVALUATION_FILE)),
            measurements=context.read_json(f"{ROLE}{variant}", MEASUREMENTS_FILE),
        )
        for variant in variants
    }
    gates = each_variant(msgspec.convert(config["gates"], tuple[Gate, ...]), config["device_variants"])
    automatic = (*memory_gates(config["memory_budget_bytes"]), *tokenizer_gates(candidates))
    outcomes = [judge(gate, candidates) for gate in (*gates, *automatic)]
    if "calibrate" in context.inputs:
        outcomes.append(judge_fallback(context.read_json("calibrate", "fallback.json")))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if failed:
        told = [msgspec.to_builtins(outcome) for outcome in outcomes]
        report = collect(context, config, told)
        report["measurements"] = {
            "variants": {name: found.measurements for name, found in candidates.items()}
        }
        raise GateError(
            f"{len(failed)} of {len(outcomes)} gates failed, the first one: {_told(failed[0])}.",
            remedy="Train a better model, or change the gate if it asks for too much.",
            subject=failed[0].name,
            details={"gates": told, "report": report},
        )
    context.write_json(GATES_FILE, {"gates": [outcome.lasting() for outcome in outcomes]})
    context.write_json(
        MEASUREMENTS_FILE,
        {outcome.name: outcome.value for outcome in outcomes if outcome.measured},
    )


def _told(outcome: Outcome) -> str:
    return f"{outcome.name} ({outcome.why()})"
