"""The recipe's reference as a page of the documentation, made from its schema; a test keeps it current."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolchain.recipe.base import FACTORY_PATTERN, Task
from toolchain.recipe.evaluation import MEASURED_METRICS, metrics_of
from toolchain.recipe.faults import DATA_SUFFIXES
from toolchain.recipe.flow import one_line
from toolchain.recipe.schema import recipe_schema
from toolchain.recipe.variants import PRECISIONS
from toolchain.recipe.words import METRICS

_HEAD = """# The recipe

This page is made from the types in `toolchain/recipe`. To make it again: `python -m docs.generate`.

A recipe is a YAML file that says everything that decides a bundle's content; `edgeops build RECIPE` makes
the bundle. `edgeops new` writes a commented one from a model. What does not fit is refused before any work
starts, with the line and the field at fault and, for a misspelt name, the one that was meant.

Editors complete and check recipes by the JSON Schema in [schema/recipe-1.0.json](schema/recipe-1.0.json)
(also printed by `edgeops schema`), if the first line says where it lies:

```yaml
# yaml-language-server: $schema=recipe-1.0.json
```

Paths are relative to the recipe's file, with forward slashes; they may climb by `..`. `module:function`
names Python code, found as Python finds modules (so put its folder on `PYTHONPATH`).
"""

_DATA = """### Data files

| task | files |
|---|---|
{suffixes}

- `.npz`: arrays `inputs` (float32, the first axis rows; or texts), `labels` (int64 or texts) and `classes`.
  Each further array with one value a row is an attribute.
- `.csv`: a header and rows. The columns of `input.columns` are the input, an empty cell is a null, `label`
  names the label's column, the others are attributes.
- `.jsonl`: one object a line with `text` and the label (for token classification a list, one for each word
  between single spaces); other fields are attributes. For text generation `text` alone.
- `.txt`: documents with an empty line between them.

Attributes, such as the site of each row, are what slices and groups are taken by.
"""

_VARIANTS = """### Formats and precisions

| format | precisions | made of |
|---|---|---|
| `onnx` | {onnx} | every source but gguf |
| `gguf` | {gguf} | huggingface and gguf, for text-generation |
| `mlx` | {mlx} | huggingface, for text-generation |
"""

_SEARCH = """### How the search goes

With `variants: auto` each way to quantize that the formats and the model allow is made and evaluated by the
build's own steps. Out are those that the quantizer or engine refuses, that lose more than `max_drop` of
`metric` against the model itself, that fail the memory budget, or a gate that judges every device variant.
Of the others, in each format, the Pareto front of metric, size and `latency_p50_ms` stays; latencies that
differ by less than 5 % are equal. At most `max_variants` are kept, from the formats in turn: the fastest,
the smallest, the best, then the others. Devices prefer the fastest, and of those as fast the smallest.

The outcome goes to the lock file beside the recipe (`recipe.lock.yaml` for `recipe.yaml`, or `--lock FILE`)
with the figures and the reason for each rejection. Builds follow it, since times vary and digests must not;
`edgeops build --search` searches again. A lock that was made for another search section, model or data is
refused.
"""

_METRICS = """### Metrics

| metric | what it is | tasks |
|---|---|---|
{rows}

A figure that is missing fails its gate. {measured} are measured: true of one run on one machine, so they
stand in `measurements.json` and are no part of the bundle's identity.
"""

# Headings, in the order of the page.
_SECTIONS: tuple[tuple[str, str], ...] = (
    ("Recipe", "The whole recipe"),
    ("Data", "data"),
    ("Input", "input"),
    ("Column", "input.columns"),
    ("Tokenizer", "tokenizer"),
    ("PythonModel", "models, source: python"),
    ("HuggingFaceModel", "models, source: huggingface"),
    ("SklearnModel", "models, source: sklearn"),
    ("OnnxModel", "models, source: onnx"),
    ("GgufModel", "models, source: gguf"),
    ("Training", "training"),
    ("Distillation", "distillation"),
    ("Hidden", "distillation.hidden"),
    ("SequenceLevel", "distillation.sequence"),
    ("VariantSpec", "variants"),
    ("Search", "search"),
    ("Evaluation", "evaluation"),
    ("Behaviour", "evaluation.behaviours"),
    ("Robustness", "evaluation.robustness"),
    ("Prompts", "prompts"),
    ("PromptCase", "prompts.cases"),
    ("Gate", "gates"),
    ("Fallback", "fallback"),
    ("FeatureSpec", "features"),
    ("SelfTestSpec", "selftest"),
)
_AFTER = {
    "Data": lambda: _data(),
    "VariantSpec": lambda: _variants(),
    "Search": lambda: _SEARCH,
    "Gate": lambda: _metrics(),
}


def page() -> str:
    """The whole page, in Markdown."""
    schema = recipe_schema()
    structs = {"Recipe": schema, **schema["$defs"]}
    missing = structs.keys() - dict(_SECTIONS).keys()
    if missing:
        raise ValueError(f"the page has no place for {sorted(missing)}")
    parts = [_HEAD]
    for name, title in _SECTIONS:
        parts.append(_section(title, structs[name]))
        if name in _AFTER:
            parts.append(_AFTER[name]())
    return "\n".join(parts)


def _section(title: str, struct: Mapping[str, Any]) -> str:
    rows = "\n".join(
        _row(name, field, name in struct["required"]) for name, field in struct["properties"].items()
    )
    return (
        f"## {title}\n\n{struct['description']}\n\n"
        f"| field | type | default | meaning | example |\n|---|---|---|---|---|\n{rows}\n"
    )


def _row(name: str, field: Mapping[str, Any], required: bool) -> str:
    default = "required" if required else f"`{one_line(field['default'])}`" if "default" in field else ""
    cells = [f"`{name}`", _type(field), default, field["description"], f"`{one_line(field['examples'][0])}`"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        title = dict(_SECTIONS)[field["$ref"].rpartition("/")[2]]
        return f"[{title.removeprefix('models, source: ')}](#{_anchor(title)})"
    if "anyOf" in field:
        return " or ".join(_type(member) for member in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_items(field)}" + _bounds(field)
    if kind == "object":
        values = field.get("additionalProperties")
        return "mapping" if not isinstance(values, dict) else f"mapping of names to {_type(values)}"
    names = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
    named = "date" if field.get("format") == "date" else names.get(kind, kind)
    return "`module:function`" if field.get("pattern") == FACTORY_PATTERN else named + _bounds(field)


def _items(field: Mapping[str, Any]) -> str:
    if "prefixItems" in field:
        return ", ".join(_type(item) for item in field["prefixItems"])
    return _type(field["items"])


def _bounds(field: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {field[name]:,}" for name, sign in signs.items() if name in field]
    if field.get("type") == "array":
        told += [
            f"{word} {field[name]}"
            for name, word in (("minItems", "at least"), ("maxItems", "at most"))
            if name in field
        ]
    return f" ({', '.join(told)})" if told else ""


def _anchor(title: str) -> str:
    """GitHub's anchor of a heading."""
    kept = "".join(character for character in title.lower() if character.isalnum() or character in " -_")
    return kept.replace(" ", "-")


def _data() -> str:
    return _DATA.format(
        suffixes="\n".join(
            f"| {task} | {', '.join(f'`{s}`' for s in known)} |" for task, known in DATA_SUFFIXES.items()
        )
    )


def _variants() -> str:
    return _VARIANTS.format(
        **{name: ", ".join(f"`{p}`" for p in known) for name, known in PRECISIONS.items()}
    )


def _metrics() -> str:
    return _METRICS.format(
        rows="\n".join(
            f"| `{name}` | {meaning} | {', '.join(_tasks(name))} |" for name, meaning in METRICS.items()
        ),
        measured=", ".join(f"`{name}`" for name in MEASURED_METRICS),
    )


def _tasks(metric: str) -> Iterator[str]:
    tasks: tuple[Task, ...] = tuple(DATA_SUFFIXES)
    having = [task for task in tasks if metric in metrics_of(task)]
    if len(having) == len(tasks):
        yield "all"
    elif all(task.endswith("classification") for task in having) and len(having) == 4:
        yield "classification"
    elif having == [task for task in tasks if task != "text-generation"]:
        yield "all but text-generation"
    else:
        yield from having
