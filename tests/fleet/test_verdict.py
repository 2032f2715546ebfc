"""Verdicts from evidence, and criteria that are refused when they are written."""

from __future__ import annotations

import numpy as np
import pytest

from edgeops.errors import BadRequestError
from fleet.evidence import Counts, Criteria, Evidence, Sample, absorb, no_evidence
from fleet.rollout_types import parse_spec
from fleet.verdict import Verdict, judge

CANARIES = ("c1", "c2")
OTHERS = ("o1", "o2", "o3", "o4")
BUNDLE = {"name": "digits", "version": "1.1.0", "digest": "a" * 64}


def traffic(
    evidence: Evidence,
    *,
    wrong: tuple[float, float],
    errors: tuple[float, float] = (0.0, 0.0),
    windows: int = 20,
    canaries: tuple[str, ...] = CANARIES,
    requests: int = 20,
    labels: int = 10,
    seed: int = 7,
) -> Evidence:
    """Windows of every device in turn; rates are (canary, others)."""
    rng = np.random.default_rng(seed)

    def counts(arm: int) -> Counts:
        return Counts(
            requests=requests,
            errors=int(rng.binomial(requests, errors[arm])),
            labels=labels,
            wrong=int(rng.binomial(labels, wrong[arm])),
        )

    samples: list[Sample] = []
    for _ in range(windows):
        samples += [Sample("canary", device, counts(0)) for device in canaries]
        samples += [Sample("baseline", device, counts(1)) for device in OTHERS]
    return absorb(evidence, samples)


def verdict(evidence: Evidence, criteria: Criteria, running: tuple[str, ...] = CANARIES) -> Verdict:
    return judge(criteria, evidence, CANARIES, running)


CRITERIA = Criteria()


def test_without_data_it_holds_and_says_what_is_missing() -> None:
    found = verdict(no_evidence(CRITERIA), CRITERIA, running=())
    assert found.decision == "hold"
    assert "c1, c2 to run the candidate" in found.missing[0]
    assert "requests on the canaries" in found.missing
    assert "labels on the canaries" in found.missing


def test_a_better_model_is_promoted_within_600_labels() -> None:
    found = verdict(traffic(no_evidence(CRITERIA), wrong=(0.03, 0.09), windows=30), CRITERIA)
    assert found.decision == "promote"
    assert found.missing == ()
    assert {figures.metric: figures.canary_n for figures in found.figures} == {
        "errors": 1200,
        "wrong labels": 600,
    }


def test_a_worse_model_is_aborted_within_100_labels() -> None:
    found = verdict(traffic(no_evidence(CRITERIA), wrong=(0.35, 0.03), windows=5), CRITERIA)
    assert found.decision == "abort"
    assert "more wrong labels" in found.reasons[0]


def test_failing_requests_abort_without_any_label() -> None:
    evidence = traffic(no_evidence(CRITERIA), wrong=(0, 0), errors=(0.5, 0.0), windows=3, labels=0)
    found = verdict(evidence, CRITERIA)
    assert found.decision == "abort"
    assert "more errors" in found.reasons[0]


def test_one_healthy_canary_of_two_is_not_enough() -> None:
    evidence = traffic(no_evidence(CRITERIA), wrong=(0.03, 0.09), windows=60, canaries=("c1",))
    found = verdict(evidence, CRITERIA, running=("c1",))
    assert found.decision == "hold"
    assert found.missing == ("c2 to run the candidate and to serve from it",)
    idle = verdict(evidence, CRITERIA)
    assert idle.missing == ("50 more requests on c2",)


def test_without_labels_it_holds_unless_they_are_left_out_of_the_verdict() -> None:
    evidence = traffic(no_evidence(CRITERIA), wrong=(0, 0), labels=0, windows=60)
    found = verdict(evidence, CRITERIA)
    assert found.decision == "hold"
    assert found.missing == ("labels on the canaries",)
    by_errors = Criteria(accuracy_margin=None)
    evidence = traffic(no_evidence(by_errors), wrong=(0, 0), labels=0, windows=60)
    assert verdict(evidence, by_errors).decision == "promote"


def test_no_canary_left_is_no_success() -> None:
    evidence = traffic(no_evidence(CRITERIA), wrong=(0.03, 0.09), windows=60)
    found = judge(CRITERIA, evidence, (), ())
    assert found.decision == "hold"
    assert found.missing == ("a canary: none is left",)


def test_harm_goes_before_promotion() -> None:
    """Errors surely no worse, labels surely worse: both questions answered, and it aborts."""
    evidence = traffic(no_evidence(CRITERIA), wrong=(0.5, 0.05), windows=40)
    found = verdict(evidence, CRITERIA)
    assert found.figures[0].no_worse.answered
    assert found.decision == "abort"


@pytest.mark.parametrize(
    "spec",
    [
        {"criteria": {"alpha": 0}},
        {"criteria": {"alpha": "0.05"}},
        {"criteria": {"alpha": float("nan")}},
        {"criteria": {"error_margin": -0.01}},
        {"criteria": {"accuracy_margin": 0}},
        {"criteria": {"min_requests": 0}},
        {"criteria": {"aplha": 0.05}},
        {"canary_count": 0},
        {"canary_share": 1.0},
        {"max_failures": -1},
        {"canary_deadline_s": 0},
        {"canary_deadline_s": float("inf")},
        {"strategy": "all-at-once", "canary_count": 1},
        {"strategy": "big-bang"},
        {"alias": "latest"},
    ],
)
def test_a_malformed_specification_is_refused_when_it_is_written(spec: dict[str, object]) -> None:
    assert parse_spec({"candidate": BUNDLE}).criteria == CRITERIA
    with pytest.raises(BadRequestError):
        parse_spec({"candidate": BUNDLE, **spec})
