"""The fleet at a glance: how it does, what is under way, what runs where, and each device."""

from __future__ import annotations

import html

from nicegui import ui

from cloud_hub.api.rollout_views import RolloutSummary
from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.charts import PALETTE, Line, LineChart
from cloud_hub.dashboard.device_table import DeviceTable
from cloud_hub.dashboard.fleet_data import FleetView
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Markup, Tile, empty_markup, heading, pill_markup, tip_markup
from cloud_hub.dashboard.pulse import Pulse
from cloud_hub.dashboard.visit import Visit

# From this share of failed requests on the tile is red.
_MANY_ERRORS = 0.01


def fleet_page(view: Cached[FleetView], visit: Visit) -> None:
    """Builds the page."""
    frame = Frame("/", "Fleet", visit)
    with frame.main:
        ui.html("<h1>Fleet</h1>", sanitize=False)
        under_way = Markup("eo-strip", testid="under-way")
        tiles = _Tiles()
        with ui.element("div").classes("eo-two"):
            with ui.element("section").classes("eo-panel"):
                heading(
                    "Requests per second, by version",
                    "Answers given by devices, by the version whose weights answered, from their windows of "
                    "telemetry. The newest windows are still under way, so the lines end a window's length ago.",
                )
                silence = Markup()
                chart = LineChart("requests/s", "Requests per second by version over ten minutes")
            with ui.element("section").classes("eo-panel"):
                heading(
                    "What runs",
                    "Devices by the version that they report as loaded. What was sent or downloaded does not count.",
                )
                versions = Markup(testid="versions")
        with ui.element("section").classes("eo-panel"):
            heading("Devices")
            table = DeviceTable()

    def show(fleet: FleetView) -> None:
        tiles.show(fleet)
        colours = _colours(fleet)
        quiet = empty_markup(
            "No traffic", "It appears with the first telemetry window of a device that serves."
        )
        silence.show("" if fleet.traffic.rates else quiet)
        chart.set_visibility(bool(fleet.traffic.rates))
        chart.show(
            [
                Line(name, colours[name], list(zip(fleet.traffic.buckets, rates, strict=True)), stacked=True)
                for name, rates in fleet.traffic.rates.items()
            ]
        )
        versions.show(_versions(fleet, colours))
        table.show(fleet)

    def show_pulse(now: Pulse) -> None:
        under_way.show("".join(_strip(rollout) for rollout in now.under_way))
        tiles.show_alerts(now)

    frame.keep_fresh(view.get, show, show_pulse)


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
                "Error rate",
                "Failed requests as a share of all, over the last minute of telemetry. "
                f"Red above {_MANY_ERRORS:.0%}.",
            )
            self.accuracy = Tile(
                "Accuracy",
                "Right answers as a share of those that got a label, over the last minute of telemetry.",
            )
            self.latency = Tile(
                "Latency p50",
                "Half of the answers took no longer than this on the device; 99% no longer than the p99 below. "
                "Last minute, from the devices' sketches merged.",
            )
            self.fallback = Tile(
                "Fallback",
                "Requests that the cloud answered in the device's place, as a share of all. Last minute.",
            )
            self.alerts = Tile(
                "Open alerts",
                "Alerts whose condition still holds, or has not been clear for long enough.",
                link="/alerts",
            )

    def show(self, fleet: FleetView) -> None:
        active = sum(not device.revoked for device in fleet.devices)
        offline, astray = active - fleet.online, active - fleet.in_sync
        recent = fleet.recent
        self.online.show(
            f"{fleet.online:,} / {active:,}",
            f"{offline:,} offline" if offline else ("all connected" if active else "none enrolled"),
            "warn" if offline else "",
        )
        self.sync.show(
            f"{fleet.in_sync:,} / {active:,}",
            f"{astray:,} run something else" if astray else ("as wanted" if active else "none enrolled"),
            "warn" if astray else "",
        )
        self.rate.show(f"{recent.requests / 60:,.0f}/s", f"{words.count(recent.requests)} in a minute")
        self.errors.show(
            words.share(recent.error_rate),
            f"{words.count(recent.errors)} failed",
            "bad" if (recent.error_rate or 0) > _MANY_ERRORS else "",
        )
        self.accuracy.show(words.share(recent.accuracy), f"of {words.count(recent.labels)} labelled")
        self.latency.show(
            words.milliseconds(recent.latency_p50_ms), f"p99 {words.milliseconds(recent.latency_p99_ms)}"
        )
        self.fallback.show(
            words.share(recent.fallback_share), f"{words.count(recent.fallbacks)} by the cloud"
        )

    def show_alerts(self, now: Pulse) -> None:
        parts = [f"{count} {severity}" for severity, count in sorted(now.alerts.items())]
        tone = "bad" if now.alerts["critical"] else "warn" if now.open_alerts else ""
        self.alerts.show(str(now.open_alerts), ", ".join(parts) or "all quiet", tone)


def _strip(rollout: RolloutSummary) -> str:
    name = html.escape(f"{rollout.candidate.name} {rollout.candidate.version}")
    return (
        f'<a href="/rollouts/{html.escape(rollout.id)}">'
        f"{pill_markup(words.phase(rollout.phase), words.tone(rollout.phase))}<b>{name}</b>"
        f"<span>{rollout.devices_updated} of {rollout.devices_total} updated</span>"
        f'<span class="eo-muted">{html.escape(rollout.reason)}</span></a>'
    )


def _colours(fleet: FleetView) -> dict[str, str]:
    # By name, not by rank: a version keeps its colour while the shares move.
    names = sorted({*fleet.traffic.rates, *(name for name, _ in fleet.versions)} - {"nothing"})
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def _versions(fleet: FleetView, colours: dict[str, str]) -> str:
    total = sum(number for _, number in fleet.versions)
    if not total:
        return empty_markup(
            "Nothing runs",
            "Publish a bundle and roll it out:",
            "edgeops publish BUNDLE",
            "edgeops fleet rollout create MODEL VERSION --strategy all-at-once --approve",
        )
    rows = [
        f'<div class="row"><span>{html.escape(name)}</span>'
        f"<span>{tip_markup(f'{number:,}', f'{number:,} of {total:,} devices')}</span>"
        f'<div class="track"><div class="fill" style="width:{100 * number / total:.1f}%;'
        f'background:{colours.get(name, "var(--muted)")}"></div></div></div>'
        for name, number in fleet.versions
    ]
    return f'<div class="eo-bars">{"".join(rows)}</div>'
