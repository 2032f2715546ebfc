"""The evaluation report as one page that needs nothing else: it can be mailed, printed, and opened in ten
years. Imports neither NumPy nor an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolchain.documents import figures
from toolchain.documents.axes import figure_text, metric_words, percent_text, size_text
from toolchain.documents.card import columns_of, number
from toolchain.documents.page import STYLE, TEMPLATE
from toolchain.documents.report import in_order, slices_in_order
from toolchain.documents.search import search_section
from toolchain.evaluation.report import CLASS_SLICE

Report = Mapping[str, Any]

_MEASURED = (
    ("latency_p50_ms", "p50, ms"),
    ("latency_p99_ms", "p99, ms"),
    ("first_token_ms", "first token, ms"),
    ("tokens_per_s", "tokens/s"),
    ("memory_bytes", "memory"),
)


def render(report: Report, measurements: Mapping[str, Any] | None = None) -> str:
    """The page of an evaluation report (see toolchain/documents/report.py).

    `measurements` is a bundle's `measurements.json`: with it, or where the report of a failed build has its
    own, times and memory are shown too. Without it the page follows from the report alone, byte by byte.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    measured = measurements if measurements is not None else report.get("measurements", {})
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE).render(style=Markup(STYLE), **_view(report, measured))


def _view(report: Report, measured: Mapping[str, Any]) -> dict[str, Any]:
    shipped = report["variants"][report["preferred"]]
    failed = sum(not gate["passed"] for gate in report["gates"])
    count = len(report["gates"])
    return {
        "name": report["name"],
        "version": report["version"],
        "description": report["description"],
        "limitations": report["limitations"],
        "data": _data(report),
        "passed": not failed,
        "verdict": f"✗ {failed} of {count} gates failed" if failed else f"✓ All {count} gates passed",
        "preferred": report["preferred"],
        "facts": list(_facts(report, measured)),
        "remarks": report["remarks"],
        "gates": [_gate(gate, measured.get("gates", {})) for gate in _failed_first(report["gates"])],
        "variants": _variants(report, measured.get("variants", {})),
        "plots": list(figures.plots(report, measured.get("variants", {}))),
        "search": search_section(report),
        "slices": list(_slices(shipped)),
        "slice_caption": f"{report['preferred']} on the held-out data.",
        "metric": "neighbour accuracy" if shipped["dimensions"] else "accuracy",
        "tables": list(_tables(report)),
        "behaviours": [{**case, "confidence": f"{case['confidence']:.3f}"} for case in shipped["behaviours"]],
        "prompts": [{**case, "failed": "; ".join(case["failed"])} for case in shipped["prompts"]],
    }


def _data(report: Report) -> str:
    rows, data = report["rows"], report["data"]
    unit = "documents" if report["task"] == "text-generation" else "rows"
    return (
        f"Data: {data['source']} ({data['license']}). {rows['train']} {unit} trained, {rows['calibration']} "
        f"calibrated, {rows['held_out']} were held out."
    )


def _facts(report: Report, measured: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    shipped = report["variants"][report["preferred"]]
    yield "preferred variant", report["preferred"]
    for name in columns_of(report["task"])[:3]:
        if shipped["metrics"].get(name) is not None:
            yield metric_words(name), figure_text(name, shipped["metrics"][name])
    yield "size", size_text(shipped["size_bytes"])
    times = measured.get("variants", {}).get(report["preferred"], {})
    for metric, label in (("latency_p50_ms", "latency p50"), ("first_token_ms", "first token")):
        if metric in times:
            yield label, figure_text(metric, times[metric])
    fallback = report["fallback"]
    if fallback is not None and fallback["found"] is not None:
        yield "expected fallback", percent_text(fallback["found"]["calibration"]["fallback_share"])


def _failed_first(gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(gates, key=lambda gate: bool(gate["passed"]))


def _gate(gate: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    value = gate.get("value", measured.get(gate["name"]))
    margin = "–"
    if gate.get("missing"):
        margin = str(gate["missing"])
    elif gate.get("missed_by") is not None:
        margin = f"missed by {figure_text(gate['metric'], gate['missed_by'])}"
    elif gate.get("margin") is not None:
        margin = figure_text(gate["metric"], gate["margin"])
    measured_here = "value" not in gate and value is None
    return {
        "name": _condition(gate),
        "kind": gate["kind"],
        "passed": gate["passed"],
        "value": "measured" if measured_here else figure_text(gate["metric"], value),
        "margin": margin,
    }


def _condition(gate: Mapping[str, Any]) -> str:
    """The gate's name with sizes and times that people can read."""
    metric, narrowed = gate["metric"], gate["slice"] if gate["slice"] is not None else gate["group"]
    what = (
        metric_words(metric) + (f" [{narrowed}]" if narrowed is not None else "") + f" of {gate['variant']}"
    )
    if gate["drop_against"] is not None:
        what += f" below {gate['drop_against']}"
    bounds = [f"≥ {figure_text(metric, gate['at_least'])}"] if gate["at_least"] is not None else []
    bounds += [f"≤ {figure_text(metric, gate['at_most'])}"] if gate["at_most"] is not None else []
    return f"{what} {' and '.join(bounds)}"


def _variants(report: Report, measured: Mapping[str, Any]) -> dict[str, Any]:
    names = [*columns_of(report["task"]), "robust_accuracy", "group_gap", "behaviours_passed"]
    shown = [
        name
        for name in names
        if any(variant["metrics"].get(name) is not None for variant in report["variants"].values())
    ]
    times = [(name, label) for name, label in _MEASURED if any(name in told for told in measured.values())]
    rows = [
        _variant_row(name, variant, shown, [measured.get(name, {}).get(t) for t, _ in times], times)
        for name, variant in in_order(report)
    ]
    if report["baseline"] is not None:
        baseline = {**report["baseline"], "target": "–"}
        rows.append(_variant_row("baseline", baseline, shown, [None] * len(times), times))
    columns = ["variant", "runs on", "size", *map(metric_words, shown), *(label for _, label in times)]
    return {"columns": columns, "rows": rows}


def _variant_row(
    name: str,
    variant: Mapping[str, Any],
    shown: list[str],
    measured: list[float | None],
    times: list[tuple[str, str]],
) -> list[str]:
    return [
        name,
        variant["target"],
        size_text(variant["size_bytes"]),
        *(figure_text(metric, variant["metrics"].get(metric)) for metric in shown),
        *(figure_text(metric, value) for (metric, _), value in zip(times, measured, strict=True)),
    ]


def _slices(shipped: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    metric = "neighbour_accuracy" if shipped["dimensions"] else "accuracy"
    by_attribute: dict[str, list[dict[str, Any]]] = {}
    for name, told in slices_in_order(shipped):
        attribute, _, value = name.partition("=")
        share = told.get(metric)
        by_attribute.setdefault(attribute, []).append(
            {
                "name": value,
                "value": "–" if share is None else f"{share:.4f}",
                "width": f"{100 * (share or 0):.1f}",
                "count": number(told.get("rows")),
            }
        )
    for attribute, rows in by_attribute.items():
        is_class = f"{attribute}=" == CLASS_SLICE
        group = shipped["groups"].get(attribute)
        note = ""
        if group is not None:
            gap = "cannot be told" if group["gap"] is None else f"is {group['gap']:.4f}"
            note = f"The gap between values {gap}."
            if group["excluded"]:
                note += f" Left out for too few rows: {', '.join(group['excluded'])}."
        what = "class" if is_class else attribute
        yield {"title": "Classes" if is_class else attribute, "what": what, "note": note, "rows": rows}


def _tables(report: Report) -> Iterator[dict[str, Any]]:
    robust = {name: v["robustness"] for name, v in in_order(report) if v["robustness"]}
    if robust:
        first = next(iter(robust.values()))
        noise = "typo_rate" if "typo_rate" in first else "noise_std"
        columns = sorted(key for key in first if key not in ("seed", noise))
        yield {
            "id": "robustness",
            "title": "Robustness",
            "caption": f"The held-out data with noise: {metric_words(noise)} {first[noise]:g}, "
            f"seed {first['seed']}.",
            "columns": ["variant", *map(metric_words, columns)],
            "wrapped": False,
            "rows": [[name, *(number(told[key]) for key in columns)] for name, told in robust.items()],
        }
    made = report.get("quantization", {})
    quantized = {name: made[name] for name in report["order"] if name in made}
    if quantized:
        yield {
            "id": "quantization",
            "title": "Quantization",
            "caption": "The arguments by which each variant was made; counts before and after are in "
            "report.json.",
            "columns": ["variant", "arguments"],
            "wrapped": True,
            "rows": [
                [
                    name,
                    "; ".join(f"{metric_words(key)}: {_argument(value)}" for key, value in sorted(arguments)),
                ]
                for name, arguments in ((n, told["arguments"].items()) for n, told in quantized.items())
            ],
        }


def _argument(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
