"""The evidence of a canary over time: both e-processes of each metric against their thresholds."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cloud_hub.api.rollout_views import RolloutDetail
from cloud_hub.dashboard.parts import PALETTE, Chart, Markup, empty_markup, line_chart, tip

_QUESTIONS = (("worse", "worse"), ("no_worse", "no worse"))


class EvidenceChart:
    """One line a metric and question, in powers of ten; a dashed line where the question is answered."""

    def __init__(self) -> None:
        with ui.element("h2"):
            tip(
                "Evidence",
                "e-values in powers of ten, one point a look. 'Worse' asks whether the canaries do worse than the others, "
                "'no worse' whether they surely stay within the margin. A line that crosses its dashed threshold has "
                "its answer; the error chance holds however often one looks.",
            )
        self._empty = Markup()
        self._chart = Chart(line_chart("log10 e"), "Evidence of the canary over time", height_px=280)

    def show(self, rollout: RolloutDetail) -> None:
        """Draws the looks that the log holds."""
        looks = [entry for entry in reversed(rollout.log) if entry.kind == "look"]
        series: dict[str, list[list[float]]] = {}
        thresholds: dict[str, float] = {}
        for look in looks:
            for figures in look.detail.get("figures", ()):
                for key, words in _QUESTIONS:
                    name = f"{figures['metric']}: {words}"
                    series.setdefault(name, []).append([look.at_ms, round(figures[key]["log10_e"], 3)])
                    thresholds[name] = figures[key]["log10_threshold"]
        self._chart.set_visibility(bool(series))
        if series:
            self._empty.show("")
        elif rollout.strategy == "canary":
            self._empty.show(empty_markup("No evidence yet", "It comes with the canaries' first telemetry."))
        else:
            self._empty.show(
                empty_markup("Not judged", "All devices move at once, so there is nothing to compare with.")
            )
        self._chart.show(
            series=[_line(i, name, data, thresholds[name]) for i, (name, data) in enumerate(series.items())]
        )


def _line(index: int, name: str, data: list[list[float]], threshold: float) -> dict[str, Any]:
    colour = PALETTE[index % len(PALETTE)]
    return {
        "name": name,
        "type": "line",
        "showSymbol": len(data) < 3,
        "lineStyle": {"width": 2},
        "color": colour,
        "data": data,
        "markLine": {
            "silent": True,
            "symbol": "none",
            "lineStyle": {"type": "dashed", "color": colour, "opacity": 0.5},
            "label": {"show": False},
            "data": [{"yAxis": round(threshold, 3)}],
        },
    }
