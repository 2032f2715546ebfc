"""The judge of gates: figures against conditions. A figure that is missing fails. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from toolchain.evaluation.report import EvaluationResult
from toolchain.recipe.evaluation import BASELINE, MEASURED_METRICS, Gate

Kind = Literal[
    "quality",
    "slice",
    "drop",
    "parity",
    "behaviour",
    "robustness",
    "group",
    "prompts",
    "size",
    "latency",
    "memory",
    "fallback",
]

# The end of the last window may cut a word that a tokenizer would join: that is no difference in reading.
LEAST_TOKENIZER_AGREEMENT = 0.99

_KINDS: dict[str, Kind] = {
    "behaviours_passed": "behaviour",
    "robust_accuracy": "robustness",
    "group_gap": "group",
    "prompts_passed": "prompts",
    "size_bytes": "size",
    "latency_p50_ms": "latency",
    "latency_p99_ms": "latency",
    "first_token_ms": "latency",
    "tokens_per_s": "latency",
    "memory_bytes": "memory",
    "parity_max_abs": "parity",
    "parity_agreement": "parity",
    "cosine_min": "parity",
    "kl_mean": "parity",
    "tokenizer_agreement": "parity",
    "top1_agreement": "parity",
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one gate. `value` is the figure judged (of a gate with `drop_against` the drop), None if
    it is missing; `missing` then says what is. `missed_by` is how far it lies outside the bounds, `margin`
    how far inside: one of the two is a number where there is a value."""

    name: str
    kind: Kind
    metric: str
    variant: str
    passed: bool
    value: float | None
    at_least: float | None = None
    at_most: float | None = None
    slice: str | None = None
    group: str | None = None
    drop_against: str | None = None
    missed_by: float | None = None
    margin: float | None = None
    missing: str | None = None

    @property
    def measured(self) -> bool:
        """Whether the value was measured in this run, so that it is no part of a bundle's identity."""
        return self.metric in MEASURED_METRICS

    def lasting(self) -> dict[str, Any]:
        """The outcome as `gates.json` and the report hold it: without what was measured."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        if self.measured:
            for name in ("value", "missed_by", "margin"):
                del told[name]
        return told

    def why(self) -> str:
        """What was found, in a few words."""
        if self.value is None:
            return self.missing or "there is no such figure"
        found = f"{self.value:.6g} found"
        return found if self.missed_by is None else f"{found}, missed by {self.missed_by:.3g}"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one variant: its evaluation, and what was measured in this run."""

    evaluation: EvaluationResult
    measurements: dict[str, float]

    def figure(self, gate: Gate) -> float | None:
        """The figure that the gate means, or None."""
        if gate.metric in MEASURED_METRICS:
            return self.measurements.get(gate.metric)
        return self.evaluation.figure(gate.metric, slice=gate.slice, group=gate.group)


def each_variant(gates: Iterable[Gate], device_variants: Sequence[str]) -> Iterator[Gate]:
    """The gates, those without a variant once for each device variant."""
    for gate in gates:
        if gate.variant is not None:
            yield gate
        else:
            for variant in device_variants:
                yield msgspec.structs.replace(gate, variant=variant)


def memory_gates(budget_bytes: Mapping[str, int]) -> Iterator[Gate]:
    """The gates that hold each variant to its memory budget, which goes into the manifest."""
    for variant, size_bytes in budget_bytes.items():
        yield Gate(metric="memory_bytes", variant=variant, at_most=size_bytes)


def tokenizer_gates(candidates: Mapping[str, Candidate]) -> Iterator[Gate]:
    """The gates that hold each language model to reading text as the model itself does: what a device gives
    it would else not be what it was evaluated on."""
    for variant, candidate in candidates.items():
        if variant != BASELINE and candidate.evaluation.tokens is not None:
            yield Gate(metric="tokenizer_agreement", variant=variant, at_least=LEAST_TOKENIZER_AGREEMENT)


def judge(gate: Gate, candidates: Mapping[str, Candidate]) -> Outcome:
    """The outcome of a gate that names its variant."""
    assert gate.variant is not None
    value, missing = _found(gate, gate.variant, candidates)
    if gate.drop_against is not None:
        other, other_missing = _found(gate, gate.drop_against, candidates)
        missing = missing or other_missing
        value = None if value is None or other is None else round(other - value, 6)
    missed_by = margin = None
    if value is not None:
        # Below 0 means outside: how far the nearer bound is away.
        distance = min(
            value - gate.at_least if gate.at_least is not None else float("inf"),
            gate.at_most - value if gate.at_most is not None else float("inf"),
        )
        missed_by, margin = (_short(-distance), None) if distance < 0 else (None, _short(distance))
    return Outcome(
        name=gate.name,
        kind=_kind(gate),
        metric=gate.metric,
        variant=gate.variant,
        passed=margin is not None,
        value=value,
        at_least=gate.at_least,
        at_most=gate.at_most,
        slice=gate.slice,
        group=gate.group,
        drop_against=gate.drop_against,
        missed_by=missed_by,
        margin=margin,
        missing=missing,
    )


def judge_fallback(fallback: Mapping[str, Any]) -> Outcome:
    """Whether some threshold keeps the error of the answers that a device gives itself under the target.
    `fallback` is what the calibrate step wrote."""
    found, target = fallback["found"], fallback["target_error"]
    bound = None if found is None else found["calibration"]["error_bound"]
    return Outcome(
        name=f"error of answers kept by {fallback['judged']} <= {target:g}",
        kind="fallback",
        metric="accepted_error",
        variant=fallback["judged"],
        passed=bound is not None and bound <= target,
        value=bound,
        at_most=target,
        margin=None if bound is None or bound > target else _short(target - bound),
        missed_by=None if bound is None or bound <= target else _short(bound - target),
        missing=fallback["reason"] if bound is None else None,
    )


def _found(gate: Gate, variant: str, candidates: Mapping[str, Candidate]) -> tuple[float | None, str | None]:
    candidate = candidates.get(variant)
    if candidate is None:
        absent = "no baseline was given" if variant == BASELINE else f"there is no variant {variant}"
        return None, absent
    value = candidate.figure(gate)
    if value is None:
        narrowed = gate.slice if gate.slice is not None else gate.group
        what = gate.metric + (f"[{narrowed}]" if narrowed is not None else "")
        return None, f"there is no {what} of {variant}"
    return value, None


def _kind(gate: Gate) -> Kind:
    if gate.slice is not None:
        return "slice"
    if gate.drop_against is not None:
        return "drop"
    return _KINDS.get(gate.metric, "quality")


def _short(value: float) -> float:
    """Six significant digits: a difference of two figures has no more."""
    return float(f"{value:.6g}")
