"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from examples.demo.rows import Row


class View:
    """Progress on standard error, so that standard output stays data."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._rows: list[Row] = []
        self._now = ""
        self._status = ""
        self._started = time.monotonic()

    def __enter__(self) -> View:
        if sys.stderr.isatty():
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._now = ""
        if self._live is not None:
            self._live.stop()

    def doing(self, what: str) -> None:
        """A new step has begun."""
        self._now = what
        if self._live is None:
            self._console.print(f"{time.monotonic() - self._started:6.1f} s  {what}", highlight=False)

    def status(self, text: str) -> None:
        """A line that changes while a step runs; shown on a terminal only."""
        self._status = text

    def done(self, row: Row) -> None:
        """A row has been measured."""
        self._rows.append(row)
        self._status = ""
        if self._live is None:
            mark = "holds" if row.holds else "DOES NOT HOLD"
            self._console.print(f"          {mark}: {row.seen}", highlight=False)

    def _render(self) -> Group:
        parts: list[Table | Spinner | Text] = [table_of(self._rows)] if self._rows else []
        if self._now:
            elapsed = f"{time.monotonic() - self._started:.0f} s"
            parts.append(Spinner("dots", Text.assemble((f" {self._now} ", "bold"), (elapsed, "dim"))))
            parts.append(Text(f"   {self._status}", style="dim"))
        return Group(*parts)


def table_of(rows: list[Row]) -> Table:
    """The rows as a table for people."""
    table = Table(title="What the demo saw", title_justify="left", show_lines=True)
    for name in ("", "step", "expected", "seen"):
        table.add_column(name, overflow="fold")
    table.add_column("s", justify="right")
    for row in rows:
        mark = Text("✓", style="bold green") if row.holds else Text("✗", style="bold red")
        table.add_row(mark, row.step, row.expected, row.seen, f"{row.took_s:.1f}")
    return table
