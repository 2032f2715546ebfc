"""All rollouts, the newest first."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nicegui import ui

from cloud_hub.api.rollout_views import RolloutSummary
from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Markup, empty_markup, pill_markup, table_markup, tip_markup

_HEADS = (
    "Rollout",
    "Candidate",
    tip_markup("Phase", "Where the rollout stands. Hover a phase for its meaning."),
    tip_markup(
        "Updated", "Devices that report the candidate as loaded and have served from it, of the cohort."
    ),
    "Why",
    "Begun",
)


def rollouts_page(view: Cached[Sequence[RolloutSummary]]) -> None:
    """Builds the page."""
    frame = Frame("/rollouts", "Rollouts")
    with frame.main:
        ui.html("<h1>Rollouts</h1>", sanitize=False)
        with ui.element("section").classes("eo-panel"):
            table = Markup("w-full")

    def show(rollouts: Sequence[RolloutSummary]) -> None:
        if not rollouts:
            table.show(
                empty_markup(
                    "No rollouts yet",
                    "Publish a bundle, then move devices to it:",
                    "edgeops fleet rollout create MODEL VERSION --approve",
                )
            )
            return
        table.show(table_markup(_HEADS, [_row(rollout) for rollout in rollouts]))

    frame.keep_fresh(view.get, show)


def _row(rollout: RolloutSummary) -> list[str]:
    candidate = f"{rollout.candidate.name} {rollout.candidate.version}"
    baseline = f"from {rollout.baseline.version}" if rollout.baseline else "first install"
    phase = (
        f'<span tabindex="0" class="eo-pill {words.tone(rollout.phase)}" title="{html.escape(rollout.meaning)}">'
        f"{words.phase(rollout.phase)}</span>"
    )
    return [
        f'<a href="/rollouts/{html.escape(rollout.id)}">{html.escape(rollout.id)}</a>',
        f'{html.escape(candidate)} <span class="eo-muted">{html.escape(baseline)}</span>',
        phase,
        f"{rollout.devices_updated} of {rollout.devices_total}",
        html.escape(rollout.reason),
        f"{words.stamp(rollout.created_at_ms)} " + pill_markup(words.phase(rollout.strategy), ""),
    ]
