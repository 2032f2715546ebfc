"""What a rollout is made of: its specification, plan, state, and the machine's events and effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from edgeops.errors import BadRequestError
from edgeops.messages import BundleRef
from fleet.cohorts import Selector
from fleet.evidence import Criteria, Evidence, Sample
from fleet.progress import Progress, Report
from fleet.verdict import Verdict

Phase = Literal[
    "draft",
    "approved",
    "canary",
    "rolling_out",
    "paused",
    "rolling_back",
    "completed",
    "aborted",
    "failed",
]
PHASES: dict[Phase, str] = {
    "draft": "Written down; waits for approval.",
    "approved": "Approved; the control loop starts it at its next turn.",
    "canary": "The canaries run the candidate and are judged against the others.",
    "rolling_out": "Every device of the cohort is moved to the candidate.",
    "paused": "Held, by an operator or for want of evidence; nothing is assigned.",
    "rolling_back": "Aborted; the devices that were moved return to what they ran before.",
    "completed": "Final: the cohort runs the candidate.",
    "aborted": "Final: every device that was moved is back.",
    "failed": "Final: aborted, but not every device came back in time.",
}
assert tuple(PHASES) == get_args(Phase)
FINAL: frozenset[Phase] = frozenset({"completed", "aborted", "failed"})
# In these phases the rollout holds its devices: no other rollout may move them.
HOLDING: frozenset[Phase] = frozenset({"approved", "canary", "rolling_out", "paused", "rolling_back"})

Strategy = Literal["canary", "all-at-once"]
MAX_DEADLINE_S = 30 * 24 * 3600


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator asks for. `canary`: first `canary_count` devices (or `canary_share` of the cohort),
    then, if the verdict is to promote, all. `all-at-once`: all, unjudged, for first installs.

    `require_served`: a device counts as updated only once it answered a request from the candidate; without
    it, once it has it loaded. More than `max_failures` devices that refuse the candidate, leave it, or go
    offline for `offline_after_s` abort the rollout. A stage that is not through by its deadline is held.
    `alias` (such as `prod`) is pointed at the candidate on completion.
    """

    candidate: BundleRef
    strategy: Strategy = "canary"
    cohort: Selector = Selector()
    canary_count: int | None = None
    canary_share: float = 0.1
    criteria: Criteria = Criteria()
    require_served: bool = True
    max_failures: int = 0
    offline_after_s: float = 300.0
    canary_deadline_s: float = 3600.0
    rollout_deadline_s: float = 3600.0
    rollback_deadline_s: float = 600.0
    alias: Literal["prod", "staging", "canary"] | None = None

    def __post_init__(self) -> None:
        if self.strategy == "all-at-once" and self.canary_count is not None:
            raise ValueError("canary_count has no meaning when all devices move at once")
        if self.canary_count is not None and self.canary_count < 1:
            raise ValueError("canary_count must be at least 1")
        if not 0 < self.canary_share < 1:
            raise ValueError("canary_share must lie between 0 and 1")
        if self.max_failures < 0:
            raise ValueError("max_failures must not be negative")
        for name in ("offline_after_s", "canary_deadline_s", "rollout_deadline_s", "rollback_deadline_s"):
            if not 1 <= getattr(self, name) <= MAX_DEADLINE_S:
                raise ValueError(f"{name} must lie between 1 and {MAX_DEADLINE_S}")


def parse_spec(raw: object) -> Spec:
    """The specification in JSON-like data. Raises `BadRequestError`: a malformed threshold is refused when
    it is written, not when it is needed."""
    try:
        return msgspec.convert(raw, Spec)
    except msgspec.ValidationError as error:
        raise BadRequestError(
            f"The rollout's specification is at fault: {error}.",
            remedy="See edgeops fleet rollout create --help.",
            subject="spec",
        ) from error


class PlannedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the cohort, and what it was to run before: that is what it returns to."""

    name: str
    site: str
    previous: BundleRef | None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the rollout moves, who goes first, and what they are compared with."""

    devices: tuple[PlannedDevice, ...]
    canaries: tuple[str, ...]
    baseline: BundleRef | None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that changes about a rollout.

    `reason` says why it is in its phase. `moved` are the devices that were assigned the candidate: the only
    ones that an abort touches. `cursor` is the last window read; `resume_to` the phase that a pause
    interrupted. `started_at_ms` is 0 before the start; `deadline_at_ms` is that of the stage.
    """

    phase: Phase = "draft"
    reason: str = "Waits for approval."
    plan: Plan
    moved: tuple[str, ...] = ()
    progress: dict[str, Progress] = {}
    evidence: Evidence | None = None
    verdict: Verdict | None = None
    cursor: int = 0
    started_at_ms: int = 0
    stage_started_at_ms: int = 0
    deadline_at_ms: int | None = None
    resume_to: Phase | None = None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout: `spec` never changes, `state` is what the machine moves."""

    id: str
    spec: Spec
    state: State


@dataclass(frozen=True)
class Approve:
    """An operator lets the rollout go, with the plan as it is now."""

    actor: str
    plan: Plan


@dataclass(frozen=True)
class Start:
    """The control loop begins. Evidence is read after the window `cursor`."""

    cursor: int


@dataclass(frozen=True)
class Look:
    """The control loop's look: both sides of the twins, and the windows since the last look up to `cursor`.
    `samples` of the canary arm come from devices on the candidate, of the baseline arm from the others."""

    reports: tuple[Report, ...]
    samples: tuple[Sample, ...]
    cursor: int


@dataclass(frozen=True)
class Promote:
    """An operator promotes, whatever the evidence."""

    actor: str


@dataclass(frozen=True)
class Pause:
    """An operator holds the rollout."""

    actor: str
    reason: str = ""


@dataclass(frozen=True)
class Resume:
    """An operator lets it go on; the stage gets a new deadline."""

    actor: str


@dataclass(frozen=True)
class Abort:
    """An operator ends it; moved devices return."""

    actor: str
    reason: str = ""


Event = Approve | Start | Look | Promote | Pause | Resume | Abort


@dataclass(frozen=True)
class Assign:
    """Make `bundle` (None: nothing) what the device should run. Doing it twice changes nothing."""

    device: str
    bundle: BundleRef | None


@dataclass(frozen=True)
class Log:
    """An entry in the rollout's log: `transition`, `look` or `device`."""

    kind: Literal["transition", "look", "device"]
    detail: dict[str, Any]


@dataclass(frozen=True)
class RaiseAlert:
    """Open the alert `key`, or update it."""

    key: str
    rule: str
    severity: Literal["warning", "critical"]
    message: str


@dataclass(frozen=True)
class ClearAlert:
    """Resolve the alert `key`, if it is open."""

    key: str


@dataclass(frozen=True)
class SetProduction:
    """The candidate is in production; `alias`, if any, points at it from now on."""

    bundle: BundleRef
    alias: Literal["prod", "staging", "canary"] | None


Effect = Assign | Log | RaiseAlert | ClearAlert | SetProduction
