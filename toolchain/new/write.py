"""The text of a new recipe: commented YAML in which every choice is explained."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.new.found import Found
from toolchain.new.look_data import DataFound
from toolchain.recipe.base import SCHEMA_VERSION
from toolchain.recipe.faults import DATA_SUFFIXES
from toolchain.recipe.flow import one_line
from toolchain.recipe.schema import SCHEMA_FILE, editor_line

MODEL = "model"
_SHOWN_COLUMNS = 6
FIRST_VERSION = "0.1.0"
# What an engine needs beside the weights, and how often it holds them while it loads.
_BASE_MIB, _WEIGHTS_HELD, _STEP_MIB = 96, 2.5, 32


def recipe_text(
    found: Found, data: DataFound | None, data_file: Path | None, label: str, folder: Path, date: str
) -> str:
    """A recipe for the model, to lie in `folder`. It reads without errors; it builds once the lines with
    FILL IN are right, which are about licenses and templates only if `data_file` is given."""
    sections = (
        _head(found, date),
        _data(found, data, data_file, label, folder),
        _input(found, data),
        _model(found, folder),
        _variants(found),
        _selftest(found),
        _prompts(found),
        _evaluation(found, data),
        _gates(found),
        _fallback(found),
    )
    return "\n".join("\n".join(lines) + "\n" for section in sections if (lines := list(section)))


def _head(found: Found, date: str) -> Iterator[str]:
    yield editor_line(SCHEMA_FILE)
    yield "# What every field may hold: docs/recipe.md. What is not here has a sensible default."
    yield f'schema_version: "{SCHEMA_VERSION}"'
    yield f"name: {one_line(found.name)}  # how fleets know the model"
    yield f"version: {FIRST_VERSION}  # a semantic version; what was published under one never changes"
    yield f"task: {found.task}"
    yield f"description: {one_line(f'{found.name}, {found.task}.')}  # one sentence for the model card"
    filled = (
        "as its card says" if found.license else "FILL IN: the model's license (SPDX, such as Apache-2.0)"
    )
    yield f"license: {one_line(found.license or 'unknown')}  # {filled}"
    yield f"date: {date}  # in the bundle's documents, so that two builds are equal byte by byte"
    yield "# limitations: What the model is not fit for, for the model card."


def _data(
    found: Found, data: DataFound | None, data_file: Path | None, label: str, folder: Path
) -> Iterator[str]:
    if data_file is not None and data is not None:
        place, remark = relative(data_file, folder), f"{data.rows} {_rows_of(found)}"
    else:
        suffix = DATA_SUFFIXES[found.task][0]
        place, remark = f"data{suffix}", f"FILL IN: {' or '.join(DATA_SUFFIXES[found.task])}, or a factory"
    yield "# The rows that quantizers are calibrated with and that variants are judged on" + (
        ", and that train." if _trains(found) else "."
    )
    yield "data:"
    yield f"  file: {one_line(place)}  # {remark}"
    if found.task != "text-generation" and not place.endswith(".npz"):
        yield f"  label: {one_line(label)}"
    if found.classes and found.task.endswith("-classification"):
        yield f"  classes: {one_line(list(found.classes))}  # in the model's order"
    yield "  # license: CC-BY-4.0  # the data's, for the model card"
    yield "  # source: Where the data comes from, in a line."
    yield "  seed: 1  # decides which rows go where"
    yield "  calibration: 0.15"
    yield "  held_out: 0.3  # nothing else sees these" + ("" if _trains(found) else "; the rest is not used")


def input_of(found: Found, data: DataFound | None) -> dict[str, Any]:
    """What is known of the input, from the data where there is some. Bounds that the model has stay."""
    own: dict[str, Any] = {name: found.input[name] for name in ("minimum", "maximum") if name in found.input}
    return {**found.input, **(data.input if data is not None else {}), **own}


def _rows_of(found: Found) -> str:
    return "documents" if found.task == "text-generation" else "rows"


def _trains(found: Found) -> bool:
    return "training" in found.fields or (found.source == "sklearn" and found.place is None)


def _input(found: Found, data: DataFound | None) -> Iterator[str]:
    if found.task == "text-generation":
        return
    given = input_of(found, data)
    yield "# What clients send. The bounds are a contract: data is held against it before any work starts,"
    yield "# and every request on the device (outside: count, or refuse)."
    yield "input:"
    yield f"  name: {one_line(given['name'])}"
    if given.get("dtype") == "BYTES":
        yield "  dtype: BYTES"
        yield f"  max_characters: {given['max_characters']}  # longer texts are outside the contract"
        return
    known = "shape" in given
    yield f"  shape: {one_line(given.get('shape', [1]))}  # of one row, without the batch" + (
        "" if known else "; FILL IN"
    )
    if found.task == "tabular-classification" and "columns" not in given and data is None:
        yield "  columns:  # FILL IN: the columns' names, in the model's order"
        yield from (f"    - {{name: column_{i}}}" for i in range(1, given.get("shape", [1])[-1] + 1))
    elif "columns" in given:
        yield "  columns:" + ("  # bounds are those of the data; widen them to what is sound" if data else "")
        yield from (f"    - {one_line(column)}" for column in given["columns"])
    elif "minimum" in given:
        yield f"  minimum: {one_line(given['minimum'])}" + (
            "  # as in the data; widen to what is sound" if data else ""
        )
        yield f"  maximum: {one_line(given['maximum'])}"
    else:
        yield "  # minimum: 0  # the least and the largest value that is sound"
        yield "  # maximum: 1"


def _model(found: Found, folder: Path) -> Iterator[str]:
    if found.output is not None:
        yield f"output: {one_line(found.output)}"
        yield ""
    yield "models:"
    yield f"  {MODEL}:"
    yield f"    source: {found.source}"
    if found.place is not None:
        yield f"    {found.role}: {one_line(relative(found.place, folder))}"
    for name, value in found.fields.items():
        told = relative(value, folder) if isinstance(value, Path) else value
        if name in _REMARKS:
            yield f"    # {_REMARKS[name]}"
        yield f"    {name}: {one_line(told)}"
    yield from (f"    # {note}" for note in found.notes)


_FOR = {"mlx": "for Apple silicon", "gguf": "for llama.cpp", "onnx": "for ONNX Runtime"}
_REMARKS = {"training": "Leave this out if the function returns a trained model."}


def _variants(found: Found) -> Iterator[str]:
    budget = _budget_mib(found.size_bytes)
    yield "# In the order in which devices prefer them: each takes the first that its engine can run. The"
    yield "# memory is what the engine may use at most; the build measures it."
    yield "variants:"
    for format, precision in found.variants:
        variant = {"id": f"{format}-{precision}", "model": MODEL, "format": format, "precision": precision}
        yield f"  - {one_line({**variant, 'memory_budget_mb': budget})}"
    for format, precision in found.optional:
        variant = {"id": f"{format}-{precision}", "model": MODEL, "format": format, "precision": precision}
        yield f"  # - {one_line({**variant, 'memory_budget_mb': budget})}  # {_FOR[format]}"
    yield "# Or let the build find the best ones, and write its choice to a lock file:"
    yield "# variants: auto"
    search = {
        "model": MODEL,
        "formats": list(dict.fromkeys(format for format, _ in found.variants)),
        "metric": _metric(found),
        "max_drop": 0.02,
        "memory_budget_mb": budget,
    }
    yield f"# search: {one_line(search)}"


def _metric(found: Found) -> str:
    return {"text-generation": "top1_agreement", "feature-extraction": "neighbour_accuracy"}.get(
        found.task, "accuracy"
    )


def _budget_mib(size_bytes: int) -> int:
    needed = _BASE_MIB + _WEIGHTS_HELD * size_bytes / (1 << 20)
    return _STEP_MIB * math.ceil(needed / _STEP_MIB)


def _selftest(found: Found) -> Iterator[str]:
    yield "# A device tries these many rows in its own engine before it activates a bundle. Other processors"
    yield "# round otherwise, quantized models more so: hence the tolerance."
    yield "selftest: {rows: 4, atol: 0.05}"


def _prompts(found: Found) -> Iterator[str]:
    if found.task != "text-generation":
        return
    yield "# Files that travel with the weights and are evaluated with them, and prompts whose answers must"
    yield "# have some properties (contains, excludes, matches, json, ends, min_tokens)."
    yield "prompts:"
    if found.has_template:
        yield "  # chat_template: chat_template.jinja  # absent: the model's own"
    else:
        yield "  # The model has no chat template of its own, so this one is needed:"
        yield "  chat_template: chat_template.jinja  # FILL IN"
    yield "  # system: system.txt"
    yield "  cases:"
    yield "    - {name: answers, user: Hello, max_tokens: 16, min_tokens: 1}"


def _evaluation(found: Found, data: DataFound | None) -> Iterator[str]:
    yield "# What else to measure: quality by attributes of the rows, cases that must hold, noise."
    yield "# evaluation:"
    if found.task == "text-generation":
        yield "#   held_out_tokens: 4096"
        return
    yield "#   slices: [site]"
    if found.task == "feature-extraction":
        return
    given = input_of(found, data)
    text, columns = given.get("dtype") == "BYTES", given.get("columns", ())
    row = "a text" if text else {column["name"]: column.get("minimum", 0) for column in columns}
    expected = next(iter(found.classes or (data.classes if data is not None else ())), "fine")
    if row and len(columns) <= _SHOWN_COLUMNS:
        yield f"#   behaviours: [{one_line({'name': 'a case', 'input': row, 'expect': expected})}]"
    yield f"#   robustness: {one_line({'seed': 1, 'typo_rate' if text else 'noise_std': 0.05})}"


def _gates(found: Found) -> Iterator[str]:
    ids = [f"{format}-{precision}" for format, precision in found.variants]
    yield "# Conditions that the build must meet, or nothing is signed. A figure that is missing fails."
    yield "gates:"
    if found.task == "text-generation":
        yield "  # Quantization costs something: how often the likeliest next token must be the model's own."
        for name in ids:
            least = 0.98 if name in ("gguf-f16", "onnx-fp32") else 0.8
            yield f"  - {one_line({'metric': 'top1_agreement', 'variant': name, 'at_least': least})}"
        yield "  - {metric: prompts_passed, at_least: 1}"
        yield "  # - {metric: tokens_per_s, variant: " + ids[0] + ", at_least: 10}"
        return
    plain = next(name for name in ids if name.endswith("fp32"))
    metric = _metric(found)
    yield "  # The export computes what the model does."
    yield f"  - {one_line({'metric': 'parity_agreement', 'variant': plain, 'at_least': 0.99})}"
    if ids[0] != plain:
        yield "  # Quantization costs little."
        gate = {"metric": metric, "variant": ids[0], "drop_against": plain, "at_most": 0.02}
        yield f"  - {one_line(gate)}"
    yield "  # What your application needs:"
    yield f"  # - {one_line({'metric': metric, 'at_least': 0.9})}"
    yield f"  # - {one_line({'metric': 'latency_p50_ms', 'variant': ids[0], 'at_most': 20})}"


def _fallback(found: Found) -> Iterator[str]:
    if found.task not in ("image-classification", "tabular-classification", "text-classification"):
        return
    yield "# A device can ask a larger model when it is not sure: add that as a variant with target: cloud."
    yield "# fallback: {variant: cloud, target_error: 0.05, minimum_accepted: 100}"


def relative(path: Path, folder: Path) -> str:
    """The path as a recipe in `folder` names it."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
