"""States of the update machine that tests begin with, and how it gets there."""

from __future__ import annotations

from device_agent.core.update import step
from device_agent.core.update_types import (
    Activated,
    ConfirmDue,
    DesiredChanged,
    DownloadDone,
    Effect,
    Event,
    InstallDone,
    Policy,
    RestartDue,
    ServingCrashed,
    ServingReady,
    ServingStarted,
    Target,
    UpdateState,
    VerifyDone,
)

POLICY = Policy(
    retry_min_ms=100, retry_max_ms=1000, confirm_after_ms=500, crash_limit=3, crash_window_ms=5000
)
ERROR = {"kind": "transport", "message": "The hub did not answer."}


def target(generation: int, version: int) -> Target:
    """A version of `digits` that a generation wants."""
    return Target("digits", f"1.{version}.0", f"{version:064x}", generation)


def run(state: UpdateState, *events: Event, now: int = 0) -> tuple[UpdateState, list[Effect]]:
    """The state after these events, and all their effects."""
    effects: list[Effect] = []
    for event in events:
        state, more = step(state, event, now, POLICY)
        effects += more
    return state, effects


def installed(version: int, generation: int, state: UpdateState | None = None) -> UpdateState:
    """A state in which that version has been installed, activated and confirmed."""
    state, _ = run(state or UpdateState(), DesiredChanged(generation, target(generation, version)))
    state = activated(state)
    state, _ = run(state, ConfirmDue(), now=POLICY.confirm_after_ms)
    assert state.phase == "idle" and state.active and state.active.confirmed
    return state


def activated(state: UpdateState) -> UpdateState:
    """The state once the candidate under way has been fetched, tried and activated."""
    n = state.work
    state, _ = run(state, DownloadDone(n, "v"), VerifyDone(n), InstallDone(n), ServingReady(n), Activated(n))
    assert state.phase == "confirming"
    return state


def crash(state: UpdateState, times: int) -> UpdateState:
    """The state after so many crashes, with each restart between them a success."""
    for _ in range(times):
        state, _ = run(state, ServingCrashed(state.launch, ERROR, False), now=1000)
        if state.health == "backoff":
            state, _ = run(state, RestartDue(), now=state.restart_at or 0)
            state, _ = run(state, ServingStarted(state.launch), now=1000)
    return state
