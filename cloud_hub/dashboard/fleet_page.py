"""The fleet at a glance: how it does, what runs where, and each device."""

from __future__ import annotations

import html
from typing import Any

from nicegui import ui

from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.fleet_data import MAX_DEVICES, FleetView
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import PALETTE, Chart, Markup, Tile, empty_markup, line_chart, tip, tip_markup
from cloud_hub.devices import Device

_COLUMNS: list[dict[str, Any]] = [
    {"name": "name", "label": "Device", "field": "name", "align": "left", "sortable": True},
    {"name": "site", "label": "Site", "field": "site", "align": "left", "sortable": True},
    {"name": "link", "label": "Link", "field": "link", "align": "left", "sortable": True},
    {"name": "running", "label": "Runs", "field": "running", "align": "left", "sortable": True},
    {"name": "wanted", "label": "Should run", "field": "wanted", "align": "left", "sortable": True},
    {"name": "update", "label": "Update", "field": "update", "align": "left", "sortable": True},
    {"name": "requests", "label": "Answered", "field": "requests", "align": "right", "sortable": True},
    {"name": "window", "label": "Last telemetry", "field": "window", "align": "left"},
]
# The cell that a state colours. Its text says the same, so colour is never the only sign.
_LINK_CELL = """<q-td :props="props"><span class="eo-pill" :class="props.row.link_tone">{{ props.value }}</span></q-td>"""
_SYNC_CELL = """<q-td :props="props"><span :class="props.row.in_sync ? '' : 'eo-pill warn'">{{ props.value }}</span></q-td>"""


def fleet_page(view: Cached[FleetView]) -> None:
    """Builds the page."""
    frame = Frame("/", "Fleet")
    with frame.main:
        tiles = _Tiles()
        with ui.element("div").classes("eo-two"):
            with ui.element("section").classes("eo-panel"):
                with ui.element("h2"):
                    tip(
                        "Requests per second, by version",
                        "Answers given by devices, from the windows they sent, by the version whose weights answered. "
                        "Each point is 5 seconds.",
                    )
                silence = Markup()
                chart = Chart(line_chart("requests/s"), "Requests per second by version over ten minutes")
            with ui.element("section").classes("eo-panel"):
                with ui.element("h2"):
                    tip(
                        "What runs",
                        "Devices by the version that they report as loaded. What was sent or downloaded does not count.",
                    )
                versions = Markup()
        with ui.element("section").classes("eo-panel"):
            ui.html("<h2>Devices</h2>", sanitize=False)
            nothing = Markup()
            table = _table()

    def show(fleet: FleetView) -> None:
        tiles.show(fleet)
        colours = _colours(fleet)
        quiet = empty_markup(
            "No traffic", "It appears with the first telemetry window of a device that serves."
        )
        silence.show("" if fleet.traffic else quiet)
        chart.set_visibility(bool(fleet.traffic))
        chart.show(series=_series(fleet, colours))
        versions.show(_versions(fleet, colours))
        if fleet.devices:
            nothing.show("")
        else:
            nothing.show(
                empty_markup(
                    "No devices yet",
                    "Make a token here, then enrol a device with it:",
                    "edgeops hub token --site lab",
                )
            )
        table.set_visibility(bool(fleet.devices))
        rows = [_row(device, fleet.at_ms) for device in fleet.devices]
        if rows != table.rows:
            table.rows = rows
            table.update()

    frame.keep_fresh(view.get, show)


class _Tiles:
    def __init__(self) -> None:
        with ui.element("div").classes("eo-tiles"):
            self.online = Tile(
                "Online", "Devices connected to the broker now, of those enrolled and not revoked."
            )
            self.sync = Tile(
                "In sync",
                "Devices that report just the bundle they should run as loaded, of those enrolled and not revoked.",
            )
            self.rate = Tile(
                "Requests", "Answers per second over the last minute of telemetry, all devices together."
            )
            self.errors = Tile(
                "Error rate", "Failed requests as a share of all, over the last minute of telemetry."
            )
            self.accuracy = Tile(
                "Accuracy",
                "Right answers as a share of those that got a label, over the last minute of telemetry.",
            )
            self.latency = Tile(
                "Latency p50",
                "Half of the answers took no longer than this on the device; p99 is below. Last minute, merged sketches.",
            )
            self.fallback = Tile(
                "Fallback",
                "Requests that the cloud answered in the device's place, as a share of all. Last minute.",
            )
            self.alerts = Tile(
                "Open alerts", "Alerts whose condition still holds, or has not been clear for long enough."
            )

    def show(self, fleet: FleetView) -> None:
        active = sum(not device.revoked for device in fleet.devices)
        recent = fleet.recent
        more = f"the first {MAX_DEVICES} of {fleet.enrolled}" if fleet.enrolled > len(fleet.devices) else ""
        self.online.show(f"{fleet.online} / {active}", more, "" if fleet.online == active else "warn")
        self.sync.show(f"{fleet.in_sync} / {active}", "", "" if fleet.in_sync == active else "warn")
        self.rate.show(f"{recent.requests / 60:,.0f}/s", f"{words.count(recent.requests)} in the last minute")
        self.errors.show(words.share(recent.error_rate), "", "bad" if (recent.error_rate or 0) > 0.01 else "")
        self.accuracy.show(words.share(recent.accuracy), f"{words.count(recent.labels)} labels")
        self.latency.show(
            words.milliseconds(recent.latency_p50_ms), f"p99 {words.milliseconds(recent.latency_p99_ms)}"
        )
        self.fallback.show(words.share(recent.fallback_share))
        self.alerts.show(str(fleet.open_alerts), "", "bad" if fleet.open_alerts else "")


def _colours(fleet: FleetView) -> dict[str, str]:
    # By name, not by rank: a version keeps its colour while the shares move.
    names = sorted({*fleet.traffic, *(name for name, _ in fleet.versions)} - {"nothing"})
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def _series(fleet: FleetView, colours: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": "line",
            "stack": "all",
            "areaStyle": {"opacity": 0.25},
            "showSymbol": False,
            "lineStyle": {"width": 1.5},
            "color": colours[name],
            "data": [[at, round(rate, 2)] for at, rate in zip(fleet.buckets, rates, strict=True)],
        }
        for name, rates in fleet.traffic.items()
    ]


def _versions(fleet: FleetView, colours: dict[str, str]) -> str:
    total = sum(number for _, number in fleet.versions)
    if not total:
        return empty_markup(
            "Nothing runs", "Publish a bundle and roll it out:", "edgeops fleet rollout create"
        )
    rows = [
        f'<div class="row"><span>{html.escape(name)}</span>'
        f"<span>{tip_markup(str(number), f'{number} of {total} devices', 'eo-left')}</span>"
        f'<div class="track"><div class="fill" style="width:{100 * number / total:.1f}%;'
        f'background:{colours.get(name, "var(--muted)")}"></div></div></div>'
        for name, number in fleet.versions
    ]
    return f'<div class="eo-bars" data-testid="versions">{"".join(rows)}</div>'


def _table() -> ui.table:
    table = (
        ui.table(columns=_COLUMNS, rows=[], row_key="name", pagination={"rowsPerPage": 25, "sortBy": "name"})
        .classes("w-full")
        .props('flat dense :grid="Quasar.Screen.lt.sm" aria-label=Devices')
    )
    table.add_slot("body-cell-link", _LINK_CELL)
    table.add_slot("body-cell-wanted", _SYNC_CELL)
    return table


def _row(device: Device, now_ms: int) -> dict[str, Any]:
    link = "revoked" if device.revoked else "online" if device.online else "offline"
    wanted = device.wanted.bundle if device.wanted else None
    update = device.update
    error = f": {update.error['message']}" if update.error else ""
    progress = f" {update.progress:.0%}" if update.phase == "downloading" else ""
    return {
        "name": device.name,
        "site": device.site,
        "link": link,
        "link_tone": words.tone(link),
        "running": f"{device.running.name or device.running.digest[:12]} {device.running.version or ''}".strip()
        if device.running
        else words.NONE,
        "wanted": f"{wanted.name} {wanted.version}" if wanted else words.NONE,
        "in_sync": device.in_sync,
        "update": words.phase(update.phase) + progress + error,
        "requests": words.count(device.running.requests) if device.running else words.NONE,
        "window": words.ago(device.window_at_ms, now_ms),
    }
