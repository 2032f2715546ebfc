"""The update machine as a page of the documentation, made from its table; a test keeps the page current."""

from __future__ import annotations

from device_agent.core.update import ROWS, Row
from device_agent.core.update_types import MEANINGS, PHASES

_HEAD = """# The update machine

This page is made from the table in `device_agent/core/update.py`. To make it again:
`python -m docs.generate`.

The agent saves the state first and performs the effects afterwards. Effects may be performed again, and a
restart is an event like the others, so a power cut at any instant leaves one verified version to serve.
"""


def mermaid() -> str:
    """The candidate's way through the phases. Rows that hold in every phase are left to the table."""
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    edges: dict[tuple[str, str], list[str]] = {("idle", "downloading"): ["DesiredChanged"]}
    for row in ROWS:
        for phase in row.phases if row.phases != PHASES else ():
            for to in row.to:
                edges.setdefault((phase, to), []).append(row.event.__name__)
    edges[("confirming", "rolling_back")] = ["ServingCrashed"]
    edges[("rolling_back", "idle")] = ["ServingStarted"]
    for (source, sink), events in edges.items():
        lines.append(f"    {source} --> {sink}: {', '.join(dict.fromkeys(events))}")
    return "\n".join(lines)


def page() -> str:
    """The whole page, in Markdown."""
    phases = "\n".join(f"| `{phase}` | {MEANINGS[phase]} |" for phase in PHASES)
    rows = "\n".join(_line(row) for row in ROWS)
    return (
        f"{_HEAD}\n```mermaid\n{mermaid()}\n```\n\n"
        f"## Phases\n\n| phase | meaning |\n|---|---|\n{phases}\n\n"
        "## Transitions\n\n"
        "`candidate` is the version on its way in, `active` the one whose process serves.\n\n"
        f"| in | event | about | leads to | meaning |\n|---|---|---|---|---|\n{rows}\n"
    )


def _line(row: Row) -> str:
    phases = "any" if row.phases == PHASES else ", ".join(row.phases)
    return (
        f"| {phases} | `{row.event.__name__}` | {row.about} |"
        f" {', '.join('as before' if to == 'same' else to for to in row.to)} | {row.meaning} |"
    )
