"""The rollout machine as a page of the documentation, made from its table."""

from __future__ import annotations

from fleet.rollout import TABLE
from fleet.rollout_types import FINAL, PHASES, Event, Phase


def page() -> str:
    """The Markdown of docs/rollout-machine.md: phases, a Mermaid state diagram, and the table."""
    lines = [
        "# The rollout machine",
        "",
        "Generated from `fleet/rollout.py` by `make docs`; a test checks that it is current.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> draft",
        *(f"    {source} --> {target}: {events}" for (source, target), events in _arrows().items()),
        *(f"    {phase} --> [*]" for phase in PHASES if phase in FINAL),
        "```",
        "",
        "| phase | meaning |",
        "|---|---|",
        *(f"| {phase} | {meaning} |" for phase, meaning in PHASES.items()),
        "",
        "An event that a phase has no row for is refused, and nothing changes.",
        "",
        "| phase | event | may lead to | meaning of the event |",
        "|---|---|---|---|",
    ]
    for (phase, event), row in TABLE.items():
        meaning = (event.__doc__ or "").split("\n\n")[0].replace("\n    ", " ").split(". ")[0].rstrip(".")
        lines.append(f"| {phase} | {_name(event)} | {', '.join(row.to)} | {meaning}. |")
    return "\n".join(lines) + "\n"


def _arrows() -> dict[tuple[Phase, Phase], str]:
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, event), row in TABLE.items():
        for target in row.to:
            if target != phase:
                arrows.setdefault((phase, target), []).append(_name(event))
    return {arrow: ", ".join(events) for arrow, events in arrows.items()}


def _name(event: type[Event]) -> str:
    return event.__name__.lower()
