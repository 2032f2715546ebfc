"""All rollouts, the newest first."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nicegui import ui

from cloud_hub.api.rollout_views import RolloutSummary
from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Column, Markup, empty_markup, pill_markup, table_markup
from cloud_hub.dashboard.visit import Visit

_COLUMNS = (
    Column("Rollout", "Its identity, as commands take it."),
    Column("Candidate", "What the devices are moved to, and what most of them ran before."),
    Column("Phase", "Where the rollout stands."),
    Column("Updated", "Devices that report the candidate as loaded and have served from it, of the cohort."),
    Column("Why", "Why it is in its phase.", wide=True),
    Column("Begun", "When it was written, and how it moves the devices."),
)


def rollouts_page(view: Cached[Sequence[RolloutSummary]], visit: Visit) -> None:
    """Builds the page."""
    frame = Frame("/rollouts", "Rollouts", visit)
    with frame.main:
        ui.html("<h1>Rollouts</h1>", sanitize=False)
        with ui.element("section").classes("eo-panel"):
            table = Markup("eo-scroll")

    def show(rollouts: Sequence[RolloutSummary]) -> None:
        if not rollouts:
            table.show(
                empty_markup(
                    "No rollouts yet",
                    "Publish a bundle, then move devices to it:",
                    "edgeops publish BUNDLE",
                    "edgeops fleet rollout create MODEL VERSION --approve",
                )
            )
            return
        table.show(table_markup(_COLUMNS, [_row(rollout) for rollout in rollouts], "Rollouts"))

    frame.keep_fresh(view.get, show)


def _row(rollout: RolloutSummary) -> list[str]:
    candidate = f"{rollout.candidate.name} {rollout.candidate.version}"
    baseline = f"from {rollout.baseline.version}" if rollout.baseline else "first install"
    phase = pill_markup(words.phase(rollout.phase), words.tone(rollout.phase), rollout.meaning)
    return [
        f'<a href="/rollouts/{html.escape(rollout.id)}">{html.escape(rollout.id)}</a>',
        f'{html.escape(candidate)} <span class="eo-muted">{html.escape(baseline)}</span>',
        phase,
        f"{rollout.devices_updated} of {rollout.devices_total}",
        html.escape(rollout.reason),
        f"{words.stamp(rollout.created_at_ms)}<div class=eo-muted>{words.phase(rollout.strategy)}</div>",
    ]
