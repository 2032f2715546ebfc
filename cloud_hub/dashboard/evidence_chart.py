"""The evidence of a canary over time: how far each question is on its way to its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloud_hub.api.rollout_views import LogEntry, RolloutDetail
from cloud_hub.dashboard import words
from cloud_hub.dashboard.charts import PALETTE, Line, LineChart
from cloud_hub.dashboard.parts import Markup, empty_markup, heading

# A colour for each question (orange for what would abort, blue for what would promote), a stroke for each
# metric: the eye has to look for one thing only, whether a line crosses the mark.
_QUESTIONS = (("worse", "worse", PALETTE[5]), ("no_worse", "no worse", PALETTE[0]))


class EvidenceChart:
    """One line for each metric and question, in shares of the evidence that answers it."""

    def __init__(self) -> None:
        heading(
            "Evidence",
            "Of each question how far it is on the way to yes: the logarithm of its e-value as a share of its "
            "threshold's. At 100% it is answered. 'Worse' (orange) asks whether the canaries do worse than the "
            "others, and aborts; 'no worse' (blue) whether they surely stay within the margin, and promotes. "
            "Below 0 the data speaks against it. The chance of error holds however often one looks.",
        )
        self._empty = Markup()
        self._chart = LineChart("% of the evidence needed", "Evidence of the canary over time", height_px=260)

    def show(self, rollout: RolloutDetail) -> None:
        """Draws the looks that the log holds."""
        lines = _lines([entry for entry in reversed(rollout.log) if entry.kind == "look"])
        self._chart.set_visibility(bool(lines))
        if lines:
            self._empty.show("")
        elif rollout.strategy != "canary":
            self._empty.show(
                empty_markup("Not judged", "All devices move at once, so there is nothing to compare with.")
            )
        elif rollout.phase in ("draft", "approved", "canary", "paused"):
            self._empty.show(empty_markup("No evidence yet", "It comes with the canaries' first telemetry."))
        else:
            self._empty.show(
                empty_markup("No evidence", "The rollout ended before the canaries were judged.")
            )
        self._chart.show(lines, mark=(100.0, "answered"))


def _lines(looks: Sequence[LogEntry]) -> list[Line]:
    points: dict[tuple[str, str], list[tuple[int, float | None]]] = {}
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for look in looks:
        for figures in look.detail.get("figures", ()):
            for key, _, _ in _QUESTIONS:
                line = (str(figures["metric"]), key)
                question = figures[key]
                share = 100 * question["log10_e"] / question["log10_threshold"]
                points.setdefault(line, []).append((look.at_ms, share))
                last[line] = question
    metrics = list(dict.fromkeys(metric for metric, _ in points))
    return [
        Line(
            name=f"{metric}: {name}",
            colour=colour,
            points=points[metric, key],
            dashed=metrics.index(metric) > 0,
            note=words.evidence(last[metric, key]["log10_e"], last[metric, key]["log10_threshold"]),
        )
        for metric in metrics
        for key, name, colour in _QUESTIONS
    ]
