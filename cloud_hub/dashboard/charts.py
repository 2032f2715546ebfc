"""Charts over time: ECharts for the lines, our own legend above them, which wraps and keeps its names."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from cloud_hub.dashboard.parts import Markup

# Distinct in both themes and to colour-blind eyes (Okabe and Ito, 2008, https://jfly.uni-koeln.de/color/).
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c")
_GREY = "#8a96a6"


@dataclass(frozen=True)
class Line:
    """One line: its name, colour, (time in ms, value or None for no data) points, and how it is drawn."""

    name: str
    colour: str
    points: Sequence[tuple[int, float | None]]
    dashed: bool = False
    stacked: bool = False
    # What the legend says behind the name.
    note: str = ""


class LineChart:
    """Lines over time, replaced in place. `label` is what a screen reader calls it."""

    def __init__(self, unit: str, label: str, *, digits: int = 1, height_px: int = 240) -> None:
        self._legend = Markup("eo-legend")
        self._digits = digits
        self._chart = ui.echart(_options(unit)).classes("eo-chart").style(f"min-height: {height_px}px")
        self._chart.props["role"] = "img"
        self._chart.props["aria-label"] = label

    def set_visibility(self, visible: bool) -> None:
        """Shows or hides it."""
        self._legend.set_visibility(visible)
        self._chart.set_visibility(visible)

    def show(self, lines: Sequence[Line], *, mark: tuple[float, str] | None = None) -> None:
        """Draws the lines; `mark` is a level with its name, drawn across."""
        self._legend.show("".join(_entry(line) for line in lines))
        series = [self._series(line) for line in lines]
        if mark is not None and series:
            series[0]["markLine"] = _mark(*mark)
        if self._chart.options["series"] != series:
            self._chart.options["series"] = series
            self._chart.update()

    def _series(self, line: Line) -> dict[str, Any]:
        series: dict[str, Any] = {
            "name": line.name,
            "type": "line",
            "color": line.colour,
            # A single point has no line to be seen by.
            "showSymbol": sum(value is not None for _, value in line.points) < 3,
            "lineStyle": {"width": 2, "type": "dashed" if line.dashed else "solid"},
            "data": [
                [at, None if value is None else round(value, self._digits)] for at, value in line.points
            ],
        }
        if line.stacked:
            # No stroke: that of a part of nothing would run along the top of the part below it.
            series |= {"stack": "all", "areaStyle": {"opacity": 0.6}, "lineStyle": {"width": 0}}
        return series


def _entry(line: Line) -> str:
    style = "dashed" if line.dashed else "solid"
    note = f' <span class="eo-muted">{html.escape(line.note)}</span>' if line.note else ""
    return (
        f'<span class="entry"><i style="border-top: 3px {style} {line.colour}"></i>'
        f"{html.escape(line.name)}{note}</span>"
    )


def _mark(level: float, name: str) -> dict[str, Any]:
    return {
        "silent": True,
        "symbol": "none",
        "lineStyle": {"type": "dotted", "width": 2, "color": _GREY},
        "label": {"position": "insideStartTop", "formatter": name, "color": _GREY, "fontSize": 12},
        "data": [{"yAxis": level}],
    }


def _options(unit: str) -> dict[str, Any]:
    return {
        "animation": False,
        "grid": {"left": 8, "right": 12, "top": 30, "bottom": 4, "containLabel": True},
        "tooltip": {"trigger": "axis", "order": "valueDesc", "confine": True},
        "xAxis": {
            "type": "time",
            "axisLabel": {"color": _GREY, "hideOverlap": True},
            "axisLine": {"onZero": False, "lineStyle": {"color": _GREY}},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "name": unit,
            "nameTextStyle": {"color": _GREY, "align": "left"},
            "axisLabel": {"color": _GREY},
            "splitLine": {"lineStyle": {"color": "rgba(138,150,166,.2)"}},
        },
        "useUTC": True,
        "series": [],
    }
