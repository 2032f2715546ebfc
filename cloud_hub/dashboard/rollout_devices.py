"""The devices of a rollout as tiles that change as they move, with a count of each status above."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence

from nicegui import ui

from cloud_hub.api.rollout_views import DeviceProgress
from cloud_hub.dashboard import words
from cloud_hub.dashboard.parts import Markup

# More tiles than that are no longer seen at a glance; the counts tell of all devices.
MOST_TILES = 120
_ORDER = ("updated", "installed", "waiting", "returned", "failed", "revoked", "untouched")
_MEANINGS = {
    "updated": "Report the candidate as loaded and have served from it.",
    "installed": "Report the candidate as loaded, but have not served from it yet.",
    "waiting": "Were told to move and have not arrived.",
    "returned": "Run what they ran before again.",
    "failed": "Refused the candidate, left it, or went offline.",
    "revoked": "Take no part any more.",
    "untouched": "Were never told to move.",
}
_TONES = {"installed": "candidate", "updated": "candidate", "returned": "returned", "failed": "failed"}


class RolloutDevices:
    """The counts and the tiles."""

    def __init__(self) -> None:
        self._counts = Markup("eo-counts", testid="counts")
        self._grid = ui.element("div").classes("eo-grid")
        self._more = ui.label("").classes("eo-muted")
        self._tiles: dict[str, _Tile] = {}

    def show(self, devices: Sequence[DeviceProgress]) -> None:
        """Shows how far each is."""
        self._counts.show(_counts(Counter(device.status for device in devices), len(devices)))
        chosen = self._chosen(devices)
        if {device.name for device in chosen} != set(self._tiles):
            self._grid.clear()
            with self._grid:
                self._tiles = {device.name: _Tile(device) for device in chosen}
        for device in chosen:
            self._tiles[device.name].show(device)
        hidden = len(devices) - len(chosen)
        self._more.set_text(f"{hidden:,} more are in the counts only." if hidden else "")
        self._more.set_visibility(bool(hidden))

    @staticmethod
    def _chosen(devices: Sequence[DeviceProgress]) -> list[DeviceProgress]:
        # Canaries and failures first. The order among those shown is the cohort's, so that nothing jumps.
        first = sorted(devices, key=lambda device: (not device.canary, device.status != "failed"))[
            :MOST_TILES
        ]
        names = {device.name for device in first}
        return [device for device in devices if device.name in names]


class _Tile:
    def __init__(self, device: DeviceProgress) -> None:
        with ui.element("div").classes("eo-device") as self._box:
            with ui.element("div").classes("n"):
                ui.link(device.name, f"/devices/{device.name}")
                if device.canary:
                    ui.label("canary").classes("eo-pill accent")
            ui.label(device.site).classes("d")
            self._status = ui.label("").classes("st")
            self._detail = ui.label("").classes("d")
        self._box.props["data-device"] = device.name
        self._shown = ""

    def show(self, device: DeviceProgress) -> None:
        self._status.set_text(words.phase(device.status))
        self._detail.set_text(words.phase_in(device.detail))
        if device.status != self._shown:
            self._box.classes(remove=_TONES.get(self._shown) or None, add=_TONES.get(device.status) or None)
            self._box.props(f"data-status={device.status}")
            self._shown = device.status


def _counts(counts: Counter[str], total: int) -> str:
    parts = [
        f'<span class="part {_TONES.get(status, "")}" style="flex:{counts[status]}"></span>'
        for status in _ORDER
        if counts[status]
    ]
    names = [
        f'<span class="eo-tip" tabindex="0" data-tip="{html.escape(_MEANINGS[status])}">'
        f"<b>{counts[status]:,}</b> {status}</span>"
        for status in _ORDER
        if counts[status]
    ]
    return f'<div class="track" aria-hidden="true">{"".join(parts)}</div><div>{" ".join(names)} of {total:,}</div>'
