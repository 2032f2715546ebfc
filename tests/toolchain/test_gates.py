"""The judge of gates: laws, one row for each kind that fails, and that what is missing fails."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.evaluation.gates import (
    Candidate,
    each_variant,
    judge,
    judge_fallback,
    memory_gates,
    tokenizer_gates,
)
from toolchain.evaluation.report import EvaluationResult, Group
from toolchain.recipe.evaluation import MEASURED_METRICS, QUALITY_METRICS, Gate

NUMBER = st.floats(-10, 10)


def candidate(measured: Mapping[str, float] | None = None, **more: Any) -> Candidate:
    fields: dict[str, Any] = {"metrics": {}, **more}
    evaluation = EvaluationResult(variant="a", format="onnx", precision="int8", size_bytes=9, **fields)
    return Candidate(evaluation=evaluation, measurements=dict(measured or {}))


def whole(**metrics: float | None) -> Candidate:
    return candidate(metrics=metrics)


@given(value=NUMBER, low=NUMBER, high=NUMBER)
def test_a_gate_passes_exactly_inside_its_bounds(value: float, low: float, high: float) -> None:
    gate = Gate(metric="nll", variant="a", at_least=low, at_most=high)
    outcome = judge(gate, {"a": whole(nll=value)})
    assert outcome.passed == (low <= value <= high)
    assert (outcome.missed_by is None) == outcome.passed
    assert (outcome.margin is not None) == outcome.passed


@given(value=NUMBER, bound=NUMBER)
def test_by_how_much_is_the_distance_to_the_bound(value: float, bound: float) -> None:
    least = judge(Gate(metric="nll", variant="a", at_least=bound), {"a": whole(nll=value)})
    most = judge(Gate(metric="nll", variant="a", at_most=bound), {"a": whole(nll=value)})
    for outcome in (least, most):
        told = outcome.missed_by if outcome.missed_by is not None else outcome.margin
        assert told == pytest.approx(abs(value - bound), rel=1e-5)


@given(one=NUMBER, other=NUMBER, most=NUMBER)
def test_a_drop_is_how_far_the_metric_lies_below_the_other_variants(
    one: float, other: float, most: float
) -> None:
    gate = Gate(metric="accuracy", variant="a", drop_against="b", at_most=most)
    outcome = judge(gate, {"a": whole(accuracy=one), "b": whole(accuracy=other)})
    assert outcome.value == round(other - one, 6)
    assert outcome.passed == (outcome.value <= most)


SLICES = {"class=3": {"rows": 9, "accuracy": 0.4}, "site=oslo": {"rows": 50, "accuracy": 0.6}}
GROUPS = {"site": Group(gap=0.3, values={"oslo": 0.6, "rome": 0.9}, rows={"oslo": 50, "rome": 50})}
RICH = candidate(
    {"latency_p50_ms": 3.0, "latency_p99_ms": 9.0, "memory_bytes": 2e9, "tokens_per_s": 4.0},
    metrics={
        "accuracy": 0.8,
        "behaviours_passed": 0.5,
        "robust_accuracy": 0.6,
        "group_gap": 0.3,
        "size_bytes": 5e6,
        "parity_max_abs": 0.2,
        "kl_mean": 0.7,
        "top1_agreement": 0.6,
        "perplexity": 90.0,
        "prompts_passed": 0.25,
        "cosine_min": 0.1,
        "tokenizer_agreement": 0.5,
    },
    slices=SLICES,
    groups=GROUPS,
)
BASELINE = whole(accuracy=0.95)
# One gate of each kind that fails, with how much it fails by.
FAILING = {
    "quality": (Gate(metric="accuracy", at_least=0.9), 0.1),
    "slice": (Gate(metric="accuracy", slice="3", at_least=0.5), 0.1),
    "slice of an attribute": (Gate(metric="accuracy", slice="site=oslo", at_least=0.7), 0.1),
    "drop against the teacher": (Gate(metric="accuracy", drop_against="teacher", at_most=0.1), 0.09),
    "drop against the baseline": (Gate(metric="accuracy", drop_against="baseline", at_most=0.1), 0.05),
    "behaviour": (Gate(metric="behaviours_passed", at_least=1), 0.5),
    "robustness": (Gate(metric="robust_accuracy", at_least=0.7), 0.1),
    "group": (Gate(metric="group_gap", group="site", at_most=0.1), 0.2),
    "latency p50": (Gate(metric="latency_p50_ms", at_most=1), 2.0),
    "latency p99": (Gate(metric="latency_p99_ms", at_most=1), 8.0),
    "speed": (Gate(metric="tokens_per_s", at_least=10), 6.0),
    "memory": (Gate(metric="memory_bytes", at_most=1e9), 1e9),
    "size": (Gate(metric="size_bytes", at_most=4e6), 1e6),
    "parity": (Gate(metric="parity_max_abs", at_most=1e-4), 0.1999),
    "KL": (Gate(metric="kl_mean", at_most=0.2), 0.5),
    "top-1": (Gate(metric="top1_agreement", at_least=0.9), 0.3),
    "perplexity": (Gate(metric="perplexity", at_most=40), 50.0),
    "prompts": (Gate(metric="prompts_passed", at_least=1), 0.75),
    "cosine": (Gate(metric="cosine_min", at_least=0.9), 0.8),
    "tokenizer": (Gate(metric="tokenizer_agreement", at_least=0.99), 0.49),
}


@pytest.mark.parametrize("name", FAILING)
def test_each_kind_of_gate_fails_and_says_by_how_much(name: str) -> None:
    gate, by = FAILING[name]
    others = {"teacher": whole(accuracy=0.99), "baseline": BASELINE}
    outcome = judge(msgspec.structs.replace(gate, variant="a"), {"a": RICH, **others})
    assert not outcome.passed
    assert outcome.missed_by == pytest.approx(by, rel=1e-5)
    assert f"missed by {by:.3g}" in outcome.why()
    assert outcome.name.startswith(gate.metric)
    assert name.startswith(outcome.kind) or outcome.kind in ("latency", "parity", "quality")


@pytest.mark.parametrize(
    ("gate", "missing"),
    [
        (Gate(metric="accuracy", variant="nobody", at_least=0), "there is no variant nobody"),
        (Gate(metric="nll", variant="a", at_most=9), "there is no nll of a"),
        (Gate(metric="ece", variant="a", at_most=9), "there is no ece of a"),
        (Gate(metric="accuracy", variant="a", slice="7", at_least=0), r"there is no accuracy[7] of a"),
        (Gate(metric="accuracy", variant="a", slice="empty", at_least=0), "accuracy[empty]"),
        (Gate(metric="accuracy", variant="a", slice="site=rome", at_least=0), "accuracy[site=rome]"),
        (Gate(metric="group_gap", variant="a", group="age", at_most=1), "group_gap[age]"),
        (Gate(metric="group_gap", variant="a", group="few", at_most=1), "group_gap[few]"),
        (Gate(metric="accuracy", variant="a", drop_against="nobody", at_most=1), "no variant nobody"),
        (Gate(metric="accuracy", variant="a", drop_against="baseline", at_most=1), "no baseline was given"),
        (Gate(metric="latency_p99_ms", variant="a", at_most=9), "there is no latency_p99_ms of a"),
    ],
)
def test_missing_figures_fail(gate: Gate, missing: str) -> None:
    known = candidate(
        metrics={"accuracy": 1.0, "ece": None, "latency_p99_ms": 1.0},
        slices={"class=1": {"accuracy": 1.0}, "class=empty": {"rows": 0, "accuracy": None}},
        groups={"few": Group(gap=None, values={"x": 1.0}, rows={"x": 2}, excluded=("x",))},
    )
    outcome = judge(gate, {"a": known})
    assert (outcome.passed, outcome.value, outcome.missed_by) == (False, None, None)
    assert outcome.missing is not None
    assert missing in outcome.missing


@pytest.mark.parametrize("metric", [*QUALITY_METRICS, *MEASURED_METRICS])
def test_no_gate_passes_where_nothing_is_known(metric: str) -> None:
    gate = Gate(metric=metric, variant="a", at_least=-1e12, at_most=1e12)
    assert not judge(gate, {"a": whole()}).passed
    assert not judge(gate, {}).passed


def test_a_gate_without_a_variant_is_one_for_each_device_variant() -> None:
    gates = [Gate(metric="accuracy", at_least=0.5), Gate(metric="nll", variant="cloud", at_most=1)]
    assert [gate.variant for gate in each_variant(gates, ["a", "b"])] == ["a", "b", "cloud"]


def test_every_variant_is_held_to_its_memory_budget() -> None:
    gates = list(memory_gates({"a": 100, "cloud": 200}))
    known = {"a": candidate({"memory_bytes": 101.0}), "cloud": candidate({"memory_bytes": 200.0})}
    assert [judge(gate, known).passed for gate in gates] == [False, True]
    assert not judge(gates[0], {"a": candidate()}).passed


def test_language_models_have_to_read_text_as_their_source_does() -> None:
    known = {
        "gguf-q8_0": candidate(tokens=99, metrics={"tokenizer_agreement": 0.98}),
        "mlx-4bit": candidate(tokens=99, metrics={"tokenizer_agreement": 1.0}),
        "baseline": candidate(tokens=99, metrics={}),
    }
    outcomes = {gate.variant: judge(gate, known).passed for gate in tokenizer_gates(known)}
    assert outcomes == {"gguf-q8_0": False, "mlx-4bit": True}
    assert list(tokenizer_gates({"a": whole(accuracy=1.0)})) == []


def test_what_was_measured_is_no_part_of_the_identity() -> None:
    gates = [
        Gate(metric="latency_p50_ms", variant="a", at_most=9),
        Gate(metric="accuracy", variant="a", at_least=0),
    ]
    slow, sound = (judge(gate, {"a": RICH}) for gate in gates)
    assert {"value", "margin", "missed_by"}.isdisjoint(slow.lasting())
    assert slow.lasting()["passed"] is True
    assert sound.lasting()["value"] == 0.8


def test_the_fallbacks_error_is_judged_by_its_upper_bound() -> None:
    fallback = {"judged": "a", "target_error": 0.1, "found": None, "reason": "no threshold is good enough"}
    nothing = judge_fallback(fallback)
    assert (nothing.passed, nothing.value) == (False, None)
    assert nothing.why() == "no threshold is good enough"
    found = {**fallback, "reason": None, "found": {"calibration": {"error_bound": 0.05}}}
    assert judge_fallback(found).passed
    found["found"] = {"calibration": {"error_bound": 0.11}}
    assert judge_fallback(found).missed_by == pytest.approx(0.01)
