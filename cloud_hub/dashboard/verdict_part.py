"""A verdict in words and figures."""

from __future__ import annotations

import html
from typing import Any

from cloud_hub.api.rollout_views import RolloutDetail
from cloud_hub.dashboard import words
from cloud_hub.dashboard.parts import empty_markup, pill_markup, table_markup, tip_markup

_TONES = {"promote": "ok", "hold": "accent", "abort": "bad"}
_HEADS = (
    "",
    tip_markup("canaries", "Bad outcomes of all outcomes on the devices that run the candidate."),
    tip_markup("others", "The same on the rest of the cohort in the same time.", "eo-left"),
    tip_markup("e", "The e-value that decides: 'worse' on the left, 'no worse' on the right.", "eo-left"),
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
    figures = table_markup(_HEADS, [_row(figure) for figure in verdict["figures"]], numbers=(1, 2, 3))
    return (
        f'<div data-testid="verdict">{pill}<ul class="eo-reasons" style="margin-top:8px">{reasons}</ul>{waits}'
        f'<div style="margin-top:12px">{figures}</div></div>'
    )


def _row(figure: dict[str, Any]) -> list[str]:
    return [
        html.escape(str(figure["metric"])),
        _rate(figure["canary_bad"], figure["canary_n"]),
        _rate(figure["baseline_bad"], figure["baseline_n"]),
        f"{_e(figure['worse'])} / {_e(figure['no_worse'])}",
    ]


def _rate(bad: int, total: int) -> str:
    share = words.share(bad / total if total else None)
    return f'{share} <span class="eo-muted">{bad:,}/{total:,}</span>'


def _e(question: dict[str, Any]) -> str:
    log10 = question["log10_e"]
    text = f"{10**log10:.3g}" if -3 < log10 < 6 else f"10^{log10:.0f}"
    return f"<b>{text}</b>" if log10 >= question["log10_threshold"] else text
