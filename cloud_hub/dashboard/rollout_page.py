"""One rollout, live: where it stands and why, each device, and the evidence as it grows."""

from __future__ import annotations

import html
from collections.abc import Callable

from nicegui import run, ui

from cloud_hub.api.rollout_views import DeviceProgress, LogEntry, RolloutDetail
from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.evidence_chart import EvidenceChart
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Markup, Pill, tip
from cloud_hub.dashboard.verdict_part import verdict_markup
from edgeops.errors import EdgeopsError

Act = Callable[[str], None]
# The steps that a rollout goes through when all is well, and where its other phases stand among them.
_STEPS = {
    "canary": ("draft", "canary", "rolling_out", "completed"),
    "all-at-once": ("draft", "rolling_out", "completed"),
}
_VERBS = {
    "draft": ("approve",),
    "approved": ("abort",),
    "canary": ("promote", "pause", "abort"),
    "rolling_out": ("pause", "abort"),
    "paused": ("resume", "abort"),
}
_CONFIRM = {
    "promote": "Promote the candidate to the whole cohort, whatever the evidence says?",
    "abort": "Abort? The devices that were moved return to what they ran before.",
}


def rollout_page(rollout_id: str, view: Cached[RolloutDetail], act: Act) -> None:
    """Builds the page. `act` performs a verb and raises `EdgeopsError` when it may not be."""
    frame = Frame("/rollouts", f"Rollout {rollout_id}")
    with frame.main:
        with ui.element("div").classes("eo-head"):
            title = ui.element("h1")
            with title:
                heading = ui.label("")
            phase = Pill()
            actions = _Actions(act)
        steps = Markup()
        reason = ui.label("").classes("eo-muted").props("data-testid=reason")
        with ui.element("section").classes("eo-panel"):
            with ui.element("h2"):
                tip(
                    "Devices",
                    "Blue: runs the candidate. The mark in the corner says canary. A device counts as updated once it "
                    "reports the candidate's digest as loaded and has served requests from it.",
                )
            devices = _Devices()
        with ui.element("div").classes("eo-two"):
            with ui.element("section").classes("eo-panel"):
                chart = EvidenceChart()
            with ui.element("section").classes("eo-panel"):
                with ui.element("h2"):
                    tip(
                        "Verdict",
                        "What the evidence so far says: promote, hold or abort. Missing data is never success.",
                    )
                verdict = Markup()
        with ui.element("section").classes("eo-panel"):
            ui.html("<h2>What happened</h2>", sanitize=False)
            log = Markup("eo-log")

    def show(rollout: RolloutDetail) -> None:
        baseline = f" from {rollout.baseline.version}" if rollout.baseline else ""
        heading.set_text(f"{rollout.candidate.name} {rollout.candidate.version}{baseline}")
        phase.show(words.phase(rollout.phase), words.tone(rollout.phase))
        steps.show(_steps(rollout))
        reason.set_text(f"{rollout.reason} {rollout.meaning}")
        actions.show(_VERBS.get(rollout.phase, ()))
        devices.show(rollout.devices)
        chart.show(rollout)
        verdict.show(verdict_markup(rollout))
        log.show(_log(rollout.log))

    frame.keep_fresh(view.get, show)


class _Actions:
    """The verbs that the phase allows, as buttons; those that cannot be undone ask first."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self._buttons: dict[str, ui.button] = {}
        with ui.element("div").classes("eo-actions"):
            for verb in ("approve", "promote", "resume", "pause", "abort"):
                button = ui.button(verb.capitalize(), on_click=lambda _, verb=verb: self._ask(verb))
                button.props(
                    "unelevated no-caps dense padding='4px 14px' color="
                    + ("negative" if verb == "abort" else "primary")
                )
                button.set_visibility(False)
                self._buttons[verb] = button

    def show(self, verbs: tuple[str, ...]) -> None:
        for verb, button in self._buttons.items():
            button.set_visibility(verb in verbs)

    async def _ask(self, verb: str) -> None:
        if verb in _CONFIRM:
            with ui.dialog() as dialog, ui.card():
                ui.label(_CONFIRM[verb])
                with ui.row():
                    ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps")
                    ui.button(verb.capitalize(), on_click=lambda: dialog.submit(True)).props(
                        "unelevated no-caps"
                    )
            if not await dialog:
                return
        try:
            await run.io_bound(self._act, verb)
        except EdgeopsError as error:
            ui.notify(str(error), type="negative")


class _Devices:
    """A tile a device, which changes colour as the device moves."""

    def __init__(self) -> None:
        self._grid = ui.element("div").classes("eo-grid")
        self._tiles: dict[str, tuple[ui.element, ui.label, ui.label]] = {}
        self._tones: dict[str, str] = {}

    def show(self, devices: list[DeviceProgress]) -> None:
        for device in devices:
            if device.name not in self._tiles:
                self._add(device)
            tile, status, detail = self._tiles[device.name]
            status.set_text(words.phase(device.status))
            detail.set_text(device.detail)
            tone = _tone(device)
            if self._tones.get(device.name) != tone:
                tile.classes(remove="candidate returned failed", add=tone or None)
                tile.props(f"data-status={device.status}")
                self._tones[device.name] = tone

    def _add(self, device: DeviceProgress) -> None:
        with self._grid, ui.element("div").classes("eo-device").props(f"data-device={device.name}") as tile:
            with ui.element("div").classes("n"):
                ui.label(device.name)
                if device.canary:
                    ui.label("canary").classes("eo-pill accent")
            ui.label(device.site).classes("d")
            status = ui.label("")
            detail = ui.label("").classes("d")
        self._tiles[device.name] = (tile, status, detail)


def _tone(device: DeviceProgress) -> str:
    if device.status in ("installed", "updated"):
        return "candidate"
    return device.status if device.status in ("returned", "failed") else ""


def _steps(rollout: RolloutDetail) -> str:
    names = list(_STEPS.get(rollout.strategy, ()))
    # A rollout that turned back shows where it went instead of the end it did not reach.
    if rollout.phase in ("rolling_back", "aborted", "failed"):
        names = ["draft", "canary", "rolling_back", "failed" if rollout.phase == "failed" else "aborted"]
    current = {"approved": "draft"}.get(rollout.phase, rollout.phase)
    if current == "paused":
        names.insert(2, "paused")
    position = names.index(current) if current in names else 0
    marks = []
    for index, name in enumerate(names):
        state = "now" if index == position else "past" if index < position else ""
        aria = ' aria-current="step"' if index == position else ""
        marks.append(f'<span class="step {state}"{aria}>{html.escape(words.phase(name))}</span>')
    return f'<div class="eo-steps" data-testid="steps">{"<span aria-hidden=true>→</span>".join(marks)}</div>'


def _log(entries: list[LogEntry]) -> str:
    rows = []
    for entry in entries:
        if entry.kind == "look":
            continue  # the chart shows every look
        detail = entry.detail
        if entry.kind == "transition":
            what = f"<b>{html.escape(words.phase(str(detail.get('to', ''))))}</b> {html.escape(str(detail.get('reason', '')))}"
        else:
            what = html.escape(
                f"{detail.get('device')}: {words.phase(str(detail.get('status')))}. {detail.get('detail')}"
            )
        rows.append(
            f'<tr><td class="eo-muted" style="white-space:nowrap">{words.clock(entry.at_ms)}</td><td>{what}</td></tr>'
        )
    if not rows:
        return '<div class="eo-muted">Nothing yet: it waits for approval.</div>'
    return f'<table class="eo-table"><tbody>{"".join(rows)}</tbody></table>'
