"""Prints what `edgeops cache` found."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from edgeops.sizes import size_words
from toolchain.caching.prune import Cached, Pruned


def print_entries(root: Path, entries: list[Cached], now_ms: int) -> None:
    """The entries as a table, and what they take in all."""
    console = Console(markup=False, highlight=False, emoji=False)
    if entries:
        console.print(_table(entries, now_ms))
    total = sum(entry.size_bytes for entry in entries)
    console.print(f"{len(entries)} entries, {size_words(total)} in {root}", soft_wrap=True)


def print_pruned(pruned: Pruned, now_ms: int, *, dry_run: bool) -> None:
    """What was removed, or would be."""
    console = Console(markup=False, highlight=False, emoji=False)
    if pruned.entries:
        console.print(_table(list(pruned.entries), now_ms))
    done = "Would remove" if dry_run else "Removed"
    console.print(
        f"{done} {len(pruned.entries)} entries, checkpoints of {pruned.checkpoints} steps and "
        f"{pruned.leftovers} leftovers of killed builds: {pruned.freed_bytes} bytes "
        f"({size_words(pruned.freed_bytes)}). {pruned.in_use} are in use."
    )


def _table(entries: list[Cached], now_ms: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("step", "key"):
        table.add_column(name, no_wrap=True)
    for name in ("size", "age", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("by", overflow="fold", min_width=12)
    for entry in entries:
        table.add_row(
            entry.step or "(unreadable)",
            entry.key[:12],
            size_words(entry.size_bytes),
            _ago(entry.made_at, now_ms),
            _ago(entry.last_used_at, now_ms),
            ", ".join(entry.builds),
        )
    return table


def _ago(at: str | None, now_ms: int) -> str:
    if at is None:
        return ""
    seconds = now_ms / 1000 - datetime.fromisoformat(at).timestamp()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
