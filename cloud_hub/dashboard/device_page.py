"""One device: what it should run and does run, why an update failed, its telemetry, and what happened on it."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence

from nicegui import ui

from cloud_hub.dashboard import device_words, words
from cloud_hub.dashboard.ask import Question, perform
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.charts import PALETTE, Line, LineChart
from cloud_hub.dashboard.device_data import DeviceView, EventRow, WindowRow
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import (
    Column,
    Markup,
    Pill,
    Tile,
    empty_markup,
    facts_markup,
    heading,
    pill_markup,
    table_markup,
)
from cloud_hub.dashboard.visit import Visit
from cloud_hub.devices import Device

_SHOWN_WINDOWS = 20
_COLUMNS = (
    Column("Ended", "When the window was closed on the device, UTC."),
    Column("Version", "The version whose weights answered."),
    Column("Requests", "Answers given, by the device or through the cloud.", number=True),
    Column("Failed", "Answers that failed.", number=True),
    Column("Rejected", "Malformed requests, answered 4xx; not among the requests.", number=True),
    Column("Fallbacks", "Answered by the cloud in the device's place.", number=True),
    Column("Right", "Right answers of those that got a label in this window.", number=True),
    Column("p50 / p99", "Half and 99% of the answers took no longer than this on the device.", number=True),
)


def device_page(name: str, view: Cached[DeviceView], revoke: Callable[[], None], visit: Visit) -> None:
    """Builds the page. `revoke` cuts the device off; it raises `EdgeopsError` when it cannot."""
    frame = Frame("", f"Device {name}", visit)
    with frame.main:
        question = Question(
            f"Revoke {name}? Its certificates end and its connections are cut. To come back it must enrol again.",
            "Revoke",
        )
        with ui.element("div").classes("eo-head"):
            title = Markup(tag="h1")
            link = Pill(testid="link")
            with ui.element("div").classes("eo-actions"):
                button = ui.button("Revoke", on_click=lambda: _revoke(question, revoke))
                button.props("outline no-caps dense padding='4px 14px' color=negative")
        failure = Markup(testid="failure")
        with ui.element("div").classes("eo-two half"):
            with ui.element("section").classes("eo-panel"):
                heading("What the hub wants", "The desired side of its twin, signed by the hub.")
                wanted = Markup()
            with ui.element("section").classes("eo-panel"):
                heading("What the device reports", "The reported side of its twin, as the device last said.")
                reported = Markup()
        tiles = _Tiles()
        with ui.element("section").classes("eo-panel"):
            heading(
                "Latency",
                "Half (p50) and 99% (p99) of each window's answers took no longer than this on the device.",
            )
            silence = Markup()
            chart = LineChart("ms", "Latency by window", digits=3, height_px=200)
        with ui.element("section").classes("eo-panel"):
            heading("Newest windows", f"The last {_SHOWN_WINDOWS} windows of telemetry that came.")
            windows = Markup("eo-scroll eo-tall")
        with ui.element("section").classes("eo-panel"):
            heading("Events", "What the device reported of itself, the newest first; times are UTC.")
            events = Markup("eo-log")

    def show(now: DeviceView) -> None:
        device = now.device
        state = device_words.link(device)
        title.show(f'{html.escape(device.name)} <span class="eo-muted">{html.escape(device.site)}</span>')
        link.show(state, words.tone(state))
        button.set_visibility(not device.revoked)
        failure.show(_failure(device))
        wanted.show(_wanted(device))
        reported.show(_reported(device, now.at_ms))
        tiles.show(now)
        lines = _lines(now.windows)
        silence.show("" if lines else empty_markup("No telemetry", "It comes once the device answers."))
        chart.set_visibility(bool(lines))
        chart.show(lines)
        windows.show(_windows(now.windows[:_SHOWN_WINDOWS]))
        events.show(_events(now.events))

    frame.keep_fresh(view.get, show)


async def _revoke(question: Question, revoke: Callable[[], None]) -> None:
    if await question.ask() is not None:
        await perform(revoke)


class _Tiles:
    def __init__(self) -> None:
        with ui.element("div").classes("eo-tiles"):
            self.requests = Tile("Requests", "Answers given in all windows that came.")
            self.errors = Tile("Failed", "Answers that failed, in all windows that came.")
            self.fallbacks = Tile("Fallback", "Requests that the cloud answered in its place, of all.")
            self.windows = Tile(
                "Windows",
                "Windows of telemetry received; missing ones are windows and events whose successors came.",
            )

    def show(self, now: DeviceView) -> None:
        totals = now.telemetry
        share = (lambda part: part / totals.requests) if totals.requests else (lambda part: None)
        self.requests.show(words.count(totals.requests), f"{words.count(totals.rejected)} rejected besides")
        self.errors.show(
            words.count(totals.errors), words.share(share(totals.errors)), "bad" if totals.errors else ""
        )
        self.fallbacks.show(
            words.share(share(totals.fallbacks)), f"{words.count(totals.fallbacks)} by the cloud"
        )
        self.windows.show(
            words.count(totals.windows),
            f"{words.count(totals.missing_windows)} missing" if totals.missing_windows else "none missing",
            "bad" if totals.missing_windows else "",
        )


def _failure(device: Device) -> str:
    error = device.update.error
    if not error:
        return ""
    target = f" ({device.update.target_digest[:12]})" if device.update.target_digest else ""
    remedy = html.escape(str(error.get("remedy") or ""))
    return (
        f'<div class="eo-warning" role="status"><b>The last update failed{html.escape(target)}.</b> '
        f"{html.escape(words.shortened(str(error.get('message', ''))))} <span>{remedy}</span></div>"
    )


def _wanted(device: Device) -> str:
    wanted = device.wanted
    if wanted is None:
        return empty_markup(
            "Nothing was assigned yet",
            "A rollout assigns it a bundle:",
            "edgeops fleet rollout create MODEL VERSION --strategy all-at-once --approve",
        )
    bundle = html.escape(device_words.wanted(device)) if wanted.bundle else "nothing"
    rollout = words.NONE
    if wanted.rollout:
        identity = html.escape(wanted.rollout)
        rollout = f'<a href="/rollouts/{identity}">{identity}</a>'
    accepted = device.reported_generation >= wanted.generation
    return facts_markup(
        (
            ("Should run", bundle, ""),
            ("Digest", _digest(wanted.bundle.digest if wanted.bundle else None), "SHA-256 of its manifest."),
            (
                "Generation",
                f"{wanted.generation} {pill_markup('accepted', 'ok') if accepted else pill_markup('not yet accepted', 'warn')}",
                "It grows with every change; a device accepts none that is not above its last.",
            ),
            ("Rollout", rollout, "Which rollout assigned it."),
        )
    )


def _reported(device: Device, now_ms: int) -> str:
    running, update = device.running, device.update
    runs = html.escape(device_words.running(device))
    if running is not None and not device.revoked:
        runs += " " + (
            pill_markup("in sync", "ok") if device.in_sync else pill_markup("not what it should", "warn")
        )
    return facts_markup(
        (
            ("Runs", runs, "The version whose weights it has loaded."),
            ("Digest", _digest(running.digest if running else None), "SHA-256 of its verified manifest."),
            (
                "Variant",
                html.escape(running.variant or words.NONE) if running else words.NONE,
                "The files it chose.",
            ),
            (
                "Answered",
                words.count(running.requests) if running else words.NONE,
                "Requests since these weights were loaded.",
            ),
            ("Update", html.escape(device_words.update(device)), f"Of generation {update.generation}."),
            ("Heard of", words.ago(device.reported_at_ms, now_ms), "When it last reported."),
            ("Agent", html.escape(device.agent_version or words.NONE), "The version of its software."),
            (
                "Certificate",
                f"until {words.stamp(device.certificate_expires_at_ms)}",
                "The device renews it by itself before.",
            ),
            ("Labels", _labels(device), "From its enrolment token; cohorts are chosen by them."),
        )
    )


def _digest(digest: str | None) -> str:
    return f'<code class="eo-code">{html.escape(digest[:16])}</code>' if digest else words.NONE


def _labels(device: Device) -> str:
    labels = (f"{key}={value}" for key, value in sorted(device.labels.items()))
    return " ".join(f'<code class="eo-code">{html.escape(label)}</code>' for label in labels) or words.NONE


def _lines(windows: Sequence[WindowRow]) -> list[Line]:
    if not any(window.p50_ms is not None for window in windows):
        return []
    return [
        Line("p50", PALETTE[0], [(window.end_ms, window.p50_ms) for window in reversed(windows)]),
        Line("p99", PALETTE[5], [(window.end_ms, window.p99_ms) for window in reversed(windows)]),
    ]


def _windows(windows: Sequence[WindowRow]) -> str:
    if not windows:
        return '<div class="eo-muted">None came yet.</div>'
    rows = [
        [
            words.clock(window.end_ms),
            html.escape(window.version),
            words.count(window.requests),
            words.count(window.errors),
            words.count(window.rejected),
            words.count(window.fallbacks),
            f"{window.labels_right:,}/{window.labels_seen:,}" if window.labels_seen else words.NONE,
            f"{words.milliseconds(window.p50_ms)} / {words.milliseconds(window.p99_ms)}",
        ]
        for window in windows
    ]
    return table_markup(_COLUMNS, rows, "Newest windows")


def _events(events: Sequence[EventRow]) -> str:
    if not events:
        return '<div class="eo-muted">None came yet.</div>'
    rows = [
        f"<li><time>{words.clock(event.at_ms)}</time><div><b>{html.escape(words.phase(event.kind))}</b> "
        f'<span class="eo-muted">{html.escape(_plain(event))}</span></div></li>'
        for event in events
    ]
    return f"<ul>{''.join(rows)}</ul>"


def _plain(event: EventRow) -> str:
    return ", ".join(
        f"{words.phase(key)}: {_value(value)}" for key, value in event.detail.items() if value is not None
    )


def _value(value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    return words.shortened(value)
