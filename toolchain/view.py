"""What a build shows while it runs (stderr: a live view on a terminal, else a line a step) and at its end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from toolchain.plan import Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from toolchain.build import Built
    from toolchain.runner import View


class LineView:
    """One line a step on stderr. With `explain` also one for those that need not run, and reasons."""

    def __init__(self, *, explain: bool) -> None:
        self._explain = explain
        self._started = 0.0

    def started(self, step: Step, reason: str) -> None:
        self._started = time.monotonic()
        because = f": {reason}" if self._explain else ""
        click.echo(f"run    {step.name} ({step.meaning}){because}", err=True)

    def progressed(self, step: Step, share: float, note: str) -> None:
        """Lines are for steps; how far one is would be noise in a log."""

    def finished(self, step: Step) -> None:
        click.echo(f"done   {step.name} in {time.monotonic() - self._started:.1f} s", err=True)

    def reused(self, step: Step, reason: str) -> None:
        if self._explain:
            click.echo(f"keep   {step.name}: {reason}", err=True)


class LiveView:
    """A bar a step that runs, on a terminal."""

    def __init__(self, progress: Progress, *, explain: bool) -> None:
        self._progress = progress
        self._explain = explain
        self._task: TaskID | None = None

    def started(self, step: Step, reason: str) -> None:
        if self._explain:
            self._progress.console.print(f"run    {step.name}: {reason}", markup=False, highlight=False)
        self._task = self._progress.add_task(step.meaning, total=1.0, note="")

    def progressed(self, step: Step, share: float, note: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=share, note=note)

    def finished(self, step: Step) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1.0, note="")

    def reused(self, step: Step, reason: str) -> None:
        if self._explain:
            self._progress.console.print(f"keep   {step.name}: {reason}", markup=False, highlight=False)


@contextlib.contextmanager
def build_view(*, explain: bool) -> Iterator[View]:
    """The view for this stderr."""
    if not sys.stderr.isatty():
        yield LineView(explain=explain)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<48}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield LiveView(progress, explain=explain)


def print_summary(built: Built) -> None:
    """The variants as a table, what a reader should know, and where the bundle is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("variant", "runs on"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", "bytes", "p50 ms", "p99 ms", "MiB"):
        table.add_column(name, justify="right")
    for variant in built.variants:
        measured = built.measurements["variants"][variant["id"]]
        table.add_row(
            variant["id"],
            variant["target"],
            f"{variant['quality']['accuracy']:.4f}",
            f"{variant['size_bytes']:,}",
            f"{measured['latency_p50_ms']:.4f}",
            f"{measured['latency_p99_ms']:.4f}",
            f"{measured['memory_bytes'] / 2**20:.1f}",
        )
    console = Console(highlight=False, markup=False)
    console.print(table)
    for remark in built.remarks:
        console.print(f"- {remark}", soft_wrap=True)
    passed = f"{len(built.gates)} gates passed"
    ran = f"{len(built.steps_run)} steps run" if built.steps_run else "nothing had to run"
    console.print(f"{passed}; {ran}.")
    console.print(f"Bundle  {built.path}", soft_wrap=True)
    console.print(f"Digest  {built.digest}", soft_wrap=True)
