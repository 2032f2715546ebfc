"""What each row of the update machine's table does: pure functions of (state, event, now, policy).

Work is numbered: `serial` grows with every candidate and every launch of a process. An event about work that
has been superseded bears an old number, and `update.step` drops it before it comes here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from device_agent.core.update_types import (
    Activate,
    CollectGarbage,
    Download,
    Effect,
    Emit,
    Install,
    Policy,
    Retire,
    Serve,
    ServingCrashed,
    ServingFailed,
    Slot,
    Target,
    Trial,
    UpdateState,
    Verify,
)
from edgeops.errors import IllegalTransitionError

Result = tuple[UpdateState, tuple[Effect, ...]]


# --- what the hub wants ---------------------------------------------------------------------------------


def desired(state: UpdateState, event: Any, now: int, policy: Policy) -> Result:
    if event.generation <= state.generation:
        return state, ()
    target: Target | None = event.target
    state = replace(
        _without_candidate(state),
        generation=event.generation,
        desired=target,
        attempts=0,
        failed_trials=0,
        error=None,
    )
    if target is None:
        stopped = (Emit("serving_stopped", _named(state.active.target)),) if state.active else ()
        state = replace(_without_active(state), phase="idle", previous=None)
        return state, (Retire(keep=0), *stopped, CollectGarbage())
    if state.active is not None and state.active.target.digest == target.digest:
        state = replace(state, active=replace(state.active, target=target))
        return _rest(state, now, policy), (Retire(keep=state.launch), CollectGarbage())
    state, download = _begin(state, target)
    return state, (Retire(keep=state.launch), Emit("update_started", _named(target)), *download)


def _begin(state: UpdateState, target: Target) -> Result:
    """Starts on a candidate from the beginning. What is there already is kept, so this is cheap."""
    number = state.serial + 1
    state = replace(
        _without_candidate(state),
        phase="downloading",
        candidate=target,
        serial=number,
        work=number,
        confirm_at=None,
    )
    return state, (Download(number, target),)


# --- the candidate's way --------------------------------------------------------------------------------


def downloaded(state: UpdateState, event: Any, _now: int, _policy: Policy) -> Result:
    target = _candidate(state)
    state = replace(state, phase="verifying", variant=event.variant)
    return state, (Verify(state.work, target, event.variant),)


def verified(state: UpdateState, _event: Any, _now: int, _policy: Policy) -> Result:
    return replace(state, phase="installing"), (Install(state.work, _candidate(state)),)


def installed(state: UpdateState, _event: Any, _now: int, _policy: Policy) -> Result:
    return replace(state, phase="self_testing"), (Trial(state.work, _candidate_slot(state)),)


def ready(state: UpdateState, _event: Any, _now: int, _policy: Policy) -> Result:
    return replace(state, phase="activating"), (Activate(state.work),)


def activated(state: UpdateState, _event: Any, now: int, policy: Policy) -> Result:
    slot = _candidate_slot(state)
    # Never roll back to a version that was itself not confirmed.
    older = (state.active if state.active and state.active.confirmed else None, state.previous)
    previous = next((s for s in older if s and s.target.digest != slot.target.digest), None)
    state = replace(
        _without_candidate(state),
        active=slot,
        previous=previous,
        launch=state.work,
        health="serving",
        attempts=0,
        failed_trials=0,
        crashes=(),
        restart_at=None,
        error=None,
    )
    state = _rest(state, now, policy)
    return state, (Retire(keep=state.launch), Emit("activated", _named(slot.target)), CollectGarbage())


def confirmed(state: UpdateState, _event: Any, _now: int, _policy: Policy) -> Result:
    active = _active(state)
    state = replace(state, phase="idle", active=replace(active, confirmed=True), confirm_at=None)
    return state, (Emit("confirmed", _named(active.target)), CollectGarbage())


def candidate_failed(state: UpdateState, event: Any, now: int, policy: Policy) -> Result:
    trial = isinstance(event, ServingFailed | ServingCrashed)
    state = replace(
        state,
        attempts=state.attempts + 1,
        failed_trials=state.failed_trials + trial,
        error=event.error,
    )
    target = _candidate(state)
    if event.permanent or state.failed_trials >= policy.crash_limit:
        return _refuse(_rest(_without_candidate(state), now, policy), target, event.error)
    retry_at = now + policy.delay_ms(state.attempts, event.chance)
    state = replace(_without_candidate(state), phase="waiting", candidate=target, retry_at=retry_at)
    return state, ()


def _refuse(state: UpdateState, target: Target, error: dict[str, Any]) -> Result:
    state = replace(state, rejected_generation=max(state.rejected_generation, target.generation), error=error)
    refused = Emit("bundle_refused", {**_named(target), "error": error})
    return state, (refused, CollectGarbage())


def retry(state: UpdateState, _event: Any, _now: int, _policy: Policy) -> Result:
    return _begin(state, _candidate(state))


# --- the active version's process -----------------------------------------------------------------------


def active_started(state: UpdateState, _event: Any, now: int, policy: Policy) -> Result:
    state = replace(state, health="serving", restart_at=None)
    if state.candidate is not None:
        return state, ()
    return _rest(state, now, policy), (CollectGarbage(),)


def active_died(state: UpdateState, event: Any, now: int, policy: Policy) -> Result:
    active = _active(state)
    # While a version is unconfirmed every crash counts; later on only those of the last while.
    counted = [t for t in state.crashes if not active.confirmed or t > now - policy.crash_window_ms]
    state = replace(state, crashes=(*counted, now), error=event.error, confirm_at=None)
    if len(state.crashes) >= policy.crash_limit and state.candidate is None:
        if state.previous is not None:
            return _roll_back(state, active, state.previous, event.error)
        if not active.confirmed:
            stopped = replace(_without_active(state), phase="idle")
            return _refuse(stopped, active.target, event.error)
    # The first crash is answered at once: connections are waiting in the socket's queue.
    failures = len(state.crashes) - 1
    delay = policy.delay_ms(failures, event.chance) if failures else 0
    state = replace(state, health="backoff", restart_at=now + delay)
    return state, (Emit("serving_crashed", {**_named(active.target), "error": event.error}),)


def _roll_back(state: UpdateState, bad: Slot, previous: Slot, error: dict[str, Any]) -> Result:
    state = replace(
        state,
        phase="rolling_back",
        previous=None,
        crashes=(),
        rejected_generation=max(state.rejected_generation, bad.target.generation),
        error=error,
    )
    state, serve = _launch(state, previous)
    detail = {**_named(bad.target), "to": previous.target.digest, "error": error}
    return state, (Retire(keep=state.launch), *serve, Emit("rolled_back", detail))


def restart_due(state: UpdateState, _event: Any, _now: int, _policy: Policy) -> Result:
    return _launch(state, _active(state))


def slot_damaged(state: UpdateState, event: Any, _now: int, _policy: Policy) -> Result:
    """The damaged version is fetched again; the previous one, if there is one, serves meanwhile."""
    damaged, previous = _active(state), state.previous
    state = replace(_without_active(state), previous=None, error=event.error)
    effects: tuple[Effect, ...] = (Emit("slot_damaged", {**_named(damaged.target), "error": event.error}),)
    if previous is not None:
        state, serve = _launch(state, previous)
        effects = (*effects, *serve)
    if state.candidate is None:
        state, download = _begin(replace(state, attempts=0, failed_trials=0), damaged.target)
        effects = (*effects, *download)
    return state, effects


def restarted(state: UpdateState, _event: Any, now: int, _policy: Policy) -> Result:
    # How often it crashed is remembered; when, by a clock that may have started anew, is not.
    state = replace(
        state, retry_at=None, confirm_at=None, restart_at=None, crashes=tuple(now for _ in state.crashes)
    )
    effects: tuple[Effect, ...] = ()
    if state.active is not None:
        state, effects = _launch(state, state.active)
    if state.candidate is not None:
        state, download = _begin(state, state.candidate)
        effects = (*effects, *download)
    return state, (*effects, CollectGarbage())


# --- small parts ----------------------------------------------------------------------------------------


def _launch(state: UpdateState, slot: Slot) -> Result:
    number = state.serial + 1
    state = replace(
        state, active=slot, serial=number, launch=number, health="starting", restart_at=None, confirm_at=None
    )
    return state, (Serve(number, slot),)


def _rest(state: UpdateState, now: int, policy: Policy) -> UpdateState:
    """Where the machine comes to rest: idle, or confirming if the active version has yet to prove itself."""
    if state.active is None or state.active.confirmed:
        return replace(state, phase="idle", confirm_at=None)
    confirm_at = now + policy.confirm_after_ms if state.health == "serving" else None
    return replace(state, phase="confirming", confirm_at=confirm_at)


def _without_candidate(state: UpdateState) -> UpdateState:
    return replace(state, candidate=None, variant=None, work=0, retry_at=None)


def _without_active(state: UpdateState) -> UpdateState:
    return replace(state, active=None, health="none", launch=0, crashes=(), confirm_at=None, restart_at=None)


def _candidate(state: UpdateState) -> Target:
    if state.candidate is None:
        raise IllegalTransitionError(f"There is no candidate in the phase {state.phase!r}.")
    return state.candidate


def _candidate_slot(state: UpdateState) -> Slot:
    if state.variant is None:
        raise IllegalTransitionError(f"The candidate has no variant in the phase {state.phase!r}.")
    return Slot(_candidate(state), state.variant)


def _active(state: UpdateState) -> Slot:
    if state.active is None:
        raise IllegalTransitionError(f"There is no active version in the phase {state.phase!r}.")
    return state.active


def _named(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "version": target.version,
        "digest": target.digest,
        "generation": target.generation,
    }
