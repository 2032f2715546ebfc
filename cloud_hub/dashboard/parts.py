"""The parts that pages are made of: tiles, pills, tables, empty states. Each updates in place, so that
keyboard focus and scrolling stay where they are."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from nicegui import ui


class Tile:
    """A figure with its name, a line below, and an explanation on hover or focus. `link` makes it lead on."""

    def __init__(self, name: str, explanation: str, link: str = "") -> None:
        with ui.element("div").classes("eo-tile") as self._box:
            with ui.element("div").classes("k"):
                tip(name, explanation)
            self._value = ui.label("–").classes("v")
            self._below = ui.link("", link).classes("s") if link else ui.label("").classes("s")
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

    def __init__(self, testid: str = "") -> None:
        self._label = ui.label("").classes("eo-pill")
        if testid:
            self._label.props(f"data-testid={testid}")
        self._tone = ""

    def show(self, text: str, tone: str) -> None:
        """Sets the state."""
        self._label.set_text(text)
        if tone != self._tone:
            self._label.classes(remove=self._tone or None, add=tone or None)
            self._tone = tone


class Markup:
    """Markup made by our own code from escaped values; sent only when it changed."""

    def __init__(self, classes: str = "", *, tag: str = "div", testid: str = "") -> None:
        self._element = ui.html("", sanitize=False, tag=tag).classes(classes)
        # `data-live`: page.js gives the focus back to what it was on when the content is replaced.
        self._element.props("data-live" + (f" data-testid={testid}" if testid else ""))
        self._content = ""

    def show(self, content: str) -> None:
        """Sets the markup."""
        if content != self._content:
            self._content = content
            self._element.set_content(content)

    def set_visibility(self, visible: bool) -> None:
        """Shows or hides it."""
        self._element.set_visibility(visible)


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, what its figures mean, whether they are numbers, and whether a cell
    takes a line of its own where a row is a card."""

    name: str
    explanation: str = ""
    number: bool = False
    wide: bool = False

    def head(self) -> str:
        """Its name, with the explanation."""
        return tip_markup(self.name, self.explanation) if self.explanation else html.escape(self.name)

    def cell(self, content: str) -> str:
        """A cell of it. The name comes along, for narrow windows where a row is a card without a head."""
        told = f' data-tip="{html.escape(self.explanation)}"' if self.explanation else ""
        name = f'<span class="lab{" eo-tip" if told else ""}"{told}>{html.escape(self.name)}</span>'
        kind = "num" if self.number else "wide" if self.wide else ""
        return f'<td role="cell" class="{kind}">{name}<div class="val">{content}</div></td>'


def table_markup(columns: Sequence[Column], rows: Sequence[Sequence[str]], label: str) -> str:
    """A table of cells that are markup already. Its rows become cards where the window is narrow."""
    head = "".join(
        f'<th role="columnheader" scope="col"{" class=num" if column.number else ""}>{column.head()}</th>'
        for column in columns
    )
    return (
        f'<table class="eo-table stack" role="table" aria-label="{html.escape(label)}">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{rows_markup(columns, rows)}</tbody></table>'
    )


def rows_markup(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """The body of such a table."""
    return "".join(
        '<tr role="row">'
        + "".join(column.cell(cell) for column, cell in zip(columns, row, strict=True))
        + "</tr>"
        for row in rows
    )


def heading(text: str, explanation: str = "") -> None:
    """The heading of a panel."""
    with ui.element("h2"):
        if explanation:
            tip(text, explanation)
        else:
            ui.html(html.escape(text), sanitize=False, tag="span")


def tip(text: str, explanation: str, classes: str = "") -> None:
    """A word with an explanation on hover or keyboard focus."""
    ui.html(tip_markup(text, explanation, classes), sanitize=False, tag="span")


def tip_markup(text: str, explanation: str, classes: str = "") -> str:
    """The same as markup."""
    return (
        f'<span class="eo-tip {classes}" tabindex="0" data-tip="{html.escape(explanation)}">'
        f"{html.escape(text)}</span>"
    )


def pill_markup(text: str, tone: str, explanation: str = "") -> str:
    """A pill as markup."""
    told = f' tabindex="0" data-tip="{html.escape(explanation)}"' if explanation else ""
    return f'<span class="eo-pill {tone}"{told}>{html.escape(text)}</span>'


def empty_markup(title: str, what_to_do: str, *commands: str) -> str:
    """What stands where there is nothing yet: why, and what brings something."""
    lines = "".join(f"<code>{html.escape(command)}</code>" for command in commands)
    return f'<div class="eo-empty"><b>{html.escape(title)}</b>{html.escape(what_to_do)}{lines}</div>'


def facts_markup(facts: Sequence[tuple[str, str, str]]) -> str:
    """Names with values (markup already) and explanations, one below the other."""
    rows = "".join(
        f"<dt>{tip_markup(name, told) if told else html.escape(name)}</dt><dd>{value}</dd>"
        for name, value, told in facts
    )
    return f'<dl class="eo-facts">{rows}</dl>'
