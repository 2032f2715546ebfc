"""Prints what `edgeops diff` found, as tables."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from edgeops.names import is_digest
from toolchain.comparing.diff import SECTIONS, Change

_TITLES = {
    "data": "Data", "config": "Recipe", "tools": "Tools", "code": "Code", "prompts": "Prompts",
    "contract": "Interface and policies", "variants": "Variants", "quality": "Quality", "gates": "Gates",
    "measured": "Measured (no part of the identity)",
}  # fmt: skip
_MAX_CHARACTERS = 60


def print_diff(found: dict[str, Any]) -> None:
    """A table for each section that has changes."""
    console = Console(markup=False, highlight=False, emoji=False)
    for what in ("old", "new"):
        bundle = found[what]
        console.print(
            f"{what:<4}{_plain(bundle['name'])} {bundle['version']}  {bundle['digest']}", soft_wrap=True
        )
        for path in bundle["missing"]:
            console.print(f"    it has no {path}", style="yellow")
    if not found["verified"]:
        console.print("Neither signature was checked: give a builder's key with --key.", style="yellow")
    if found["same"]:
        console.print("The digests are equal: it is the same bundle.", style="green")
    for section in (*SECTIONS, "measured"):
        if found[section]:
            console.print()
            console.print(_table(section, found[section]))


def _table(section: str, changes: list[Change]) -> Table:
    by_variant = "variant" in changes[0]
    has_change = any("change" in item for item in changes)
    table = Table(
        title=_TITLES[section], title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in [*(["variant"] if by_variant else []), "field"]:
        table.add_column(name, overflow="fold")
    for name in ["old", "new", *(["change"] if has_change else [])]:
        table.add_column(name, justify="right", overflow="fold")
    for item in changes:
        cells = [_plain(item["variant"])] if by_variant else []
        cells += [_plain(item["field"]), *(_cell(item, name) for name in ("old", "new"))]
        if has_change:
            cells.append(f"{item['change']:+.6g}" if "change" in item else "")
        table.add_row(*cells)
    return table


def _cell(item: Change, name: str) -> str:
    if name not in item:
        return "-"
    value = item[name]
    if isinstance(value, str) and is_digest(value):
        return f"{value[:12]}…"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _plain(text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…")


def _plain(text: str) -> str:
    # An unverified bundle may say anything; nothing in it shall drive a terminal.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
