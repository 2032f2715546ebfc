"""The verdict on a canary: promote, hold or abort. A value, with its reasons and figures.

Missing data is never success: without requests on every canary, and without a baseline to compare with, the
verdict is to hold, and `missing` says what it waits for. See docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import msgspec

from fleet.eprocess import EProcess
from fleet.evidence import Criteria, Evidence, MetricEvidence

Decision = Literal["promote", "hold", "abort"]
Metric = Literal["errors", "wrong labels"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One e-process as figures. `log10_e` against `log10_threshold`: from there on the question is
    answered with yes."""

    margin: float
    log10_e: float
    log10_threshold: float

    @property
    def answered(self) -> bool:
        """Whether the evidence suffices."""
        return self.log10_e >= self.log10_threshold


class MetricFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One metric on both arms: outcomes (`_n`), bad ones (`_bad`), and both questions."""

    metric: Metric
    canary_n: int
    canary_bad: int
    baseline_n: int
    baseline_bad: int
    worse: Question
    no_worse: Question


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`reasons` says in words why; `missing` what is not there yet (empty unless `decision` is `hold`)."""

    decision: Decision
    reasons: tuple[str, ...]
    missing: tuple[str, ...]
    figures: tuple[MetricFigures, ...]


def judge(
    criteria: Criteria, evidence: Evidence, canaries: Collection[str], running: Collection[str]
) -> Verdict:
    """The verdict on what is known now.

    `canaries` are the devices that must show that they serve; `running` those among them that report the
    candidate as loaded and have served from it. Abort goes before promote.
    """
    metrics: list[tuple[Metric, MetricEvidence]] = [("errors", evidence.errors)]
    if evidence.accuracy is not None:
        metrics.append(("wrong labels", evidence.accuracy))
    # The chance of a false abort is shared out over the metrics (Bonferroni). Promotion needs all of them,
    # so there every one may use its chance whole.
    alpha = criteria.alpha / len(metrics)
    figures = tuple(_figures(name, metric, alpha, criteria.alpha_promote) for name, metric in metrics)
    worse = tuple(_worse(each) for each in figures if each.worse.answered)
    if worse:
        return Verdict(decision="abort", reasons=worse, missing=(), figures=figures)
    missing = (
        *_missing_devices(criteria, evidence, canaries, running),
        *(_missing_evidence(each) for each in figures if not each.no_worse.answered),
    )
    if missing:
        reasons = ("Nothing speaks against the candidate, but not enough speaks for it yet.",)
        return Verdict(decision="hold", reasons=reasons, missing=missing, figures=figures)
    return Verdict(
        decision="promote", reasons=tuple(_no_worse(each) for each in figures), missing=(), figures=figures
    )


def _figures(name: Metric, evidence: MetricEvidence, alpha: float, alpha_promote: float) -> MetricFigures:
    arms = evidence.worse.total
    return MetricFigures(
        metric=name,
        canary_n=arms.canary_n,
        canary_bad=arms.canary_k,
        baseline_n=arms.baseline_n,
        baseline_bad=arms.baseline_k,
        worse=_question(evidence.worse, alpha),
        no_worse=_question(evidence.no_worse, alpha_promote),
    )


def _question(process: EProcess, alpha: float) -> Question:
    return Question(
        margin=process.margin,
        log10_e=process.log_e / math.log(10),
        log10_threshold=-math.log10(alpha),
    )


def _missing_devices(
    criteria: Criteria, evidence: Evidence, canaries: Collection[str], running: Collection[str]
) -> tuple[str, ...]:
    if not canaries:
        return ("a canary: none is left",)
    found = []
    idle = sorted(set(canaries) - set(running))
    if idle:
        found.append(f"{_list(idle)} to run the candidate and to serve from it")
    for device in sorted(set(canaries) & set(running)):
        counts = evidence.canary.get(device)
        requests = counts.requests if counts is not None else 0
        if requests < criteria.min_requests:
            found.append(f"{criteria.min_requests - requests} more requests on {device}")
    return tuple(found)


def _missing_evidence(figures: MetricFigures) -> str:
    question = figures.no_worse
    if figures.canary_n == 0 or figures.baseline_n == 0:
        arm = "the canaries" if figures.canary_n == 0 else "the baseline devices"
        what = "labels" if figures.metric == "wrong labels" else "requests"
        return f"{what} on {arm}"
    return (
        f"evidence that {figures.metric} are less than {question.margin * 100:g} percentage points above "
        f"the baseline's: e = {_power(question.log10_e)} of {_power(question.log10_threshold)}; "
        f"{_rates(figures)}"
    )


def _worse(figures: MetricFigures) -> str:
    question = figures.worse
    return (
        f"The canaries have more {figures.metric} than the baseline: {_rates(figures)}; "
        f"e = {_power(question.log10_e)}, {_power(question.log10_threshold)} needed."
    )


def _no_worse(figures: MetricFigures) -> str:
    question = figures.no_worse
    return (
        f"The canaries' {figures.metric} are less than {question.margin * 100:g} percentage points above "
        f"the baseline's: {_rates(figures)}; "
        f"e = {_power(question.log10_e)}, {_power(question.log10_threshold)} needed."
    )


def _rates(figures: MetricFigures) -> str:
    canary = _rate(figures.canary_bad, figures.canary_n)
    return f"{canary} on the canaries, {_rate(figures.baseline_bad, figures.baseline_n)} on the others"


def _rate(bad: int, n: int) -> str:
    return f"{bad} of {n} ({bad / n:.1%})" if n else "none seen"


def _power(log10: float) -> str:
    return f"{10**log10:.3g}" if -3 < log10 < 6 else f"10^{log10:.0f}"


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} others"
