"""Drift: how far each feature's distribution lies from the training data, site by site."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nicegui import ui

from cloud_hub.api.monitoring import DriftScore
from cloud_hub.dashboard import words
from cloud_hub.dashboard.cached import Cached
from cloud_hub.dashboard.frame import Frame
from cloud_hub.dashboard.parts import Markup, empty_markup, heading
from cloud_hub.dashboard.visit import Visit


@dataclass(frozen=True)
class DriftView:
    """The newest scores, when they were made, and bundles' names by digest."""

    at_ms: int | None
    scores: Sequence[DriftScore]
    labels: Mapping[str, str]


def drift_page(view: Cached[DriftView], visit: Visit) -> None:
    """Builds the page."""
    frame = Frame("/drift", "Drift", visit)
    with frame.main:
        with ui.element("div").classes("eo-head"):
            ui.html("<h1>Drift</h1>", sanitize=False)
            looked = ui.label("").classes("eo-muted")
        with ui.element("section").classes("eo-panel"):
            heading(
                "Distance from the training data, by feature and site",
                "Each cell shows the larger of two distances (KS and PSI) as a multiple of its threshold: from 1× on it "
                "is drift. Thresholds fit the number of values seen, the sketch's own noise, and how many cells are judged.",
            )
            heat = Markup("eo-scroll", testid="heat")

    def show(drift: DriftView) -> None:
        looked.set_text(f"judged at {words.clock(drift.at_ms)} UTC" if drift.at_ms else "")
        heat.show(_heat(drift))

    frame.keep_fresh(view.get, show)


def _heat(drift: DriftView) -> str:
    if not drift.scores:
        return empty_markup(
            "Nothing judged yet",
            "Drift is judged once devices run a bundle with a reference profile and have sent telemetry.",
        )
    parts = []
    for digest in sorted({score.digest for score in drift.scores}):
        chosen = {(score.feature, score.site): score for score in drift.scores if score.digest == digest}
        sites = sorted({site for _, site in chosen})
        heads = "".join(f'<th scope="col" class="site">{html.escape(site)}</th>' for site in sites)
        rows = "".join(
            f'<tr><th scope="row" class="name">{html.escape(feature)}</th>'
            + "".join(f"<td>{_cell(chosen.get((feature, site)))}</td>" for site in sites)
            + "</tr>"
            for feature in sorted({feature for feature, _ in chosen})
        )
        parts.append(
            f'<h3>{html.escape(drift.labels.get(digest, digest[:12]))}</h3><table class="eo-table eo-heat">'
            f'<thead><tr><th scope="col">Feature</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        )
    return "".join(parts)


def _cell(score: DriftScore | None) -> str:
    if score is None:
        return f'<span class="eo-cell none">{words.NONE}</span>'
    ratio = max(score.ks / score.ks_threshold, score.psi / score.psi_threshold)
    tone = "drift" if score.drifted else "near" if ratio > 0.8 else "fine"
    why = (
        f"{score.count:,} values. KS {score.ks:.3f}, threshold {score.ks_threshold:.3f}. "
        f"PSI {score.psi:.3f}, threshold {score.psi_threshold:.3f}."
    )
    mark = "drift " if score.drifted else ""
    return f'<span class="eo-tip eo-cell {tone}" tabindex="0" data-tip="{html.escape(why)}">{mark}{ratio:.2f}×</span>'
