"""Which candidates are kept, in which order, and why each of the others is not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from toolchain.evaluation.gates import Candidate, each_variant, judge, memory_gates
from toolchain.evaluation.report import EvaluationResult
from toolchain.recipe.evaluation import AGREEMENT, Gate
from toolchain.recipe.lock import ChosenVariant, Figures, RejectedVariant
from toolchain.recipe.variants import Search, VariantSpec
from toolchain.search.candidates import UNQUANTIZED
from toolchain.search.front import Point, by_preference, first_picks, pareto

LATENCY = "latency_p50_ms"
_NO_ROOM = "on the front, and max_variants keeps"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a candidate: its evaluation and measurements, or why it could not be made or run."""

    variant: VariantSpec
    evaluation: EvaluationResult | None = None
    measurements: dict[str, float] = {}
    refusal: str | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A search's result. `reference` is the model's own metric, None if no candidate tells it."""

    reference: float | None
    chosen: tuple[ChosenVariant, ...]
    rejected: tuple[RejectedVariant, ...]


def choose(search: Search, gates: Sequence[Gate], trials: Sequence[Trial]) -> Choice:
    """The choice among the trials.

    Out are those that were refused, lack a figure, lose more than `max_drop` of the metric, or fail the
    memory budget or a gate that judges every device variant by its own value. Of the others the Pareto front
    of metric, size and latency stays, taken in each format by itself: a device has the engine of one format,
    and latencies in different engines say nothing of each other. At most `max_variants` are kept, from the
    formats in turn (see `first_picks`), and they are ordered as devices shall prefer them: by format, then
    `by_preference`.
    """
    reference = _reference(search.metric, trials)
    reasons: dict[str, str] = {}
    points: dict[str, Point] = {}
    for trial in trials:
        reason = _unfit(search, gates, trial, reference)
        if reason is not None:
            reasons[trial.variant.id] = reason
        else:
            points[trial.variant.id] = _point(search.metric, trial)
    fronts: list[list[Point]] = []
    for format in search.formats:
        own = [points[t.variant.id] for t in trials if t.variant.format == format and t.variant.id in points]
        front, beaten = pareto(own)
        fronts.append(front)
        unquantized = {t.variant.id for t in trials if t.variant.precision in UNQUANTIZED}
        for name, better in beaten.items():
            # What a user compares with first is the unquantized one.
            other = min(better, key=lambda p: p.id not in unquantized)
            reasons[name] = _beaten(points[name], other, search.metric)
    kept, full = _picked(fronts, search.max_variants)
    reasons |= full
    by_id = {trial.variant.id: trial for trial in trials}
    return Choice(
        reference=reference,
        chosen=tuple(
            ChosenVariant(variant=by_id[name].variant, figures=_figures(search.metric, by_id[name]))
            for name in kept
        ),
        rejected=tuple(
            RejectedVariant(id=name, reason=reasons[name], figures=_figures(search.metric, trial))
            for name, trial in by_id.items()
            if name in reasons
        ),
    )


def is_on_front(reason: str) -> bool:
    """Whether that is the reason for which a candidate of the front was left out: there was no room."""
    return reason.startswith(_NO_ROOM)


def _reference(metric: str, trials: Iterable[Trial]) -> float | None:
    if metric in AGREEMENT:
        return 1.0
    own = (trial.evaluation.source.get(metric) for trial in trials if trial.evaluation is not None)
    return next((value for value in own if value is not None), None)


def _unfit(search: Search, gates: Sequence[Gate], trial: Trial, reference: float | None) -> str | None:
    evaluation = trial.evaluation
    if evaluation is None:
        return trial.refusal or "it was not evaluated"
    quality = evaluation.metrics.get(search.metric)
    if quality is None or reference is None:
        return f"there is no {search.metric} of {'it' if quality is None else 'the model itself'}"
    if LATENCY not in trial.measurements:
        return f"there is no {LATENCY} of it"
    drop = round(reference - quality, 6)
    if drop > search.max_drop:
        return f"loses {drop:g} of {search.metric}, at most {search.max_drop:g} is allowed"
    name = trial.variant.id
    figures = {name: Candidate(evaluation=evaluation, measurements=trial.measurements)}
    own = [gate for gate in gates if gate.variant is None and gate.drop_against is None]
    budget = memory_gates({name: trial.variant.memory_budget_mb << 20})
    for gate in (*each_variant(own, [name]), *budget):
        outcome = judge(gate, figures)
        if not outcome.passed:
            return f"fails the gate {outcome.name} ({outcome.why()})"
    return None


def _point(metric: str, trial: Trial) -> Point:
    figures = _figures(metric, trial)
    return Point(
        id=trial.variant.id,
        quality=figures[metric],
        size_bytes=int(figures["size_bytes"]),
        latency_ms=figures[LATENCY],
    )


def _figures(metric: str, trial: Trial) -> Figures:
    if trial.evaluation is None:
        return {}
    told = {
        metric: trial.evaluation.metrics.get(metric),
        "size_bytes": trial.evaluation.size_bytes,
        LATENCY: trial.measurements.get(LATENCY),
        "memory_bytes": trial.measurements.get("memory_bytes"),
    }
    return {name: value for name, value in told.items() if value is not None}


def _beaten(point: Point, other: Point, metric: str) -> str:
    size = "larger" if point.size_bytes > other.size_bytes else "no smaller"
    speed = "slower" if point.latency_ms > other.latency_ms else "no faster to speak of"
    quality = "worse" if point.quality < other.quality else "no better"
    return (
        f"{size} than {other.id} ({point.size_bytes} and {other.size_bytes} bytes), {speed} "
        f"({point.latency_ms:.3g} and {other.latency_ms:.3g} ms) and {quality} "
        f"({metric} {point.quality:g} and {other.quality:g})"
    )


def _picked(fronts: Sequence[Sequence[Point]], most: int) -> tuple[list[str], Mapping[str, str]]:
    """The ids that are kept in their order, and why the others of the fronts are not."""
    queues = [first_picks(front) for front in fronts]
    in_turn = [
        queue[turn]
        for turn in range(max(map(len, queues), default=0))
        for queue in queues
        if turn < len(queue)
    ]
    kept, left = {point.id for point in in_turn[:most]}, in_turn[most:]
    ordered = [point.id for front in fronts for point in by_preference(front) if point.id in kept]
    why = f"{_NO_ROOM} {most} of the {len(in_turn)} there"
    return ordered, {point.id: why for point in left}
