"""A verdict in words and figures."""

from __future__ import annotations

import html
from typing import Any

from cloud_hub.api.rollout_views import RolloutDetail
from cloud_hub.dashboard import words
from cloud_hub.dashboard.parts import Column, empty_markup, pill_markup, table_markup

_TONES = {"promote": "ok", "hold": "accent", "abort": "bad"}
_COLUMNS = (
    Column("Metric", "What is counted as a bad outcome."),
    Column("Canaries", "Bad outcomes of all outcomes on the devices that run the candidate.", number=True),
    Column("Others", "The same on the rest of the cohort in the same time.", number=True),
    Column(
        "Worse?",
        "The e-value for 'the canaries do worse', and the one that it takes. Bold once it is reached: abort.",
        number=True,
    ),
    Column(
        "No worse?",
        "The e-value for 'the canaries stay within the margin', and the one that it takes. Bold once it is "
        "reached; promotion needs it of every metric.",
        number=True,
    ),
)


def verdict_markup(rollout: RolloutDetail) -> str:
    """The decision, why, what is missing, and the counts that it rests on."""
    verdict = rollout.verdict
    if verdict is None:
        if rollout.strategy != "canary":
            return empty_markup("No verdict", "All devices move at once; nothing is judged.")
        return empty_markup("No verdict yet", "The canaries have not been looked at.")
    pill = pill_markup(verdict["decision"], _TONES.get(verdict["decision"], ""))
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in verdict["reasons"])
    missing = "".join(f"<li>{html.escape(item)}</li>" for item in verdict["missing"])
    waits = (
        f'<h2 style="margin-top:12px">It waits for</h2><ul class="eo-reasons">{missing}</ul>'
        if missing
        else ""
    )
    figures = table_markup(
        _COLUMNS, [_row(figure) for figure in verdict["figures"]], "Figures of the verdict"
    )
    return (
        f'<div>{pill}<ul class="eo-reasons" style="margin-top:8px">{reasons}</ul>{waits}'
        f'<div style="margin-top:12px">{figures}</div></div>'
    )


def _row(figure: dict[str, Any]) -> list[str]:
    return [
        html.escape(str(figure["metric"])),
        _rate(figure["canary_bad"], figure["canary_n"]),
        _rate(figure["baseline_bad"], figure["baseline_n"]),
        _question(figure["worse"]),
        _question(figure["no_worse"]),
    ]


def _rate(bad: int, total: int) -> str:
    share = words.share(bad / total if total else None)
    return f'{share} <span class="sub">{bad:,} of {total:,}</span>'


def _question(question: dict[str, Any]) -> str:
    log10, needed = question["log10_e"], question["log10_threshold"]
    tag = "b" if log10 >= needed else "span"
    return f'<{tag}>{words.e_value(log10)}</{tag}> <span class="sub">of {words.e_value(needed)}</span>'
