"""Alert rules: from what was measured to alerts that open, stay and resolve.

An alert has a key; at most one with the same key is open. It opens when its condition was measured as true
as many times in a row as its rule asks for. It resolves when it is measured as clear after the rule's whole
quiet time, or at once when what it is about is gone. In between, neither true nor clear, it stays as it is;
so does an alert that nothing was measured for, since missing data proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["warning", "critical"]
Reading = Literal["true", "between", "clear", "gone"]


@dataclass(frozen=True)
class Rule:
    """A kind of alert that is measured over and over. A clear reading resolves it when the last true one
    lies `quiet_ms` back. It takes `opens_after` true readings in a row to open one."""

    name: str
    severity: Severity
    quiet_ms: int
    opens_after: int = 1


# A level that holds for one look does not hold for hundreds of them, so one alarm is not enough.
DRIFT = Rule("drift", "warning", 60_000, opens_after=3)
DEVICE_OFFLINE = Rule("device_offline", "warning", 0)


@dataclass(frozen=True)
class Measurement:
    """What was found just now about one possible alert. `value` and `threshold` are what was compared."""

    rule: Rule
    key: str
    reading: Reading
    message: str
    model: str | None = None
    digest: str | None = None
    site: str | None = None
    device: str | None = None
    feature: str | None = None
    value: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class OpenAlert:
    """An alert that is open; `true_at_ms` is when its condition was last measured as true."""

    key: str
    true_at_ms: int


@dataclass(frozen=True)
class Change:
    """What to do about one alert: open it, update it (its condition is still true), or resolve it."""

    act: Literal["open", "update", "resolve"]
    measurement: Measurement


def persistent(
    streaks: Mapping[str, int], open_keys: Collection[str], measurements: Iterable[Measurement]
) -> tuple[dict[str, int], tuple[Measurement, ...]]:
    """The measurements with every true reading that may not open its alert yet turned into "between".

    `streaks` counts, by key, the true readings in a row up to now; the new counts come back with the
    measurements. What was not measured has no streak any more. Open alerts need none.
    """
    counted: dict[str, int] = {}
    held: list[Measurement] = []
    for each in measurements:
        too_early = False
        if each.reading == "true":
            counted[each.key] = streaks.get(each.key, 0) + 1
            too_early = each.key not in open_keys and counted[each.key] < each.rule.opens_after
        held.append(replace(each, reading="between") if too_early else each)
    return counted, tuple(held)


def reconcile(
    open_alerts: Mapping[str, OpenAlert], measurements: Iterable[Measurement], now_ms: int
) -> tuple[Change, ...]:
    """The changes that bring the open alerts (by key) in line with what was measured."""
    changes = []
    for measurement in measurements:
        known = open_alerts.get(measurement.key)
        if measurement.reading == "true":
            changes.append(Change("open" if known is None else "update", measurement))
        elif known is not None and _is_over(measurement, known, now_ms):
            changes.append(Change("resolve", measurement))
    return tuple(changes)


def _is_over(measurement: Measurement, known: OpenAlert, now_ms: int) -> bool:
    if measurement.reading == "clear":
        return now_ms - known.true_at_ms >= measurement.rule.quiet_ms
    return measurement.reading == "gone"


def offline_measurement(
    device: str, site: str, *, online: bool, seen_at_ms: int | None, after_ms: int, now_ms: int
) -> Measurement | None:
    """Whether a device has been offline for longer than `after_ms`. None for one that never connected."""
    if seen_at_ms is None:
        return None
    offline_ms = 0 if online else now_ms - seen_at_ms
    reading: Reading = "clear" if online else ("true" if offline_ms > after_ms else "between")
    return Measurement(
        rule=DEVICE_OFFLINE,
        key=f"{DEVICE_OFFLINE.name}/{device}",
        reading=reading,
        message=f"The device {device} at {site} is offline.",
        site=site,
        device=device,
        value=offline_ms / 1000,
        threshold=after_ms / 1000,
    )


def revoked_measurement(device: str) -> Measurement:
    """That the device is no longer one of the fleet, so that it cannot be offline either."""
    return Measurement(
        rule=DEVICE_OFFLINE,
        key=f"{DEVICE_OFFLINE.name}/{device}",
        reading="gone",
        message=f"The device {device} was revoked.",
        device=device,
    )
