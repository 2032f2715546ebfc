"""What a build shows while it runs, on stderr: on a terminal a bar for each step that runs and one for all of
them; else a line for each event. And at its end, on stdout, the table of variants."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from toolchain.plan import Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from toolchain.build import Built
    from toolchain.running.runner import View


class LineView:
    """A line for each event on stderr. With `explain` also one for each step kept, and reasons."""

    def __init__(self, *, explain: bool) -> None:
        self._explain = explain
        self._started: dict[str, float] = {}

    def planned(self, steps: int) -> None:
        """A log has no use for a total."""

    def waiting(self, step: Step) -> None:
        click.echo(f"wait   {step.name}: another build makes it", err=True)

    def started(self, step: Step, reason: str) -> None:
        self._started[step.name] = time.monotonic()
        because = f": {reason}" if self._explain else ""
        click.echo(f"run    {step.name} ({step.meaning}){because}", err=True)

    def progressed(self, step: Step, share: float, note: str) -> None:
        """Lines are for steps; how far one is would be noise in a log."""

    def finished(self, step: Step) -> None:
        click.echo(f"done   {step.name} in {self._seconds(step):.1f} s", err=True)

    def failed(self, step: Step) -> None:
        click.echo(f"fail   {step.name} after {self._seconds(step):.1f} s", err=True)

    def reused(self, step: Step, reason: str) -> None:
        if self._explain:
            click.echo(f"keep   {step.name}: {reason}", err=True)

    def _seconds(self, step: Step) -> float:
        return time.monotonic() - self._started.pop(step.name)


class LiveView:
    """Bars on a terminal. A step's bar goes when the step is done; a line with its time stays."""

    def __init__(self, progress: Progress, *, explain: bool) -> None:
        self._progress = progress
        self._explain = explain
        self._all = progress.add_task("all steps", total=None, note="")
        self._bars: dict[str, TaskID] = {}
        self._done = self._total = 0

    def planned(self, steps: int) -> None:
        self._total = steps
        self._count(0)

    def waiting(self, step: Step) -> None:
        self._bars[step.name] = self._progress.add_task(
            step.meaning, total=None, note="another build makes it"
        )

    def started(self, step: Step, reason: str) -> None:
        if self._explain:
            self._print(f"run    {step.name}: {reason}")
        self._end_bar(step)
        self._bars[step.name] = self._progress.add_task(step.meaning, total=1.0, note="")

    def progressed(self, step: Step, share: float, note: str) -> None:
        self._progress.update(self._bars[step.name], completed=share, note=note)

    def finished(self, step: Step) -> None:
        self._print(f"done   {step.meaning} in {self._end_bar(step):.1f} s")
        self._count(1)

    def failed(self, step: Step) -> None:
        self._print(f"fail   {step.meaning} after {self._end_bar(step):.1f} s")

    def reused(self, step: Step, reason: str) -> None:
        self._end_bar(step)
        if self._explain:
            self._print(f"keep   {step.name}: {reason}")
        self._count(1)

    def _count(self, more: int) -> None:
        self._done += more
        note = f"{self._done} of {self._total}"
        self._progress.update(self._all, completed=self._done, total=self._total, note=note)

    def _end_bar(self, step: Step) -> float:
        """Takes the step's bar away; returns the seconds that it stood there."""
        bar = self._bars.pop(step.name, None)
        if bar is None:
            return 0.0
        shown = next(task for task in self._progress.tasks if task.id == bar)
        self._progress.remove_task(bar)
        return shown.elapsed or 0.0

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def build_view(*, explain: bool) -> Iterator[View]:
    """The view for this stderr."""
    if not sys.stderr.isatty():
        yield LineView(explain=explain)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<48}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    # transient: what a stopped build leaves on the terminal is what it did, not bars that stand still.
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield LiveView(progress, explain=explain)


def print_summary(built: Built) -> None:
    """The variants as a table, what a reader should know, and where the bundle is."""
    rows = [("variant", "runs on", built.main_metric, "bytes", "p50 ms", "p99 ms", "MiB")]
    for variant in built.variants:
        measured = built.measurements["variants"][variant["id"]]
        rows.append(
            (
                variant["id"],
                variant["target"],
                _figure(variant["quality"].get(built.main_metric)),
                f"{variant['size_bytes']:,}",
                _figure(measured.get("latency_p50_ms")),
                _figure(measured.get("latency_p99_ms")),
                f"{measured['memory_bytes'] / 2**20:.1f}",
            )
        )
    header, *lines = _aligned(rows, words=2)
    click.secho(f"\n {header}", bold=True)
    click.echo(f" {'-' * len(header)}")
    for line in lines:
        click.echo(f" {line}")
    click.echo()
    for remark in built.remarks:
        click.echo(f"- {remark}")
    passed = f"{len(built.gates)} gates passed"
    ran = f"{len(built.steps_run)} steps run" if built.steps_run else "nothing had to run"
    click.echo(f"{passed}; {ran}.")
    click.echo(f"Bundle  {built.path}")
    click.echo(f"Digest  {built.digest}")


def _aligned(rows: Sequence[Sequence[str]], *, words: int) -> list[str]:
    """The rows as lines of one width: the first `words` columns begin, and the others end, below each other.
    Nothing is cut, whatever the terminal's width: names are there to be copied, and figures to be read."""
    # Not by rich: to import that would be a tenth of a build in which nothing has to run.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
