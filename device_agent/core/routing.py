"""Who answers a request: the device, or the cloud in its place. A pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from device_agent.core.rows import FallbackReason
from edgeops.errors import BadRequestError

# The client's word on it, in the request's parameter `edgeops_policy`.
Policy = Literal["device-first", "local-only", "cloud-first"]
POLICIES: Final[tuple[Policy, ...]] = ("device-first", "local-only", "cloud-first")
POLICY_PARAMETER: Final = "edgeops_policy"


@dataclass(frozen=True, slots=True)
class Local:
    """The device's own answer (or its own failure) stands."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """Ask the cloud, and say why."""

    reason: FallbackReason


def parse_policy(value: object) -> Policy:
    """The policy that a request asks for; none means `device-first`. Raises `BadRequestError`."""
    if value is None:
        return "device-first"
    if value not in POLICIES:
        raise BadRequestError(
            f"The parameter {POLICY_PARAMETER!r} is not one of {', '.join(POLICIES)}.",
            subject=POLICY_PARAMETER,
        )
    return value


def decide(
    confidence: float | None, threshold: float | None, policy: Policy, *, failed: bool
) -> Local | Fallback:
    """Where the answer comes from once the device has tried.

    `confidence` is the least of the request's items, None if the model gives none; `threshold` that of the
    manifest's fallback policy, None if the bundle has no cloud variant: then nothing is ever sent.
    A confidence equal to the threshold is enough; one that is not a number never is.
    """
    if threshold is None or policy == "local-only":
        return Local()
    if failed:
        return Fallback("device_error")
    if policy == "cloud-first":
        return Fallback("requested")
    if confidence is not None and not confidence >= threshold:
        return Fallback("low_confidence")
    return Local()
