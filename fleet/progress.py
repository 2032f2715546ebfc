"""How far a device is on the way to the bundle that it should run, judged by what it reports.

A device counts as updated when it reports the digest of the weights it has loaded and has served requests
from them. Nothing else counts: not sent, not downloaded, not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

Status = Literal["waiting", "installed", "updated", "returned", "failed", "revoked"]


@dataclass(frozen=True)
class Report:
    """Both sides of a device's twin, as the hub knows them now.

    `generation` and `desired_digest` are what the hub wants (0 and None: nothing was ever assigned);
    `rejected_generation` is the highest that the device refused or rolled back from; `running_requests`
    counts what it answered since it loaded `running_digest`; `phase` and `error` are those of its update.
    """

    device: str
    online: bool
    revoked: bool
    generation: int
    desired_digest: str | None
    rejected_generation: int
    running_digest: str | None
    running_requests: int
    phase: str
    error: str | None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one device stands, with what must be remembered between looks: whether it was online since the
    assignment, ran the target, served from it; and since when it has been offline."""

    status: Status = "waiting"
    detail: str = ""
    seen_online: bool = False
    ran: bool = False
    served: bool = False
    offline_since_ms: int | None = None


def assess(
    before: Progress,
    report: Report,
    *,
    target: str | None,
    returning: bool,
    require_served: bool,
    served: bool,
    offline_after_ms: int,
    now_ms: int,
) -> Progress:
    """The device's progress towards running `target` (a digest; None: nothing).

    `returning`: the target is what the device ran before, and running it is enough. `served` says that
    windows show requests answered from the target. A device that was never online since it was assigned the
    target is waited for; one that was, and then is offline for longer than `offline_after_ms`, has failed
    until it comes back.
    """
    runs = report.running_digest == target
    offline_since_ms = None
    if not report.online:
        offline_since_ms = before.offline_since_ms if before.offline_since_ms is not None else now_ms
    after = Progress(
        seen_online=before.seen_online or report.online,
        ran=before.ran or runs,
        served=before.served or served or (runs and report.running_requests > 0),
        offline_since_ms=offline_since_ms,
    )
    status, detail = _failure(after, report, target, runs, offline_after_ms, now_ms) or _way(
        after, report, runs, returning, require_served
    )
    return msgspec.structs.replace(after, status=status, detail=detail)


def _failure(
    after: Progress, report: Report, target: str | None, runs: bool, offline_after_ms: int, now_ms: int
) -> tuple[Status, str] | None:
    """Why the device will not get there by itself, if so."""
    if report.revoked:
        return "revoked", "The device was revoked and takes no part any more."
    if report.desired_digest != target:
        return "waiting", "It was to run something else meanwhile; the bundle is assigned anew."
    if report.generation > 0 and report.rejected_generation >= report.generation:
        return "failed", f"The device refused it: {report.error or 'it gave no reason'}"
    if after.ran and not runs and report.running_digest is not None:
        return "failed", f"The device left it for another bundle: {report.error or 'it gave no reason'}"
    offline_ms = now_ms - after.offline_since_ms if after.offline_since_ms is not None else 0
    if after.seen_online and offline_ms > offline_after_ms:
        return "failed", f"Offline for more than {offline_after_ms / 1000:g} s."
    return None


def _way(
    after: Progress, report: Report, runs: bool, returning: bool, require_served: bool
) -> tuple[Status, str]:
    """How far it is."""
    if not runs:
        return "waiting", f"Not running it yet ({report.phase if report.online else 'offline'})."
    if returning:
        return "returned", "Running what it ran before."
    if require_served and not after.served:
        return "installed", "Installed, not yet served."
    return "updated", "Running it."
