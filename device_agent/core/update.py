"""The update machine: which version a device runs, and how it gets from one to the next.

`step` is pure; the table at the end of this file is the whole machine. The shell saves the new state, then
performs the effects, and reports back by events. Two things go on side by side: the candidate's way through
the phases, and the active version's process, which is restarted whatever the phase is.

Guarantees (each an invariant of the state machine test):

- the running version is untouched until a verified, self-tested candidate accepts requests in its place;
- a refused generation never becomes active, and a newer desired state is never blocked by an older failure;
- in every state something is under way, or a deadline is set, or what is wanted runs or was refused.

Work is numbered. An event about work that has been superseded bears an old number and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from device_agent.core import update_steps as steps
from device_agent.core.update_steps import Result
from device_agent.core.update_types import (
    PHASES,
    Activated,
    ConfirmDue,
    DesiredChanged,
    DownloadDone,
    DownloadFailed,
    Event,
    Failure,
    InstallDone,
    InstallFailed,
    Phase,
    Policy,
    RestartDue,
    Restarted,
    RetryDue,
    ServingCrashed,
    ServingFailed,
    ServingReady,
    ServingStarted,
    SlotDamaged,
    UpdateState,
    VerifyDone,
    VerifyFailed,
)
from edgeops.errors import IllegalTransitionError

About = Literal["device", "candidate", "active"]

_NUMBERED = (
    DownloadDone | VerifyDone | InstallDone | ServingReady | ServingStarted | Activated | Failure
)  # every event that answers an effect


def step(state: UpdateState, event: Event, now: int, policy: Policy) -> Result:
    """The next state and what to do. `now` in milliseconds of the shell's monotonic clock.

    An event about superseded work, or a deadline that was moved, changes nothing. Raises
    `IllegalTransitionError` for an event that the table has no row for.
    """
    about = _about(state, event)
    if about is None or _early(state, event, now):
        return state, ()
    row = TABLE.get((state.phase, type(event), about))
    if row is None:
        raise IllegalTransitionError(
            f"{type(event).__name__} about the {about} cannot come in the phase {state.phase!r}.",
            subject=state.phase,
        )
    return row.act(state, event, now, policy)


def _about(state: UpdateState, event: Event) -> About | None:
    if not isinstance(event, _NUMBERED):
        return "device"
    if event.number and event.number == state.launch:
        return "active"
    if event.number and event.number == state.work:
        return "candidate"
    return None


def _early(state: UpdateState, event: Event, now: int) -> bool:
    due = {RetryDue: state.retry_at, ConfirmDue: state.confirm_at, RestartDue: state.restart_at}
    if type(event) not in due:
        return False
    deadline = due[type(event)]
    return deadline is None or now < deadline


@dataclass(frozen=True)
class Row:
    """In any of `phases`, `event` about `about` leads to one of `to` ("same": the phase stays)."""

    phases: tuple[Phase, ...]
    event: type[Event]
    about: About
    to: tuple[Phase | Literal["same"], ...]
    meaning: str
    act: Callable[[UpdateState, Any, int, Policy], Result]


_FAIL: tuple[Phase, ...] = ("waiting", "idle", "confirming")

ROWS: tuple[Row, ...] = (
    Row(PHASES, DesiredChanged, "device", ("downloading", "idle", "confirming", "same"),
        "A newer desired state supersedes whatever is under way.", steps.desired),
    Row(("downloading",), DownloadDone, "candidate", ("verifying",),
        "Every file that this device needs is in staging.", steps.downloaded),
    Row(("downloading",), DownloadFailed, "candidate", _FAIL,
        "Wait and try again; refuse it if the bytes are not what was signed.", steps.candidate_failed),
    Row(("verifying",), VerifyDone, "candidate", ("installing",),
        "The signature and every digest hold.", steps.verified),
    Row(("verifying",), VerifyFailed, "candidate", _FAIL,
        "Refuse it; wait and try again if the disk is at fault.", steps.candidate_failed),
    Row(("installing",), InstallDone, "candidate", ("self_testing",),
        "The slot is complete and will be after a power cut.", steps.installed),
    Row(("installing",), InstallFailed, "candidate", _FAIL,
        "Wait and try again.", steps.candidate_failed),
    Row(("self_testing",), ServingReady, "candidate", ("activating",),
        "The candidate's answers are those of its build.", steps.ready),
    Row(("self_testing", "activating"), ServingFailed, "candidate", _FAIL,
        "Refuse it if the self-test failed, or if it failed to load too often.", steps.candidate_failed),
    Row(("self_testing", "activating"), ServingCrashed, "candidate", _FAIL,
        "Wait and try again; refuse it after too many crashes.", steps.candidate_failed),
    Row(("activating",), Activated, "candidate", ("confirming",),
        "The candidate is the active version now, and the old process is drained.", steps.activated),
    Row(("confirming",), ConfirmDue, "device", ("idle",),
        "It served its time without too many crashes.", steps.confirmed),
    Row(("waiting",), RetryDue, "device", ("downloading",),
        "Try the candidate again; what was fetched is kept.", steps.retry),
    Row(PHASES, ServingStarted, "active", ("same", "idle", "confirming"),
        "The active version's process accepts requests.", steps.active_started),
    Row(PHASES, ServingCrashed, "active", ("same", "rolling_back", "idle"),
        "Restart it with backoff; after too many crashes go back to the last version.", steps.active_died),
    Row(PHASES, ServingFailed, "active", ("same", "rolling_back", "idle"),
        "As a crash: what ran before does not load any more.", steps.active_died),
    Row(PHASES, RestartDue, "device", ("same",),
        "Start the active version's process again.", steps.restart_due),
    Row(PHASES, SlotDamaged, "active", ("downloading", "same"),
        "Fetch the damaged version again; the previous one serves meanwhile.", steps.slot_damaged),
    Row(PHASES, Restarted, "device", ("downloading", "same"),
        "Start the active version's process; take the candidate from the beginning.", steps.restarted),
)  # fmt: skip

TABLE: dict[tuple[Phase, type[Event], About], Row] = {
    (phase, row.event, row.about): row for row in ROWS for phase in row.phases
}
