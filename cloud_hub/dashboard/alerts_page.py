"""Alerts: the open ones first, then those that were resolved."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nicegui import ui

from cloud_hub.alert_store import Alert
from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Markup, empty_markup, pill_markup, table_markup, tip_markup

_HEADS = (
    "Severity",
    "What",
    tip_markup(
        "Value",
        "What was measured when the condition was last found true, and the threshold that it was held against.",
    ),
    "Opened",
    tip_markup("Last true", "When the condition was last found true.", "eo-left"),
    "Resolved",
)


def alerts_page(view: Cached[Sequence[Alert]]) -> None:
    """Builds the page."""
    frame = Frame("/alerts", "Alerts")
    with frame.main:
        ui.html("<h1>Alerts</h1>", sanitize=False)
        with ui.element("section").classes("eo-panel").props('data-testid="open-alerts"'):
            ui.html("<h2>Open</h2>", sanitize=False)
            current = Markup("w-full")
        with ui.element("section").classes("eo-panel"):
            ui.html("<h2>Resolved</h2>", sanitize=False)
            past = Markup("w-full")

    def show(alerts: Sequence[Alert]) -> None:
        opened = [alert for alert in alerts if alert.resolved_at_ms is None]
        closed = [alert for alert in alerts if alert.resolved_at_ms is not None]
        nothing = empty_markup("All quiet", "Nothing that is watched is out of order.")
        current.show(table_markup(_HEADS[:5], [_row(alert)[:5] for alert in opened]) if opened else nothing)
        none = '<div class="eo-muted">None so far.</div>'
        past.show(table_markup(_HEADS, [_row(alert) for alert in closed]) if closed else none)

    frame.keep_fresh(view.get, show)


def _row(alert: Alert) -> list[str]:
    value = words.NONE
    if alert.value is not None:
        limit = f" (threshold {alert.threshold:.3g})" if alert.threshold is not None else ""
        value = f"{alert.value:.3g}{limit}"
    return [
        pill_markup(alert.severity, words.tone(alert.severity)),
        f"{html.escape(alert.message)}<div class=eo-muted>{html.escape(words.phase(alert.rule))}</div>",
        html.escape(value),
        words.stamp(alert.opened_at_ms),
        words.clock(alert.updated_at_ms),
        words.stamp(alert.resolved_at_ms) if alert.resolved_at_ms is not None else words.NONE,
    ]
