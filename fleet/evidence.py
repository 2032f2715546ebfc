"""The evidence on a canary: counts per device, and the e-processes that are fed from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from fleet import eprocess
from fleet.eprocess import Arms, EProcess

Arm = Literal["canary", "baseline"]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What one device answered from one bundle: requests, failed ones, labels seen, and wrong answers
    among the labelled."""

    requests: int = 0
    errors: int = 0
    labels: int = 0
    wrong: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            labels=self.labels + other.labels,
            wrong=self.wrong + other.wrong,
        )


@dataclass(frozen=True)
class Sample:
    """New counts of one device, of one arm. A batch of them is in the order of arrival."""

    arm: Arm
    device: str
    counts: Counts


class Criteria(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a canary is good enough, and when it is too bad. All rates are shares in [0, 1].

    `alpha` bounds the chance to abort a canary that is not worse; `alpha_promote` the chance to promote one
    that is worse by its margin or more, on either metric. `error_margin` and `accuracy_margin` say how much
    worse (in error rate, in labelled accuracy) would still do; an `accuracy_margin` of None takes labels out
    of the verdict. Every canary must have answered at least `min_requests`.
    """

    alpha: float = 0.05
    alpha_promote: float = 0.05
    error_margin: float = 0.02
    accuracy_margin: float | None = 0.02
    min_requests: int = 50

    def __post_init__(self) -> None:
        for name in ("alpha", "alpha_promote"):
            if not 0 < getattr(self, name) <= 0.5:
                raise ValueError(f"{name} must lie above 0 and not above 0.5")
        if not 0 < self.error_margin <= 0.5:
            raise ValueError("error_margin must lie above 0 and not above 0.5")
        if self.accuracy_margin is not None and not 0 < self.accuracy_margin <= 0.5:
            raise ValueError("accuracy_margin must lie above 0 and not above 0.5")
        if not 1 <= self.min_requests <= 1_000_000_000:
            raise ValueError("min_requests must lie between 1 and 1,000,000,000")


class MetricEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """Both questions on one metric: is the canary worse, and is it surely no worse than the margin?"""

    worse: EProcess
    no_worse: EProcess

    def update(self, batches: list[Arms]) -> MetricEvidence:
        """The evidence after more outcomes."""
        return MetricEvidence(worse=self.worse.update(batches), no_worse=self.no_worse.update(batches))


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a canary since its stage started.

    `canary` and `baseline` hold counts by device; `errors` and `accuracy` the e-processes (`accuracy` is None
    when labels are no part of the verdict).
    """

    errors: MetricEvidence
    accuracy: MetricEvidence | None
    canary: dict[str, Counts] = {}
    baseline: dict[str, Counts] = {}


def no_evidence(criteria: Criteria) -> Evidence:
    """What is known before the first window."""

    def fresh(margin: float) -> MetricEvidence:
        return MetricEvidence(worse=eprocess.start("worse", 0.0), no_worse=eprocess.start("no_worse", margin))

    accuracy = None if criteria.accuracy_margin is None else fresh(criteria.accuracy_margin)
    return Evidence(errors=fresh(criteria.error_margin), accuracy=accuracy)


def absorb(evidence: Evidence, samples: Iterable[Sample]) -> Evidence:
    """The evidence after more windows, whose counts are `samples` in the order of arrival."""
    canary, baseline = dict(evidence.canary), dict(evidence.baseline)
    errors: list[Arms] = []
    labels: list[Arms] = []
    for sample in samples:
        counts, device = sample.counts, sample.device
        if sample.arm == "canary":
            canary[device] = canary.get(device, Counts()) + counts
            errors.append(Arms(canary_n=counts.requests, canary_k=counts.errors))
            labels.append(Arms(canary_n=counts.labels, canary_k=counts.wrong))
        else:
            baseline[device] = baseline.get(device, Counts()) + counts
            errors.append(Arms(baseline_n=counts.requests, baseline_k=counts.errors))
            labels.append(Arms(baseline_n=counts.labels, baseline_k=counts.wrong))
    return Evidence(
        errors=evidence.errors.update(errors),
        accuracy=None if evidence.accuracy is None else evidence.accuracy.update(labels),
        canary=canary,
        baseline=baseline,
    )
