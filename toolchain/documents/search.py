"""The report's section on the search for variants: what was tried, what is kept, and why the rest is not.

All of it is what the lock file records. A build that searches writes the lock and then follows it, so that
its page is the one of every later build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from toolchain.documents import plots as draw
from toolchain.documents.axes import figure_text, metric_words, percent_text
from toolchain.search.candidates import format_of
from toolchain.search.choose import LATENCY, is_on_front
from toolchain.search.front import LATENCY_NOISE

SIZE, MEMORY = "size_bytes", "memory_bytes"
_OUTCOMES = {"chosen": "✓ chosen", "front": "on the front", "rejected": "rejected"}
_FORMATS = {"onnx": "ONNX", "gguf": "GGUF", "mlx": "MLX"}


@dataclass(frozen=True)
class Candidate:
    """One candidate: its number on the page, what became of it (a key of `_OUTCOMES`), its measured figures
    by metric (none if it could not be made), and why it was rejected."""

    number: int
    id: str
    outcome: str
    figures: Mapping[str, float]
    reason: str | None

    # Whether the search has all three figures by which it compares.
    measured: bool


def search_section(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows of `report["search"]`, the outcome of a search (`Resolved.outcome` in
    toolchain/search/resolve.py). None if there was none, or the report does not tell."""
    search = report.get("search")
    if search is None:
        return None
    metric, least = search["metric"], search["reference"] - search["max_drop"]
    by_format = _by_format(search)
    candidates = [one for own in by_format.values() for one in own]
    chosen = [one.id for one in candidates if one.outcome == "chosen"]
    return {
        "lock": search["lock"],
        "machine": _machine(search["machine"]),
        "kept": [name for name in report["order"] if name not in chosen],
        "facts": [
            ("candidates", str(len(candidates))),
            ("could be measured", str(sum(one.measured for one in candidates))),
            ("on the front", str(sum(one.outcome != "rejected" for one in candidates))),
            ("chosen", str(len(chosen))),
            (f"{metric_words(metric)} of the model itself", _share(search["reference"])),
            (f"least {metric_words(metric)} allowed", _share(least)),
        ],
        "metric": metric_words(metric),
        "noise": percent_text(LATENCY_NOISE),
        "groups": [
            {
                "title": _FORMATS[format] if len(by_format) > 1 else "",
                "label": f"Candidates in {_FORMATS[format]}",
                "plots": list(_plots(own, format, metric, least)),
                "level": _lost(own, metric, least),
                "rows": [_row(one, own, metric) for one in own],
            }
            for format, own in by_format.items()
        ],
        "records": list(_records(search, chosen)),
    }


def _by_format(search: Mapping[str, Any]) -> dict[str, list[Candidate]]:
    """The candidates of each format: first the chosen, as devices prefer them, then the others of the front.
    They are numbered as they stand on the page."""
    kept = [
        ("chosen", one["variant"]["format"], one["variant"]["id"], None, one["figures"])
        for one in search["variants"]
    ]
    left = [
        (
            "front" if is_on_front(one["reason"]) else "rejected",
            format_of(one["id"]),
            one["id"],
            one["reason"],
            one["figures"],
        )
        for one in search["rejected"]
    ]
    told = [*kept, *sorted(left, key=lambda one: one[0] != "front")]
    formats = list(dict.fromkeys(format for _, format, *_ in told))
    compared = (search["metric"], SIZE, LATENCY)
    by_format: dict[str, list[Candidate]] = {format: [] for format in formats}
    in_order = sorted(told, key=lambda one: formats.index(one[1]))
    for number, (outcome, format, name, reason, figures) in enumerate(in_order, start=1):
        by_format[format].append(
            Candidate(
                number=number,
                id=name,
                outcome=outcome,
                figures=figures,
                measured=all(metric in figures for metric in compared),
                reason=reason,
            )
        )
    return by_format


def _row(one: Candidate, of_format: Sequence[Candidate], metric: str) -> dict[str, Any]:
    return {
        "number": one.number,
        "id": one.id,
        "outcome": _OUTCOMES[one.outcome],
        "chosen": one.outcome == "chosen",
        "quality": _share(one.figures.get(metric)),
        "size": figure_text(SIZE, one.figures.get(SIZE)),
        "latency": figure_text(LATENCY, one.figures.get(LATENCY)),
        "memory": figure_text(MEMORY, one.figures.get(MEMORY)),
        "why": one.reason if one.reason is not None else _merit(one, of_format, metric),
    }


def _merit(one: Candidate, of_format: Sequence[Candidate], metric: str) -> str:
    """In what a chosen candidate is unbeaten among those of its format's front, latency within the noise."""
    front = [other.figures for other in of_format if other.outcome != "rejected" and other.measured]
    own = one.figures
    if not one.measured or len(front) == 1:
        return "on the front"
    unbeaten = {
        "faster": all(own[LATENCY] <= other[LATENCY] * (1 + LATENCY_NOISE) for other in front),
        "smaller": all(own[SIZE] <= other[SIZE] for other in front),
        "better": all(own[metric] >= other[metric] for other in front),
    }
    words = [word for word, holds in unbeaten.items() if holds]
    return f"none on the front is {' or '.join(words)}" if words else "on the front"


def _lost(of_format: Sequence[Candidate], metric: str, least: float) -> bool:
    """Whether some candidate lies under the least quality that is allowed, so that a line parts them."""
    return any(one.measured and one.figures[metric] < least for one in of_format)


def _plots(of_format: Sequence[Candidate], format: str, metric: str, least: float) -> Iterator[Markup]:
    shown = [one for one in of_format if one.measured]
    if len(shown) < 2:
        return
    words = metric_words(metric)
    for name, axis in ((SIZE, "size"), (LATENCY, "latency p50, ms")):
        points = [
            draw.Point(
                x=one.figures[name],
                y=one.figures[metric],
                number=one.number,
                chosen=one.outcome == "chosen",
                faded=one.outcome == "rejected",
            )
            for one in shown
        ]
        yield draw.scatter(
            points,
            x=axis,
            y=words,
            title=f"{words} against {axis} of each candidate in {_FORMATS[format]}",
            in_bytes=name == SIZE,
            level=least if _lost(of_format, metric, least) else None,
        )


def _machine(machine: Mapping[str, str | int]) -> str:
    """Where the search measured. Locks of earlier versions do not tell the processor."""
    where = f"{machine['system']} {machine['architecture']}, {machine['cores']} cores"
    return f"{machine['cpu']} ({where})" if "cpu" in machine else where


def _records(search: Mapping[str, Any], chosen: Sequence[str]) -> Iterator[tuple[str, str]]:
    metric = search["metric"]
    yield "variants, as devices prefer them", ", ".join(chosen)
    yield "rejected, each with its reason", str(len(search["rejected"]))
    yield f"{metric_words(metric)} of the model itself", f"{search['reference']:.6g}"
    yield "most that may be lost of it", f"{search['max_drop']:.6g}"
    yield "measured on", _machine(search["machine"])
    yield "SHA-256 of the recipe's search section", search["search"]
    yield "SHA-256 of the model and data searched for", search["model"]


def _share(value: float | None) -> str:
    """A quality: what a search looks for are shares and cosines, so one column has one number of digits."""
    return "–" if value is None else f"{value:.4f}"
