"""Alerts: the open ones first, then those that were resolved."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from nicegui import ui

from cloud_hub.control.alert_store import Alert
from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Column, Markup, empty_markup, heading, pill_markup, table_markup
from cloud_hub.dashboard.visit import Visit

# A rollout's identity, as `cloud_hub.control.rollouts` makes them.
_ROLLOUT = re.compile(r"\br-[0-9a-f]{10}\b")
_COLUMNS = (
    Column("Severity", "How bad it is, as the rule that found it says."),
    Column("What", "What was found, and the rule that found it.", wide=True),
    Column(
        "Value",
        "What was measured when the condition was last found true, and the threshold that it was held against.",
    ),
    Column("Opened", "When the condition was first found true."),
    Column("Last true", "When the condition was last found true."),
    Column("Resolved", "When it had been clear for long enough."),
)


def alerts_page(view: Cached[Sequence[Alert]], visit: Visit) -> None:
    """Builds the page."""
    frame = Frame("/alerts", "Alerts", visit)
    with frame.main:
        ui.html("<h1>Alerts</h1>", sanitize=False)
        with ui.element("section").classes("eo-panel").props('data-testid="open-alerts"'):
            heading("Open")
            current = Markup("eo-scroll")
        with ui.element("section").classes("eo-panel"):
            heading("Resolved", "The newest first.")
            past = Markup("eo-scroll eo-tall")

    def show(alerts: Sequence[Alert]) -> None:
        opened = [alert for alert in alerts if alert.resolved_at_ms is None]
        opened.sort(key=lambda alert: alert.severity != "critical")  # stable: the newest of each first
        closed = [alert for alert in alerts if alert.resolved_at_ms is not None]
        nothing = empty_markup("All quiet", "Nothing that is watched is out of order.")
        current.show(
            table_markup(_COLUMNS[:5], [_row(alert)[:5] for alert in opened], "Open alerts")
            if opened
            else nothing
        )
        none = '<div class="eo-muted">None so far.</div>'
        past.show(
            table_markup(_COLUMNS, [_row(alert) for alert in closed], "Resolved alerts") if closed else none
        )

    frame.keep_fresh(view.get, show)


def _row(alert: Alert) -> list[str]:
    value = words.NONE
    if alert.value is not None:
        limit = f" (threshold {alert.threshold:.3g})" if alert.threshold is not None else ""
        value = f"{alert.value:.3g}{limit}"
    return [
        pill_markup(alert.severity, words.tone(alert.severity)),
        f"{_message(alert)}<div class=eo-muted>{_about(alert)}</div>",
        html.escape(value),
        words.stamp(alert.opened_at_ms),
        words.clock(alert.updated_at_ms),
        words.stamp(alert.resolved_at_ms) if alert.resolved_at_ms is not None else words.NONE,
    ]


def _message(alert: Alert) -> str:
    text = html.escape(alert.message)
    if not alert.rule.startswith("rollout"):
        return text
    return _ROLLOUT.sub(lambda found: f'<a href="/rollouts/{found.group()}">{found.group()}</a>', text)


def _about(alert: Alert) -> str:
    rule = html.escape(words.phase(alert.rule))
    if alert.device is not None:
        name = html.escape(alert.device)
        return f'{rule}, <a href="/devices/{name}">{name}</a>'
    return f'{rule}, <a href="/drift">where it drifts</a>' if alert.feature is not None else rule
