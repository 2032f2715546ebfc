"""Cohorts: which devices a rollout moves, and which of them are its canaries."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from edgeops.errors import ConflictError, NotFoundError


@dataclass(frozen=True)
class Member:
    """A device as cohorts see it. `labels` includes `site`."""

    name: str
    site: str
    online: bool
    labels: Mapping[str, str] = field(default_factory=dict)


class Selector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices that bear all of `labels`, and those named in `devices`. Neither given: every device."""

    labels: dict[str, str] = {}
    devices: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether the selector leaves no device out."""
        return not self.labels and not self.devices


def select(selector: Selector, members: Iterable[Member]) -> tuple[Member, ...]:
    """The cohort, sorted by name. Raises `NotFoundError` when it is empty or a named device is unknown."""
    known = {member.name: member for member in members}
    unknown = sorted(set(selector.devices) - known.keys())
    if unknown:
        raise NotFoundError(
            f"There is no device {unknown[0]!r} that could take part.",
            remedy="Look for it with edgeops fleet devices; revoked devices take no part.",
            subject=unknown[0],
        )
    chosen = {
        name: member
        for name, member in known.items()
        if name in selector.devices or (not _names_only(selector) and _bears(member, selector.labels))
    }
    if not chosen:
        raise NotFoundError(
            "No device fits the cohort.",
            remedy="Look at the devices' labels with edgeops fleet devices.",
            subject="cohort",
        )
    return tuple(chosen[name] for name in sorted(chosen))


def canary_count(cohort_size: int, count: int | None, share: float) -> int:
    """How many canaries a cohort gets: `count`, or `share` of it (rounded up). At least one device must be
    left to compare with, else `ConflictError`."""
    wanted = count if count is not None else math.ceil(share * cohort_size)
    if not 1 <= wanted < cohort_size:
        raise ConflictError(
            f"{wanted} canaries in a cohort of {cohort_size} leave nothing to compare them with.",
            remedy="Choose fewer canaries or a larger cohort, or roll out all at once.",
            subject="canary_count",
        )
    return wanted


def choose_canaries(rollout_id: str, members: Sequence[Member], count: int) -> tuple[str, ...]:
    """`count` names, sorted: the same ones whenever asked for the same rollout and devices.

    Which devices come first is as good as random (SHA-256 over rollout and device), so that no device is
    the canary every time. Devices that are online come before others; among them the sites take turns.
    """

    def draw(name: str) -> bytes:
        return hashlib.sha256(f"{rollout_id}\n{name}".encode()).digest()

    order: list[tuple[bool, int, bytes, str]] = []
    for online in (True, False):
        sites: dict[str, list[str]] = defaultdict(list)
        for member in members:
            if member.online is online:
                sites[member.site].append(member.name)
        for site, names in sites.items():
            turns = enumerate(sorted(names, key=draw))
            order.extend((not online, turn, draw(site), name) for turn, name in turns)
    return tuple(sorted(name for *_, name in sorted(order)[:count]))


def _names_only(selector: Selector) -> bool:
    return bool(selector.devices) and not selector.labels


def _bears(member: Member, labels: Mapping[str, str]) -> bool:
    return all(member.labels.get(key) == value for key, value in labels.items())
