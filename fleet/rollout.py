"""The rollout machine: `step(rollout, event, now_ms) -> (rollout, effects)`, as a table.

`TABLE` has a row for every event that a phase knows, with the phases that may follow; anything else raises
`IllegalTransitionError` and changes nothing. The caller stores the new state and performs the effects in one
transaction, so a restart finds either both or neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeops.errors import IllegalTransitionError
from edgeops.messages import BundleRef
from fleet.evidence import absorb, no_evidence
from fleet.progress import Progress, assess
from fleet.rollout_types import (
    Abort,
    Approve,
    Assign,
    ClearAlert,
    Effect,
    Event,
    Log,
    Look,
    Pause,
    Phase,
    Promote,
    RaiseAlert,
    Resume,
    Rollout,
    SetProduction,
    Start,
    State,
)
from fleet.verdict import judge

Outcome = tuple[State, list[Effect]]


@dataclass(frozen=True)
class Row:
    """What an event does in a phase: `act` gives the new state, whose phase is one of `to`."""

    to: tuple[Phase, ...]
    act: Callable[[Rollout, Any, int], Outcome]


def step(rollout: Rollout, event: Event, now_ms: int) -> tuple[Rollout, tuple[Effect, ...]]:
    """The rollout after `event`, and what is to be done now.

    Raises `IllegalTransitionError` when the phase does not know the event.
    """
    before = rollout.state
    row = TABLE.get((before.phase, type(event)))
    if row is None:
        raise _illegal(rollout, event, before.phase)
    after, effects = row.act(rollout, event, now_ms)
    if after.phase not in row.to:
        raise AssertionError(f"{before.phase} on {type(event).__name__} went to {after.phase}")
    if after.phase != before.phase:
        detail = {"from": before.phase, "to": after.phase, "reason": after.reason}
        effects.append(Log("transition", detail))
    return msgspec.structs.replace(rollout, state=after), tuple(effects)


def failures(state: State) -> list[str]:
    """What failed on which moved device, one sentence each."""
    return [f"{name}: {each.detail}" for name, each in _moved(state) if each.status == "failed"]


def _approve(rollout: Rollout, event: Approve, now_ms: int) -> Outcome:
    reason = f"Approved by {event.actor}."
    return _replace(rollout.state, phase="approved", reason=reason, plan=event.plan), []


def _start(rollout: Rollout, event: Start, now_ms: int) -> Outcome:
    spec = rollout.spec
    state = _replace(rollout.state, cursor=event.cursor, started_at_ms=now_ms)
    if spec.strategy == "all-at-once":
        return _move_all(rollout, state, "All devices are moved at once.", now_ms)
    state = _replace(
        state,
        **_stage("canary", f"{len(state.plan.canaries)} canaries are moved.", spec.canary_deadline_s, now_ms),
        evidence=no_evidence(spec.criteria),
    )
    return _assign_candidate(rollout, state, state.plan.canaries)


def _promote(rollout: Rollout, event: Promote, now_ms: int) -> Outcome:
    if rollout.state.resume_to == "rolling_out":
        raise _illegal(rollout, event, "promoted already")
    state, effects = _move_all(rollout, rollout.state, f"Promoted by {event.actor}.", now_ms)
    return state, [*effects, ClearAlert(_held_key(rollout))]


def _pause(rollout: Rollout, event: Pause, now_ms: int) -> Outcome:
    reason = f"Paused by {event.actor}{_because(event.reason)}."
    return _replace(rollout.state, phase="paused", reason=reason, resume_to=rollout.state.phase), []


def _resume(rollout: Rollout, event: Resume, now_ms: int) -> Outcome:
    phase = rollout.state.resume_to
    assert phase is not None, "pausing stores the phase"
    spec = rollout.spec
    seconds = spec.canary_deadline_s if phase == "canary" else spec.rollout_deadline_s
    # The evidence goes on where it was: it may be looked at and continued at any time.
    state = _replace(
        rollout.state,
        phase=phase,
        reason=f"Resumed by {event.actor}.",
        deadline_at_ms=_deadline(seconds, now_ms),
        resume_to=None,
    )
    return state, [ClearAlert(_held_key(rollout))]


def _abort(rollout: Rollout, event: Abort, now_ms: int) -> Outcome:
    state, effects = _roll_back(rollout, f"Aborted by {event.actor}{_because(event.reason)}.", now_ms)
    return state, [*effects, ClearAlert(_held_key(rollout))]


def _look_at_canary(rollout: Rollout, event: Look, now_ms: int) -> Outcome:
    state, effects = _observe(rollout, event, now_ms)
    alarm = _too_many_failures(rollout, state)
    verdict = state.verdict
    assert verdict is not None, "observing a canary judges it"
    if alarm is None and verdict.decision == "abort":
        alarm = " ".join(verdict.reasons)
    if alarm is not None:
        state, more = _roll_back(msgspec.structs.replace(rollout, state=state), alarm, now_ms)
        return state, [*effects, *more, _aborted_alert(rollout, alarm)]
    if verdict.decision == "promote":
        state, more = _move_all(rollout, state, " ".join(verdict.reasons), now_ms)
        return state, [*effects, *more]
    return _hold_if_late(rollout, state, effects, verdict.missing, now_ms)


def _look_at_rollout(rollout: Rollout, event: Look, now_ms: int) -> Outcome:
    state, effects = _observe(rollout, event, now_ms)
    alarm = _too_many_failures(rollout, state)
    if alarm is not None:
        state, more = _roll_back(msgspec.structs.replace(rollout, state=state), alarm, now_ms)
        return state, [*effects, *more, _aborted_alert(rollout, alarm)]
    waiting = [f"{name}: {each.detail}" for name, each in _moved(state) if _is_under_way(each)]
    updated = [name for name, each in _moved(state) if each.status == "updated"]
    if waiting or not updated:
        missing = waiting or ["No device of the cohort is left that runs the candidate."]
        return _hold_if_late(rollout, state, effects, missing, now_ms)
    failed = failures(state)
    reason = f"{len(updated)} devices run the candidate." + (
        f" Failed: {'; '.join(failed)}" if failed else ""
    )
    state = _replace(state, phase="completed", reason=reason, deadline_at_ms=None)
    spec = rollout.spec
    return state, [
        *effects,
        SetProduction(spec.candidate, spec.alias),
        ClearAlert(_aborted_key(rollout)),
        ClearAlert(_failed_key(rollout)),
    ]


def _look_while_paused(rollout: Rollout, event: Look, now_ms: int) -> Outcome:
    return _observe(rollout, event, now_ms)


def _look_at_return(rollout: Rollout, event: Look, now_ms: int) -> Outcome:
    state, effects = _follow(rollout, event, now_ms)
    away = [f"{name}: {each.detail}" for name, each in _moved(state) if not _is_back(each)]
    if not away:
        return _replace(state, phase="aborted", deadline_at_ms=None), effects
    if not _is_late(state, now_ms):
        return state, effects
    reason = f"{state.reason} Not back in time: {'; '.join(away)}"
    alert = RaiseAlert(
        _failed_key(rollout),
        "rollout_failed",
        "critical",
        f"Rollout {rollout.id} of {_label(rollout)}: {reason}",
    )
    return _replace(state, phase="failed", reason=reason, deadline_at_ms=None), [*effects, alert]


def _observe(rollout: Rollout, event: Look, now_ms: int) -> Outcome:
    """Progress and evidence after a look; a canary that is judged gets a verdict."""
    state, effects = _follow(rollout, event, now_ms)
    judged = state.phase == "canary" or state.resume_to == "canary"
    if state.evidence is None or not judged:
        return state, effects
    evidence = absorb(state.evidence, event.samples)
    canaries = [name for name, each in _moved(state) if each.status != "revoked"]
    running = [name for name, each in _moved(state) if each.status == "updated"]
    verdict = judge(rollout.spec.criteria, evidence, canaries, running)
    if event.samples:
        effects.append(Log("look", msgspec.to_builtins(verdict)))
    return _replace(state, evidence=evidence, verdict=verdict), effects


def _follow(rollout: Rollout, event: Look, now_ms: int) -> Outcome:
    """The progress of every moved device, towards the candidate or, in a roll back, towards what it ran."""
    state, spec = rollout.state, rollout.spec
    reports = {report.device: report for report in event.reports}
    served = {each.device for each in event.samples if each.arm == "canary" and each.counts.requests}
    returning = state.phase == "rolling_back"
    previous = {each.name: each.previous for each in state.plan.devices}
    progress = dict(state.progress)
    effects: list[Effect] = []
    for name in state.moved:
        target = previous[name] if returning else spec.candidate
        digest = target.digest if target is not None else None
        before, report = progress.get(name, Progress()), reports.get(name)
        if report is None:
            continue
        progress[name] = after = assess(
            before,
            report,
            target=digest,
            returning=returning,
            require_served=spec.require_served,
            served=name in served,
            offline_after_ms=round(spec.offline_after_s * 1000),
            now_ms=now_ms,
        )
        if (after.status, after.detail) != (before.status, before.detail):
            effects.append(Log("device", {"device": name, "status": after.status, "detail": after.detail}))
        if report.desired_digest != digest and not report.revoked and state.phase != "paused":
            effects.append(Assign(name, target))
    return _replace(state, progress=progress, cursor=event.cursor), effects


def _move_all(rollout: Rollout, state: State, reason: str, now_ms: int) -> Outcome:
    rest = [each.name for each in state.plan.devices if each.name not in set(state.moved)]
    stage = _stage("rolling_out", reason, rollout.spec.rollout_deadline_s, now_ms)
    return _assign_candidate(rollout, _replace(state, **stage), rest)


def _assign_candidate(rollout: Rollout, state: State, names: Iterable[str]) -> Outcome:
    names = tuple(names)
    progress = {**state.progress, **{name: Progress() for name in names}}
    effects: list[Effect] = [Assign(name, rollout.spec.candidate) for name in names]
    return _replace(state, moved=(*state.moved, *names), progress=progress), effects


def _roll_back(rollout: Rollout, reason: str, now_ms: int) -> Outcome:
    state = rollout.state
    if not state.moved:
        return _replace(state, phase="aborted", reason=reason, deadline_at_ms=None), []
    previous: dict[str, BundleRef | None] = {each.name: each.previous for each in state.plan.devices}
    state = _replace(
        state,
        **_stage("rolling_back", reason, rollout.spec.rollback_deadline_s, now_ms),
        progress={name: Progress() for name in state.moved},
    )
    return state, [Assign(name, previous[name]) for name in state.moved]


def _stage(phase: Phase, reason: str, seconds: float, now_ms: int) -> dict[str, Any]:
    return {
        "phase": phase,
        "reason": reason,
        "stage_started_at_ms": now_ms,
        "deadline_at_ms": _deadline(seconds, now_ms),
        "resume_to": None,
    }


def _hold_if_late(
    rollout: Rollout, state: State, effects: list[Effect], missing: Iterable[str], now_ms: int
) -> Outcome:
    if not _is_late(state, now_ms):
        return state, effects
    reason = f"Held at the deadline; still missing: {'; '.join(missing)}"
    message = f"Rollout {rollout.id} of {_label(rollout)}: {reason}"
    alert = RaiseAlert(_held_key(rollout), "rollout_held", "warning", message)
    return _replace(state, phase="paused", reason=reason, resume_to=state.phase), [*effects, alert]


def _too_many_failures(rollout: Rollout, state: State) -> str | None:
    failed = failures(state)
    limit = rollout.spec.max_failures
    return (
        f"{len(failed)} devices failed, {limit} allowed. {' '.join(failed)}" if len(failed) > limit else None
    )


def _moved(state: State) -> list[tuple[str, Progress]]:
    return [(name, state.progress[name]) for name in state.moved]


def _illegal(rollout: Rollout, event: Event, what: str) -> IllegalTransitionError:
    verb = type(event).__name__.lower()
    return IllegalTransitionError(
        f"A rollout that is {what} cannot {verb}.",
        remedy="Look at it with edgeops fleet rollout status.",
        subject=rollout.id,
        details={"phase": rollout.state.phase, "event": verb},
    )


def _is_under_way(progress: Progress) -> bool:
    return progress.status in ("waiting", "installed")


def _is_back(progress: Progress) -> bool:
    return progress.status in ("returned", "revoked")


def _is_late(state: State, now_ms: int) -> bool:
    return state.deadline_at_ms is not None and now_ms >= state.deadline_at_ms


def _deadline(seconds: float, now_ms: int) -> int:
    return now_ms + round(seconds * 1000)


def _because(reason: str) -> str:
    return f": {reason.rstrip('.')}" if reason else ""


def _label(rollout: Rollout) -> str:
    return f"{rollout.spec.candidate.name} {rollout.spec.candidate.version}"


def _aborted_key(rollout: Rollout) -> str:
    return f"rollout_aborted/{rollout.spec.candidate.name}"


def _failed_key(rollout: Rollout) -> str:
    return f"rollout_failed/{rollout.spec.candidate.name}"


def _held_key(rollout: Rollout) -> str:
    return f"rollout_held/{rollout.id}"


def _aborted_alert(rollout: Rollout, reason: str) -> RaiseAlert:
    message = f"Rollout {rollout.id} of {_label(rollout)} was aborted: {reason}"
    return RaiseAlert(_aborted_key(rollout), "rollout_aborted", "critical", message)


def _replace(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)


TABLE: dict[tuple[Phase, type[Any]], Row] = {
    ("draft", Approve): Row(("approved",), _approve),
    ("draft", Abort): Row(("aborted",), _abort),
    ("approved", Start): Row(("canary", "rolling_out"), _start),
    ("approved", Abort): Row(("aborted",), _abort),
    ("canary", Look): Row(("canary", "rolling_out", "rolling_back", "paused"), _look_at_canary),
    ("canary", Promote): Row(("rolling_out",), _promote),
    ("canary", Pause): Row(("paused",), _pause),
    ("canary", Abort): Row(("rolling_back",), _abort),
    ("rolling_out", Look): Row(("rolling_out", "completed", "rolling_back", "paused"), _look_at_rollout),
    ("rolling_out", Pause): Row(("paused",), _pause),
    ("rolling_out", Abort): Row(("rolling_back",), _abort),
    ("paused", Look): Row(("paused",), _look_while_paused),
    ("paused", Promote): Row(("rolling_out",), _promote),
    ("paused", Resume): Row(("canary", "rolling_out"), _resume),
    ("paused", Abort): Row(("rolling_back",), _abort),
    ("rolling_back", Look): Row(("rolling_back", "aborted", "failed"), _look_at_return),
}
