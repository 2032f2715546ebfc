"""The MQTT topics: the only place where one is built or parsed.

All lie under `edgeops/v1/devices/<device>/`. The broker's ACL lets a device write its own `state`,
`reported`, `windows` and `events`, and read its own `desired` and `acks`; the hub's client may do the rest.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from edgeops.names import is_name

ROOT = "edgeops/v1/devices"

Channel = Literal["state", "desired", "reported", "windows", "events", "acks"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)
DEVICE_WRITES: tuple[Channel, ...] = ("state", "reported", "windows", "events")
DEVICE_READS: tuple[Channel, ...] = ("desired", "acks")


@dataclass(frozen=True)
class DeviceTopic:
    """A parsed topic."""

    device: str
    channel: Channel


def topic(device: str, channel: Channel) -> str:
    """The topic of one device's channel. `device` must be a valid name (else `ValueError`)."""
    if not is_name(device):
        raise ValueError(f"{device!r} cannot be part of a topic")
    return f"{ROOT}/{device}/{channel}"


def all_devices(channel: Channel, *, share: str | None = None) -> str:
    """The subscription for one channel of every device; with `share`, a shared one (MQTT 5, 4.8.2)."""
    plain = f"{ROOT}/+/{channel}"
    return f"$share/{share}/{plain}" if share else plain


def parse(text: str) -> DeviceTopic | None:
    """The device and channel of a topic, or None for anything that is not one of ours."""
    prefix = f"{ROOT}/"
    if not text.startswith(prefix):
        return None
    device, _, channel = text[len(prefix) :].partition("/")
    if channel not in CHANNELS or not is_name(device):
        return None
    return DeviceTopic(device, channel)
