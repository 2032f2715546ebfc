"""The values of the update machine: its phases, state, events and effects.

Every value is frozen. Times are milliseconds of a clock that never goes back; after a restart of the
agent that clock may start anew, so `Restarted` sets all deadlines afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Phase = Literal[
    "idle",
    "waiting",
    "downloading",
    "verifying",
    "installing",
    "self_testing",
    "activating",
    "confirming",
    "rolling_back",
]
PHASES: tuple[Phase, ...] = get_args(Phase)

MEANINGS: Mapping[Phase, str] = {
    "idle": "What is wanted runs, or was refused; nothing is under way.",
    "waiting": "The last try failed for a reason that may pass; the next one comes at a set time.",
    "downloading": "The candidate's files are being fetched into staging, and hashed on the way.",
    "verifying": "The candidate's signature and every digest are being checked on the disk.",
    "installing": "The verified candidate is being moved into its slot.",
    "self_testing": "A second serving process loads the candidate and runs its self-test.",
    "activating": "The candidate's process is being told to accept; the old one still serves.",
    "confirming": "The candidate serves alone; too many crashes now would roll it back.",
    "rolling_back": "The previous version is being started in the place of one that crashed too often.",
}

Health = Literal["none", "starting", "serving", "backoff"]
"""The active version's process: there is no active version; it loads; it accepts requests; it died and
will be started again."""


@dataclass(frozen=True)
class Target:
    """A bundle that the hub wants this device to run, and the desired generation that says so."""

    name: str
    version: str
    digest: str
    generation: int


@dataclass(frozen=True)
class Slot:
    """An installed, verified bundle. `confirmed` once it has served its time without too many crashes."""

    target: Target
    variant: str
    confirmed: bool = False


@dataclass(frozen=True)
class UpdateState:
    """All that the machine remembers; saved before any effect is performed.

    `generation` is the highest desired generation accepted, `rejected_generation` the highest refused.
    `serial` numbers every piece of work; `work` is the number of the candidate's, `launch` that of the
    active version's process. `error` is the last failure, as `EdgeopsError.to_dict()` has it.
    """

    phase: Phase = "idle"
    generation: int = 0
    rejected_generation: int = 0
    desired: Target | None = None
    active: Slot | None = None
    previous: Slot | None = None
    candidate: Target | None = None
    variant: str | None = None
    health: Health = "none"
    serial: int = 0
    work: int = 0
    launch: int = 0
    attempts: int = 0
    failed_trials: int = 0
    crashes: tuple[int, ...] = ()
    retry_at: int | None = None
    confirm_at: int | None = None
    restart_at: int | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Policy:
    """How patient the machine is. Delays double from `retry_min_ms` to `retry_max_ms`.

    A version that crashes `crash_limit` times while it is being confirmed, or within `crash_window_ms`
    later on, is rolled back. A candidate whose trial fails `crash_limit` times is refused.
    """

    retry_min_ms: int = 500
    retry_max_ms: int = 60_000
    confirm_after_ms: int = 10_000
    crash_limit: int = 3
    crash_window_ms: int = 60_000

    def delay_ms(self, failures: int, chance: float) -> int:
        """The wait after the `failures`-th failure in a row. `chance` in [0, 1) spreads devices that
        failed together over the upper half of the delay."""
        full = min(self.retry_max_ms, self.retry_min_ms << min(max(failures - 1, 0), 30))
        return int(full * (0.5 + 0.5 * chance))


# --- events -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DesiredChanged:
    """A desired state with a valid signature arrived. `target` None means: run nothing."""

    generation: int
    target: Target | None


@dataclass(frozen=True)
class Restarted:
    """The agent has started. No serving process of an earlier run serves any more."""


@dataclass(frozen=True)
class DownloadDone:
    """The candidate's files are in staging. `variant` is the one that fits this device."""

    number: int
    variant: str


@dataclass(frozen=True)
class VerifyDone:
    """The candidate's signature and digests hold."""

    number: int


@dataclass(frozen=True)
class InstallDone:
    """The candidate lies in its slot, and will after a power cut."""

    number: int


@dataclass(frozen=True)
class Failure:
    """A piece of work failed. `permanent`: the artifact is at fault, so trying again cannot help.
    `chance` in [0, 1) is drawn by the shell, for the backoff."""

    number: int
    error: dict[str, Any]
    permanent: bool
    chance: float = 0.0


@dataclass(frozen=True)
class DownloadFailed(Failure):
    """The candidate could not be fetched."""


@dataclass(frozen=True)
class VerifyFailed(Failure):
    """The candidate is not what was signed, or could not be read."""


@dataclass(frozen=True)
class InstallFailed(Failure):
    """The candidate could not be moved into its slot."""


@dataclass(frozen=True)
class ServingFailed(Failure):
    """A serving process could not load its bundle, failed its self-test, or took too long; it is gone."""


@dataclass(frozen=True)
class ServingCrashed(Failure):
    """A serving process ended though nobody told it to."""


@dataclass(frozen=True)
class SlotDamaged(Failure):
    """The files of the version that is to serve are no longer what was verified."""


@dataclass(frozen=True)
class ServingReady:
    """The candidate's process has loaded it and passed the self-test."""

    number: int


@dataclass(frozen=True)
class Activated:
    """The candidate's process accepts requests."""

    number: int


@dataclass(frozen=True)
class ServingStarted:
    """The active version's process accepts requests (again)."""

    number: int


@dataclass(frozen=True)
class RetryDue:
    """`retry_at` has come."""


@dataclass(frozen=True)
class ConfirmDue:
    """`confirm_at` has come."""


@dataclass(frozen=True)
class RestartDue:
    """`restart_at` has come."""


Event = (
    DesiredChanged
    | Restarted
    | DownloadDone
    | DownloadFailed
    | VerifyDone
    | VerifyFailed
    | InstallDone
    | InstallFailed
    | ServingReady
    | ServingFailed
    | ServingCrashed
    | SlotDamaged
    | Activated
    | ServingStarted
    | RetryDue
    | ConfirmDue
    | RestartDue
)

# --- effects: each may be performed again after a restart, to the same end ------------------------------


@dataclass(frozen=True)
class Download:
    """Fetch what the target needs into staging; answer `DownloadDone` or `DownloadFailed`."""

    number: int
    target: Target


@dataclass(frozen=True)
class Verify:
    """Check the staged bundle as a whole; answer `VerifyDone` or `VerifyFailed`."""

    number: int
    target: Target
    variant: str


@dataclass(frozen=True)
class Install:
    """Move the staged bundle into its slot; answer `InstallDone` or `InstallFailed`."""

    number: int
    target: Target


@dataclass(frozen=True)
class Trial:
    """Start a process on the slot, let it self-test and hold; answer `ServingReady` or `ServingFailed`."""

    number: int
    slot: Slot


@dataclass(frozen=True)
class Activate:
    """Tell the process of that number to accept; answer `Activated` or `ServingFailed`."""

    number: int


@dataclass(frozen=True)
class Serve:
    """Check the slot's files, start a process on it and let it accept as soon as it can; answer
    `ServingStarted`, `SlotDamaged` or `ServingFailed`."""

    number: int
    slot: Slot


@dataclass(frozen=True)
class Retire:
    """Abandon all work but number `keep`: stop what is under way, drain every other process."""

    keep: int


@dataclass(frozen=True)
class CollectGarbage:
    """Delete the slots and staged files that the state no longer names."""


@dataclass(frozen=True)
class Emit:
    """Tell the hub what happened."""

    kind: str
    detail: dict[str, Any] = field(default_factory=dict)


Effect = Download | Verify | Install | Trial | Activate | Serve | Retire | CollectGarbage | Emit
