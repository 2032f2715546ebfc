"""One device in words: the same in the fleet's table and on its own page."""

from __future__ import annotations

from cloud_hub.dashboard import words
from cloud_hub.devices import Device

_IDLE = "idle"


def link(device: Device) -> str:
    """Whether it is connected."""
    return "revoked" if device.revoked else "online" if device.online else "offline"


def running(device: Device) -> str:
    """What it has loaded, by name and version."""
    if device.running is None:
        return words.NONE
    if device.running.name is None:
        return f"unknown {device.running.digest[:12]}"
    return f"{device.running.name} {device.running.version}"


def wanted(device: Device) -> str:
    """What it should run."""
    bundle = device.wanted.bundle if device.wanted else None
    return f"{bundle.name} {bundle.version}" if bundle else words.NONE


def update(device: Device) -> str:
    """Where its update stands."""
    progress = f" {device.update.progress:.0%}" if device.update.phase == "downloading" else ""
    return words.phase(device.update.phase) + progress


def error(device: Device) -> str | None:
    """What its update failed with, if it did, without the remedy."""
    return words.shortened(str(device.update.error.get("message", ""))) if device.update.error else None


def needs_attention(device: Device) -> bool:
    """Whether an operator should look: it is offline, its update failed, or it runs something else than it
    should and is not on its way there. A revoked device is out of the fleet."""
    if device.revoked:
        return False
    astray = not device.in_sync and device.update.phase == _IDLE
    return not device.online or device.update.error is not None or astray
