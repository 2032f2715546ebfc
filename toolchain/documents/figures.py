"""Which plots a report has: each with its caption, and with the numbers that it is drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from toolchain.documents import plots as draw
from toolchain.documents.axes import percent_text, size_text
from toolchain.documents.report import in_order, main_metric

Report = Mapping[str, Any]
Plot = dict[str, Any]

# A larger matrix cannot be read cell by cell, or at all: its commonest confusions are listed instead.
MOST_CLASSES = 40
LISTED_CONFUSIONS = 20


def plots(report: Report, measured: Mapping[str, Any]) -> Iterator[Plot]:
    """The plots that the report has the figures for. `measured` is what was measured, by variant."""
    shipped, name = report["variants"][report["preferred"]], report["preferred"]
    yield from _pareto(report, measured)
    if shipped["confusion"] is not None:
        yield from _confusion(shipped, name)
    if shipped["reliability"] is not None:
        yield _reliability(shipped, name)
    if report["fallback"] is not None:
        yield _risk(report["fallback"])
    for model, training in report["training"].items():
        if "distillation" in training:
            yield _gain(model, training["distillation"])


def _pareto(report: Report, measured: Mapping[str, Any]) -> Iterator[Plot]:
    metric = main_metric(report["task"])
    told = [
        (
            name,
            variant["size_bytes"],
            variant["metrics"][metric],
            measured.get(name, {}).get("latency_p50_ms"),
        )
        for name, variant in in_order(report)
        if variant["metrics"].get(metric) is not None
    ]
    if len(told) < 2:
        return
    front = {
        name
        for name, size, value, _ in told
        if not any(s <= size and v >= value and (s, v) != (size, value) for _, s, v, _ in told)
    }
    slowest = max((time for *_, time in told if time is not None), default=None)
    points = [
        draw.Point(
            x=size,
            y=value,
            number=number,
            front=name in front,
            chosen=name == report["preferred"],
            radius=5.0 if time is None or not slowest else 4 + 7 * math.sqrt(time / slowest),
        )
        for number, (name, size, value, time) in enumerate(told, start=1)
    ]
    words = metric.replace("_", " ")
    bubble = " A larger mark is slower." if slowest is not None else ""
    yield {
        "id": "pareto",
        "title": "Quality and size",
        "caption": "Up and to the left is better. The dashed line joins the variants that no other one "
        f"beats in both; the filled mark is what devices prefer.{bubble}",
        "svg": draw.scatter(points, x="size", y=words, title=f"{words} against size of each variant"),
        "legend": [f"{name}: {size_text(size)}, {value:.4f}" for name, size, value, _ in told],
        "columns": ["variant", "size, bytes", words, "on the front"],
        "rows": [
            [name, str(size), f"{value:.6g}", "yes" if name in front else "no"]
            for name, size, value, _ in told
        ],
    }


def _confusion(shipped: Mapping[str, Any], name: str) -> Iterator[Plot]:
    matrix, classes = shipped["confusion"], shipped["classes"]
    wrong = sorted(
        (
            (matrix[i][j], i, j)
            for i in range(len(classes))
            for j in range(len(classes))
            if i != j and matrix[i][j]
        ),
        key=lambda found: (-found[0], found[1:]),
    )
    small = len(classes) <= MOST_CLASSES
    yield {
        "id": "confusion",
        "title": "Confusion",
        "caption": f"{name}: what each class was taken for. Shades are shares of the true class."
        if small
        else f"{name} has {len(classes)} classes, too many to draw: the commonest confusions are below.",
        "svg": draw.confusion(matrix, classes, title=f"confusion matrix of {name}") if small else "",
        "legend": [],
        "columns": ["true class", "taken for", "times"],
        "rows": [[classes[i], classes[j], str(count)] for count, i, j in wrong[:LISTED_CONFUSIONS]],
    }


def _reliability(shipped: Mapping[str, Any], name: str) -> Plot:
    bins = [
        (one["from"], one["to"], one["rows"], one["confidence"], one["accuracy"])
        for one in shipped["reliability"]
    ]
    return {
        "id": "reliability",
        "title": "Confidence and accuracy",
        "caption": f"{name}, before recalibration: bars are the accuracy of answers with that confidence, "
        "thick dashes their mean confidence. Where a bar is below its dash, the model is too sure. Grey bars "
        "below count the answers.",
        "svg": draw.reliability(bins, title=f"accuracy by confidence of {name}"),
        "legend": [],
        "columns": ["confidence", "answers", "mean confidence", "accuracy"],
        "rows": [
            [f"{low:.1f} to {high:.1f}", str(rows), _share(confidence), _share(accuracy)]
            for low, high, rows, confidence, accuracy in bins
        ],
    }


def _risk(fallback: Mapping[str, Any]) -> Plot:
    curve, found = fallback["curve"], fallback["found"]
    mark = None
    if found is not None:
        kept = found["calibration"]["rows_kept"] / found["calibration"]["rows_tested"]
        mark = (kept, found["calibration"]["accepted_error"])
        chosen = f"The filled mark is the threshold chosen, {found['confidence_threshold']:.4f}."
    else:
        chosen = f"None was found: {fallback['reason']}."
    return {
        "id": "risk",
        "title": "Risk and coverage",
        "caption": f"The error of the answers that {fallback['judged']} keeps, by the share that it keeps, "
        "on calibration rows that the threshold was not chosen on. Dotted: the upper bound at the confidence "
        f"level {fallback['confidence_level']:g}; dashed: the target, "
        f"{percent_text(fallback['target_error'])}. {chosen}",
        "svg": draw.lines(
            [
                ("bound", [(one["coverage"], one["error_bound"]) for one in curve]),
                ("risk", [(one["coverage"], one["error"]) for one in curve]),
            ],
            x="answers kept",
            y="error of these",
            title=f"error against coverage of {fallback['judged']}",
            level=fallback["target_error"],
            mark=mark,
        ),
        "legend": [],
        "columns": ["threshold", "kept", "error", "at most"],
        "rows": [
            [
                f"{one['threshold']:.4f}",
                _share(one["coverage"]),
                _share(one["error"]),
                _share(one["error_bound"]),
            ]
            for one in curve
        ],
    }


def _gain(model: str, gain: Mapping[str, Any]) -> Plot:
    kinds, runs = ("alone", "distilled"), gain["runs"]
    spread = "" if gain["gain_stdev"] is None else f", standard deviation over seeds {gain['gain_stdev']:.4f}"
    return {
        "id": f"distillation-{model}",
        "title": f"Distillation of {model}",
        "caption": f"Held-out {gain['metric']} of each seed trained alone and with the teacher; thick dashes "
        f"are means. Mean gain {_signed(gain['mean_gain'])}{spread}: {_VERDICTS[gain['verdict']]}.",
        "svg": draw.pairs(
            [[run[kind] for kind in kinds] for run in runs],
            kinds,
            y=f"held-out {gain['metric']}",
            title=f"{gain['metric']} of {model} alone and distilled, by seed",
        ),
        "legend": [],
        "columns": ["seed", *kinds],
        "rows": [[str(run["seed"]), *(f"{run[kind]:.4f}" for kind in kinds)] for run in runs],
    }


_VERDICTS = {"helps": "it helps", "hurts": "it does harm", "unclear": "that may be chance"}


def _share(value: float | None) -> str:
    return "–" if value is None else percent_text(value)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")
