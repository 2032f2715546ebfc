"""The model card: Markdown under the front matter that Hugging Face reads
(https://huggingface.co/docs/hub/model-cards, "Model card metadata"). The same report gives the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.documents.report import in_order, slices_in_order
from toolchain.evaluation.report import CLASS_SLICE
from toolchain.recipe import Recipe
from toolchain.recipe.models import (
    Distillation,
    GgufModel,
    HuggingFaceModel,
    ModelSource,
    OnnxModel,
    PythonModel,
    SklearnModel,
)

Report = Mapping[str, Any]

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "feature-extraction": ("neighbour_accuracy", "cosine_min", "parity_max_abs"),
    "text-generation": ("top1_agreement", "kl_mean", "perplexity", "prompts_passed"),
}
_CLASSIFIER_COLUMNS = ("accuracy", "macro_f1", "worst_class_accuracy", "nll", "ece", "parity_max_abs")
_EXTRA_COLUMNS = ("robust_accuracy", "group_gap", "behaviours_passed")
_ENGINES = {"onnx": "ONNX Runtime", "gguf": "llama.cpp", "mlx": "MLX"}
# What the Hub knows under an identifier of its own, of what recipes name by SPDX (in lower case):
# https://huggingface.co/docs/hub/repositories-licenses
_HUB_LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd "
    "bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 "
    "lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl ofl-1.1 osl-3.0 postgresql ncsa "
    "unlicense zlib pddl"
)


def model_card(recipe: Recipe, report: Report) -> str:
    """The card's text. `report` is the evaluation report with `quantization` (see `document`'s step)."""
    from huggingface_hub import ModelCard

    sections = (
        _intro(recipe, report),
        _quality(recipe, report),
        _slices(report),
        _cases(report),
        _fallback(report),
        _training(recipe, report),
        _quantization(report),
        _gates(report),
    )
    body = "\n".join(line for section in sections for line in section)
    return str(ModelCard(f"---\n{_front_matter(recipe, report)}\n---\n\n{body}\n"))


def columns_of(task: str) -> tuple[str, ...]:
    """The figures by which variants of the task are compared in tables."""
    return _COLUMNS.get(task, _CLASSIFIER_COLUMNS)


def _front_matter(recipe: Recipe, report: Report) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    shipped = report["variants"][report["preferred"]]
    formats = list(dict.fromkeys(spec.format for spec in recipe.listed))
    distilled = any("distillation" in training for training in report["training"].values())
    metrics = [name for name in columns_of(recipe.task) if shipped["metrics"].get(name) is not None]
    license_id = recipe.license.lower()
    known = license_id in _HUB_LICENSES.split()
    data = ModelCardData(
        license=license_id if known else "other",
        license_name=None if known else license_id,
        library_name=shipped["format"],
        pipeline_tag=recipe.task,
        tags=["edgeops", *formats, *(["distillation"] if distilled else [])],
        metrics=metrics[:1],
        model_name=recipe.name,
        eval_results=[
            EvalResult(
                task_type=recipe.task,
                dataset_type=recipe.name,
                dataset_name=report["data"]["source"],
                dataset_split="held-out",
                metric_type=name,
                metric_value=shipped["metrics"][name],
            )
            for name in metrics
        ],
    )
    return str(data.to_yaml())


def _intro(recipe: Recipe, report: Report) -> list[str]:
    rows, data = report["rows"], report["data"]
    unit = "documents" if recipe.generates else "rows"
    return [
        f"# {recipe.name} {recipe.version}",
        "",
        recipe.description,
        "",
        *_interface(recipe, report),
        f"- **Data**: {data['source']} ({data['license']}). {rows['train']} {unit} trained, "
        f"{rows['calibration']} calibrated, {rows['held_out']} were held out.",
        f"- **License**: {recipe.license}",
        "",
        *([f"**Limitations.** {recipe.limitations}", ""] if recipe.limitations else []),
    ]


def _interface(recipe: Recipe, report: Report) -> list[str]:
    if recipe.generates:
        system = recipe.prompts is not None and recipe.prompts.system is not None
        return [
            "- **Input**: a conversation, rendered by `prompts/chat_template.jinja`"
            + (" with the system prompt in `prompts/system.txt`." if system else "."),
            "- **Output**: text. Weights and prompts were evaluated together, and are signed together.",
        ]
    contract, shipped = recipe.input, report["variants"][report["preferred"]]
    if contract.dtype == "BYTES":
        most = f" of at most {contract.max_characters} characters" if contract.max_characters else ""
        given = f"text{most}"
    else:
        bounds = [f"{bound:g}" for bound in (contract.minimum, contract.maximum) if bound is not None]
        given = f"FP32, shape {['batch', *contract.shape]}" + (
            f", values from {bounds[0]} to {bounds[1]}" if len(bounds) == 2 else ""
        )
    classes = ", ".join(shipped["classes"])
    answer = {
        "feature-extraction": f"a vector of {shipped['dimensions']} numbers",
        "token-classification": f"for each word one probability for each of {classes}",
    }.get(recipe.task, f"one probability for each of {classes}")
    preprocessing = f" {recipe.preprocessing}" if recipe.preprocessing else ""
    lines = [f"- **Input** `{contract.name}`: {given}.{preprocessing}"]
    if contract.columns:
        lines.append(f"- **Columns**, in this order: {', '.join(c.name for c in contract.columns)}.")
    return [*lines, f"- **Output** `{recipe.output}`: FP32, {answer}."]


def _quality(recipe: Recipe, report: Report) -> list[str]:
    variants = report["variants"]
    columns = [*columns_of(recipe.task), *(name for name in _EXTRA_COLUMNS if _any_has(variants, name))]
    rows = [
        [
            name,
            variant["target"],
            *(number(variant["metrics"].get(c)) for c in columns),
            str(variant["size_bytes"]),
        ]
        for name, variant in in_order(report)
    ]
    if report["baseline"] is not None:
        old = report["baseline"]
        figures = [number(old["metrics"].get(column)) for column in columns]
        rows.append(["baseline", "", *figures, str(old["size_bytes"])])
    engines = dict.fromkeys(_ENGINES[variant["format"]] for _, variant in in_order(report))
    how = (
        f"On {variants[report['preferred']]['tokens']} held-out tokens"
        if recipe.generates
        else "On the held-out rows, one row at a time"
    )
    return [
        "## Quality",
        "",
        f"{how}, in {' and '.join(engines)}. Measured times and memory are in `measurements.json`.",
        "",
        *table(["variant", "runs on", *columns, "size_bytes"], rows),
        "",
        *(f"- {remark}" for remark in report["remarks"]),
        *([""] if report["remarks"] else []),
    ]


def _slices(report: Report) -> list[str]:
    shipped = report["variants"][report["preferred"]]
    metric = "neighbour_accuracy" if shipped["dimensions"] else "accuracy"
    told = {
        name.removeprefix(CLASS_SLICE) if name.startswith(CLASS_SLICE) else name: figures
        for name, figures in slices_in_order(shipped)
    }
    if not told:
        return []
    rows = [
        [name, number(figures.get("rows")), number(figures.get(metric))] for name, figures in told.items()
    ]
    lines = [f"## By class and slice, {report['preferred']}", ""]
    lines += table(["class or slice", "items", metric], rows)
    for attribute, group in shipped["groups"].items():
        gap = "cannot be told: too few rows" if group["gap"] is None else f"is {group['gap']:.4f}"
        lines += ["", f"The gap in accuracy between values of {attribute} {gap}."]
    return [*lines, ""]


def _cases(report: Report) -> list[str]:
    shipped = report["variants"][report["preferred"]]
    lines: list[str] = []
    if shipped["behaviours"]:
        rows = [
            [case["name"], case["expected"], case["got"], _outcome(case["passed"])]
            for case in shipped["behaviours"]
        ]
        lines += ["## Behaviour", "", *table(["case", "expected", "got", "outcome"], rows), ""]
    if shipped["prompts"]:
        rows = [
            [case["name"], case["answer"], "; ".join(case["failed"]) or "all", _outcome(case["passed"])]
            for case in shipped["prompts"]
        ]
        header = ["prompt", "greedy answer", "properties", "outcome"]
        for row in rows:
            row[2] = row[2] if row[2] == "all" else f"lacks {row[2]}"
        lines += ["## Prompts", "", *table(header, rows), ""]
    return lines


def _fallback(report: Report) -> list[str]:
    fallback = report["fallback"]
    if fallback is None or fallback["found"] is None:
        return []
    found, told = fallback["found"], fallback["found"]["calibration"]
    return [
        "## Fallback",
        "",
        f"Below a confidence of {found['confidence_threshold']:.4f} (recalibrated at the temperature "
        f"{found['temperature']:g}) the cloud's `{fallback['variant']}` answers: "
        f"{told['fallback_share']:.1%} of the calibration rows. Of the {told['rows_kept']} answers kept "
        f"among rows that the threshold was not chosen on, {told['accepted_error']:.1%} were wrong; at the "
        f"confidence level {told['confidence_level']:g} the error is at most {told['error_bound']:.1%} "
        f"(target {told['target_error']:.1%}).",
        "",
    ]


def _training(recipe: Recipe, report: Report) -> list[str]:
    lines = ["## Training", ""]
    for name, training in report["training"].items():
        lines += [_model(name, recipe.models[name], training), ""]
        runs = training.get("distillation", training.get("training"))
        if runs is not None:
            kinds = ["alone", *(["distilled"] if "distillation" in training else [])]
            rows = [[str(run["seed"]), *(f"{run[kind]:.4f}" for kind in kinds)] for run in runs["runs"]]
            metric = f"held-out {runs['metric']}"
            lines += [*table(["seed", *(f"{kind} ({metric})" for kind in kinds)], rows), ""]
    return lines


def _model(name: str, model: ModelSource, training: Mapping[str, Any]) -> str:
    parameters = training.get("parameters")
    size = f", {parameters} parameters" if parameters is not None else ""
    sentences = [f"`{name}`: {_origin(model)}{size}."]
    if isinstance(model, PythonModel | HuggingFaceModel) and model.training is not None:
        how = model.training
        length = f"{how.epochs} epochs" if how.epochs is not None else f"{how.steps} steps"
        sentences.append(
            f"Trained for {length} in batches of {how.batch_size}, peak learning rate {how.learning_rate:g}."
        )
        if model.distillation is not None:
            sentences.append(_distilled(model.distillation))
        if "shipped" in training:
            sentences.append(_shipped(training["shipped"]))
    return " ".join(sentences)


def _origin(model: ModelSource) -> str:
    match model:
        case PythonModel():
            return f"the torch module `{model.factory}`"
        case HuggingFaceModel():
            return f"the Hugging Face model `{model.folder or model.factory}`"
        case SklearnModel():
            return f"the scikit-learn pipeline `{model.file or model.factory}`"
        case OnnxModel() | GgufModel():
            return f"the file `{model.file}`"


def _distilled(spec: Distillation) -> str:
    more = [" with matched hidden states"] if spec.hidden is not None else []
    more += [" and on its texts"] if spec.sequence is not None else []
    return (
        f"Distilled runs learned from `{spec.teacher}`, temperature {spec.temperature:g}, α {spec.alpha:g}"
        f"{''.join(more)}."
    )


def _shipped(run: Mapping[str, Any]) -> str:
    """Which run's model is in the bundle, and the figure that chose it (see toolchain/steps/choose.py)."""
    how = {"alone": "trained alone", "distilled": "distilled"}[run["kind"]]
    figures = [
        f"{name.replace('_', ' ')} {number(run[name])}" for name in sorted(run.keys() - {"seed", "kind"})
    ]
    return f"The model of seed {run['seed']}, {how}, ships ({', '.join(figures)})."


def _quantization(report: Report) -> list[str]:
    rows = [
        [name, ", ".join(f"{key} {_plain(value)}" for key, value in sorted(told["arguments"].items()))]
        for name in report["order"]
        if (told := report["quantization"].get(name)) is not None
    ]
    return ["## Quantization", "", *table(["variant", "arguments"], rows), ""] if rows else []


def _gates(report: Report) -> list[str]:
    rows = [
        [
            gate["name"],
            "measured" if "value" not in gate else number(gate["value"]),
            _outcome(gate["passed"]),
        ]
        for gate in report["gates"]
    ]
    return ["## Gates", "", *table(["gate", "value", "outcome"], rows)]


def _any_has(variants: Mapping[str, Any], metric: str) -> bool:
    return any(variant["metrics"].get(metric) is not None for variant in variants.values())


def _outcome(passed: bool) -> str:
    return "passed" if passed else "failed"


def number(value: float | None) -> str:
    """A figure as tables have it: six digits, a dash where there is none."""
    if value is None:
        return "–"
    # JSON does not tell 1.0 from 1, so neither may the text.
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} items" if len(value) > 8 else "[" + " ".join(map(str, value)) + "]"
    return str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table. Line breaks and bars in cells would end it; text from a model must not mark up."""
    lines = [list(header), ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _cell(text: str) -> str:
    for character, escape in (
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        ("`", "\\`"),
        ("*", "\\*"),
        ("[", "\\["),
    ):
        text = text.replace(character, escape)
    return " ".join(text.split())
