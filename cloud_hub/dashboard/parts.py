"""The parts that pages are made of: tiles, pills, empty states, charts. Each updates in place, so that
keyboard focus and scrolling stay where they are."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from nicegui import ui

# Distinct in both themes and to colour-blind eyes (Okabe and Ito, 2008, https://jfly.uni-koeln.de/color/).
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c")


class Tile:
    """A figure with its name, a line below, and an explanation on hover or focus."""

    def __init__(self, name: str, explanation: str) -> None:
        with ui.element("div").classes("eo-tile") as self._box:
            with ui.element("div").classes("k"):
                tip(name, explanation)
            self._value = ui.label("–").classes("v")
            self._below = ui.label("").classes("s")
        self._tone = ""

    def show(self, value: str, below: str = "", tone: str = "") -> None:
        """Sets the figure."""
        self._value.set_text(value)
        self._below.set_text(below)
        if tone != self._tone:
            self._box.classes(remove=self._tone or None, add=tone or None)
            self._tone = tone


class Pill:
    """A state in a word, coloured by its meaning."""

    def __init__(self) -> None:
        self._label = ui.label("").classes("eo-pill")
        self._tone = ""

    def show(self, text: str, tone: str) -> None:
        """Sets the state."""
        self._label.set_text(text)
        if tone != self._tone:
            self._label.classes(remove=self._tone or None, add=tone or None)
            self._tone = tone


class Markup:
    """Markup made by our own code from escaped values; sent only when it changed."""

    def __init__(self, classes: str = "") -> None:
        self._element = ui.html("", sanitize=False).classes(classes)
        self._content = ""

    def show(self, content: str) -> None:
        """Sets the markup."""
        if content != self._content:
            self._content = content
            self._element.set_content(content)


class Chart:
    """An ECharts chart whose series are replaced in place."""

    def __init__(self, options: dict[str, Any], label: str, *, height_px: int = 240) -> None:
        self._chart = ui.echart(options).style(f"height: {height_px}px; width: 100%")
        self._chart.props(f'role=img aria-label="{html.escape(label)}"')

    def set_visibility(self, visible: bool) -> None:
        """Shows or hides it."""
        self._chart.set_visibility(visible)

    def show(self, **options: Any) -> None:
        """Sets top-level options, such as `series`, if they changed."""
        current = self._chart.options
        if any(current.get(name) != value for name, value in options.items()):
            current.update(options)
            self._chart.update()


def tip(text: str, explanation: str, classes: str = "") -> None:
    """A word with an explanation on hover or keyboard focus."""
    ui.html(tip_markup(text, explanation, classes), sanitize=False)


def tip_markup(text: str, explanation: str, classes: str = "") -> str:
    """The same as markup."""
    return (
        f'<span class="eo-tip {classes}" tabindex="0" data-tip="{html.escape(explanation)}">'
        f"{html.escape(text)}</span>"
    )


def pill_markup(text: str, tone: str) -> str:
    """A pill as markup."""
    return f'<span class="eo-pill {tone}">{html.escape(text)}</span>'


def empty_markup(title: str, what_to_do: str, command: str = "") -> str:
    """What stands where there is nothing yet: why, and what brings something."""
    code = f" <code>{html.escape(command)}</code>" if command else ""
    return f'<div class="eo-empty"><b>{html.escape(title)}</b>{html.escape(what_to_do)}{code}</div>'


def table_markup(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """A table of cells that are markup already; the columns in `numbers` are right-aligned."""
    classes = ["num" if index in numbers else "" for index in range(len(heads))]
    head = "".join(f'<th class="{c}" scope="col">{h}</th>' for h, c in zip(heads, classes, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{c}">{cell}</td>' for cell, c in zip(row, classes, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="eo-scroll"><table class="eo-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def line_chart(unit: str) -> dict[str, Any]:
    """The options of a line chart over time, without data. Legible in both themes."""
    grey = "#8a96a6"
    return {
        "animation": False,
        "color": list(PALETTE),
        "grid": {"left": 8, "right": 12, "top": 34, "bottom": 4, "containLabel": True},
        "legend": {"top": 0, "left": 0, "icon": "roundRect", "textStyle": {"color": grey}, "type": "scroll"},
        "tooltip": {"trigger": "axis", "order": "valueDesc", "confine": True},
        "xAxis": {
            "type": "time",
            "axisLabel": {"color": grey, "hideOverlap": True},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "name": unit,
            "nameTextStyle": {"color": grey, "align": "left"},
            "axisLabel": {"color": grey},
            "splitLine": {"lineStyle": {"color": "rgba(138,150,166,.2)"}},
        },
        "useUTC": True,
        "series": [],
    }
