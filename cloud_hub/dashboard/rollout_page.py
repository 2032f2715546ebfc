"""One rollout, live: where it stands and why, each device, and the evidence as it grows."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial

from nicegui import ui

from cloud_hub.api.rollout_views import LogEntry, RolloutDetail
from cloud_hub.dashboard import words
from cloud_hub.dashboard.ask import Question, perform
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.evidence_chart import EvidenceChart
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Markup, Pill, heading
from cloud_hub.dashboard.rollout_devices import RolloutDevices
from cloud_hub.dashboard.verdict_part import verdict_markup
from cloud_hub.dashboard.visit import Visit

# What is done (a verb), and the reason that was given for it. Raises `EdgeopsError` when it may not be.
Act = Callable[[str, str], None]
_VERBS = {
    "draft": ("approve",),
    "approved": ("abort",),
    "canary": ("promote", "pause", "abort"),
    "rolling_out": ("pause", "abort"),
    "paused": ("resume", "abort"),
}
# The verbs that ask first, and whether they take a reason.
_QUESTIONS = {
    "promote": ("Promote the candidate to the whole cohort, whatever the evidence says?", False),
    "pause": ("Pause? The devices stay on what they run, and no more are moved.", True),
    "abort": ("Abort? The devices that were moved return to what they ran before.", True),
}
_TURNED_BACK = ("rolling_back", "aborted", "failed")


def rollout_page(rollout_id: str, view: Cached[RolloutDetail], act: Act, visit: Visit) -> None:
    """Builds the page."""
    frame = Frame("/rollouts", f"Rollout {rollout_id}", visit)
    with frame.main:
        with ui.element("div").classes("eo-head"):
            title = Markup(tag="h1")
            phase = Pill(testid="phase")
            actions = _Actions(act)
        steps = Markup()
        reason = ui.label("").classes("eo-why").props("data-testid=reason")
        with ui.element("section").classes("eo-panel"):
            heading(
                "Devices",
                "Blue runs the candidate, orange has returned, red has failed. A device counts as updated once "
                "it reports the candidate's digest as loaded and has served requests from it.",
            )
            devices = RolloutDevices()
        with ui.element("div").classes("eo-two even"):
            with ui.element("section").classes("eo-panel eo-column"):
                chart = EvidenceChart()
            with ui.element("section").classes("eo-panel"):
                heading(
                    "Verdict",
                    "What the evidence so far says: promote, hold or abort. Missing data is never success.",
                )
                verdict = Markup(testid="verdict")
        with ui.element("section").classes("eo-panel"):
            heading(
                "What happened", "The newest first; times are UTC. The evidence's looks are in the chart."
            )
            log = Markup("eo-log", testid="log")
        about = ui.label("").classes("eo-muted")

    def show(rollout: RolloutDetail) -> None:
        title.show(_title(rollout))
        phase.show(words.phase(rollout.phase), words.tone(rollout.phase))
        steps.show(_steps(rollout))
        reason.set_text(f"{rollout.reason} {rollout.meaning}")
        actions.show(_VERBS.get(rollout.phase, ()))
        devices.show(rollout.devices)
        chart.show(rollout)
        verdict.show(verdict_markup(rollout))
        log.show(_log(rollout.log))
        about.set_text(
            f"{rollout.id}, {words.phase(rollout.strategy)}, written by {rollout.created_by} "
            f"on {words.stamp(rollout.created_at_ms)}."
        )

    frame.keep_fresh(view.get, show)


class _Actions:
    """The verbs that the phase allows, as buttons; those that matter most ask first."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self._buttons: dict[str, ui.button] = {}
        self._questions = {
            verb: Question(text, verb.capitalize(), reason=reason)
            for verb, (text, reason) in _QUESTIONS.items()
        }
        with ui.element("div").classes("eo-actions"):
            for verb in ("approve", "promote", "resume", "pause", "abort"):
                button = ui.button(verb.capitalize(), on_click=lambda _, verb=verb: self._ask(verb))
                button.props("no-caps dense padding='4px 14px'")
                button.props(
                    "outline color=negative"
                    if verb == "abort"
                    else "outline color=primary"
                    if verb == "pause"
                    else "unelevated color=primary"
                )
                button.set_visibility(False)
                self._buttons[verb] = button

    def show(self, verbs: tuple[str, ...]) -> None:
        for verb, button in self._buttons.items():
            button.set_visibility(verb in verbs)

    async def _ask(self, verb: str) -> None:
        reason: str | None = ""
        if verb in self._questions:
            reason = await self._questions[verb].ask()
        if reason is not None:
            await perform(partial(self._act, verb, reason))


def _title(rollout: RolloutDetail) -> str:
    candidate = html.escape(f"{rollout.candidate.name} {rollout.candidate.version}")
    baseline = f"from {html.escape(rollout.baseline.version)}" if rollout.baseline else "first install"
    return f'{candidate} <span class="eo-muted">{baseline}</span>'


def _steps(rollout: RolloutDetail) -> str:
    names = ["draft", "canary"] if rollout.strategy == "canary" else ["draft"]
    beyond_canary = rollout.devices_moved > len(rollout.canaries)
    current = {"approved": "draft"}.get(rollout.phase, rollout.phase)
    # A rollout that turned back shows where it went instead of the end that it did not reach.
    if current in _TURNED_BACK:
        names += ["rolling_out"] if beyond_canary else []
        names += ["rolling_back", "failed" if current == "failed" else "aborted"]
    else:
        names += ["rolling_out", "completed"]
    if current == "paused":
        names.insert(names.index("rolling_out") + (1 if beyond_canary else 0), "paused")
    position = names.index(current)
    marks = []
    for index, name in enumerate(names):
        state = f"now {words.tone(name)}" if index == position else "past" if index < position else ""
        aria = ' aria-current="step"' if index == position else ""
        marks.append(f'<li class="step {state}"{aria}>{html.escape(words.phase(name))}</li>')
    return f'<ol class="eo-steps" data-testid="steps" aria-label="Steps">{"".join(marks)}</ol>'


def _log(entries: list[LogEntry]) -> str:
    rows = []
    for entry in entries:
        if entry.kind == "look":
            continue  # the chart shows every look
        detail = entry.detail
        if entry.kind == "transition":
            to = str(detail.get("to", ""))
            tone = words.tone(to)
            what = f'<b class="eo-{tone}">{html.escape(words.phase(to))}</b> {html.escape(str(detail.get("reason", "")))}'
        else:
            status = words.phase(str(detail.get("status")))
            told = words.phase_in(str(detail.get("detail")))
            what = f"{html.escape(str(detail.get('device')))}: {html.escape(status)}. {html.escape(told)}"
        rows.append(f"<li><time>{words.clock(entry.at_ms)}</time><div>{what}</div></li>")
    if not rows:
        return '<div class="eo-muted">Nothing yet: it waits for approval.</div>'
    return f"<ul>{''.join(rows)}</ul>"
