"""Fields that do not fit each other, the task or the model's source are refused before any work starts."""

from __future__ import annotations

import pytest

from edgeops.errors import ConfigError
from edgeops_testkit.recipes import changed
from toolchain.recipe import Recipe
from toolchain.recipe.file import parse_recipe

HEAD = """\
schema_version: "1.0"
name: small
version: 1.0.0
description: For tests.
license: Apache-2.0
date: 2026-01-01
data: {file: data.npz, seed: 1, calibration: 0.2, held_out: 0.2}
selftest: {rows: 4, atol: 0.01}
"""

TABLE = (
    HEAD
    + """\
task: tabular-classification
input: {name: row, dtype: FP32, shape: [2], columns: [{name: a, minimum: 0, maximum: 9}, {name: b}]}
models:
  forest: {source: sklearn, file: forest.skops}
variants:
  - {id: onnx-fp32, model: forest, precision: fp32, memory_budget_mb: 64}
evaluation:
  behaviours: [{name: zeros, input: {a: 0, b: 0}, expect: fine}]
  robustness: {seed: 1, noise_std: 0.1}
gates: [{metric: accuracy, at_least: 0.5}]
"""
)

TEXT = (
    HEAD
    + """\
task: text-classification
input: {name: text, dtype: BYTES, max_characters: 500}
tokenizer: {vocabulary_size: 500, max_tokens: 32}
models:
  large:
    source: huggingface
    factory: my.network:make
    training: {epochs: 3, batch_size: 8, learning_rate: 0.001}
  small:
    source: huggingface
    factory: my.network:make
    training: {epochs: 2, batch_size: 8, learning_rate: 0.001}
    distillation: {teacher: large, temperature: 2, alpha: 0.5}
variants:
  - {id: int8, model: small, precision: int8, memory_budget_mb: 64}
  - {id: cloud, model: large, precision: fp32, memory_budget_mb: 64, target: cloud}
fallback: {variant: cloud, target_error: 0.1, minimum_accepted: 10}
evaluation:
  behaviours: [{name: plain, input: switch on, expect: fine}]
  robustness: {seed: 1, typo_rate: 0.1}
gates: [{metric: accuracy, at_least: 0.5}]
"""
)

CHAT = (
    HEAD.replace("data.npz", "text.jsonl")
    + """\
task: text-generation
prompts:
  system: system.txt
  cases: [{name: greets, user: Hi, contains: [hello]}]
models:
  chat: {source: huggingface, folder: chat}
variants:
  - {id: gguf-q4_k_m, model: chat, format: gguf, precision: q4_k_m, imatrix: if-better, memory_budget_mb: 64}
  - {id: mlx-4bit, model: chat, format: mlx, precision: 4bit, group_size: 64, memory_budget_mb: 64}
  - {id: onnx-int4, model: chat, precision: int4, scheme: weight-only, group_size: 32, memory_budget_mb: 64}
gates: [{metric: top1_agreement, at_least: 0.5}]
"""
)

SEARCH = changed(
    TABLE,
    (
        "variants:\n  - {id: onnx-fp32, model: forest, precision: fp32, memory_budget_mb: 64}\n",
        """\
variants: auto
search:
  {model: forest, formats: [onnx], metric: accuracy, max_drop: 0.02, memory_budget_mb: 64,
   keep: [{id: cloud, model: forest, precision: fp32, memory_budget_mb: 64, target: cloud}]}
""",
    ),
)

LISTED = "variants: [{id: a, model: forest, precision: fp32, memory_budget_mb: 9}]\n"
FACTORY = "factory: my.network:make\n    "
NOISE = "  robustness: {seed: 1, noise_std: 0.1}\n"
PROMPTS = CHAT[CHAT.index("prompts:") : CHAT.index("models:")]
RECIPES = {"table": TABLE, "text": TEXT, "chat": CHAT, "search": SEARCH}


def parse(text: str) -> Recipe:
    return parse_recipe(text.encode(), "recipe.yaml")


@pytest.mark.parametrize("name", RECIPES)
def test_a_sound_recipe_of_each_kind_is_read(name: str) -> None:
    assert parse(RECIPES[name]).name == "small"


@pytest.mark.parametrize(
    ("base", "old", "new", "field"),
    [
        # data and input
        ("table", "{file: data.npz,", "{", "data"),
        ("table", "{file: data.npz,", "{file: data.npz, factory: my.data:load,", "data"),
        ("table", "{file: data.npz,", "{file: data.npz, options: {a: 1},", "data.options"),
        ("table", "data.npz", "data.jsonl", "data.file"),
        ("text", "data.npz", "data.csv", "data.file"),
        ("table", "dtype: FP32, shape: [2]", "dtype: FP32", "input.shape"),
        ("table", "dtype: FP32, shape: [2],", "dtype: BYTES,", "input.dtype"),
        ("table", "shape: [2]", "shape: [3]", "input.columns"),
        ("table", "{name: b}", "{name: a}", "input.columns[1].name"),
        ("table", "maximum: 9", "maximum: 0", "input.columns[0].minimum"),
        ("table", "shape: [2],", "shape: [2], max_characters: 5,", "input.max_characters"),
        ("text", "dtype: BYTES,", "dtype: BYTES, shape: [2],", "input.shape"),
        ("text", "dtype: BYTES, max_characters: 500", "dtype: FP32, shape: [2]", "input.dtype"),
        # models
        ("table", "source: sklearn", "source: onnx, tokenizer: t.json", "models.forest.tokenizer"),
        ("table", "file: forest.skops", "file: /forest.skops", "models.forest.file"),
        ("table", "file: forest.skops", "file: forest.skops, factory: a:b", "models.forest"),
        ("table", "file: forest.skops", "factory: a:b, trusted_types: [x.Y]", "models.forest.trusted_types"),
        ("table", "source: sklearn, file", "source: huggingface, folder", "models.forest.source"),
        ("table", "source: sklearn", "source: gguf", "models.forest.source"),
        ("table", "forest: {", "Forest!: {", "models.Forest!"),
        ("text", "tokenizer: {vocabulary_size: 500, max_tokens: 32}\n", "", "tokenizer"),
        ("text", f"{FACTORY}training: {{epochs: 3", "training: {epochs: 3", "models.large"),
        (
            "text",
            f"{FACTORY}training: {{epochs: 3",
            "folder: large\n    training: {epochs: 3",
            "models.large.training",
        ),
        ("text", "{epochs: 3,", "{epochs: 3, steps: 9,", "models.large.training.steps"),
        ("text", "{epochs: 3,", "{", "models.large.training.epochs"),
        ("text", "teacher: large", "teacher: small", "models.small.distillation.teacher"),
        ("text", "teacher: large", "teacher: none", "models.small.distillation.teacher"),
        (
            "text",
            "alpha: 0.5}",
            "alpha: 0.5, sequence: {samples: 3, prompt_tokens: 4}}",
            "models.small.distillation.sequence",
        ),
        ("text", "    distillation", "    seeds: [1, 1]\n    distillation", "models.small.seeds"),
        ("chat", "folder: chat}", "folder: chat, seeds: [3]}", "models.chat.seeds"),
        ("chat", "folder: chat}", "folder: chat, class_share: {a: 0.5}}", "models.chat.class_share"),
        ("chat", "source: huggingface, folder", "source: onnx, file", "models.chat.source"),
        ("chat", "task: t", "tokenizer: {vocabulary_size: 500, max_tokens: 9}\ntask: t", "tokenizer"),
        # variants
        ("table", "memory_budget_mb: 64}", "memory_budget_mb: 64, target: cloud}", "variants"),
        ("table", "id: onnx-fp32", "id: baseline", "variants[0].id"),
        ("table", "precision: fp32", "precision: q8_0", "variants[0].precision"),
        ("table", "precision: fp32", "precision: q8_0, format: gguf", "variants[0].format"),
        ("table", "precision: fp32", "precision: fp32, scheme: dynamic", "variants[0].scheme"),
        ("table", "precision: fp32", "precision: int4, scheme: static", "variants[0].scheme"),
        ("table", "precision: fp32", "precision: int8, calibration: minmax", "variants[0].calibration"),
        ("table", "precision: fp32", "precision: int8, group_size: 32", "variants[0].group_size"),
        ("table", "precision: fp32", "precision: fp32, imatrix: always", "variants[0].imatrix"),
        (
            "chat",
            "precision: int4, scheme: weight-only",
            "precision: int8, scheme: static",
            "variants[2].scheme",
        ),
        ("chat", "source: huggingface, folder", "source: gguf, file", "variants[0].imatrix"),
        ("chat", "precision: q4_k_m", "precision: q8_0", "variants[0].imatrix"),
        ("chat", "group_size: 64", "group_size: 128", "variants[1].group_size"),
        ("chat", "source: huggingface, folder", "source: gguf, file", "variants[1].format"),
        # search
        ("search", "variants: auto\n", LISTED, "search"),
        ("search", "model: forest, formats", "model: tree, formats", "search.model"),
        ("search", "formats: [onnx]", "formats: [onnx, gguf]", "search.formats[1]"),
        ("search", "formats: [onnx]", "formats: [onnx, onnx]", "search.formats[1]"),
        ("search", "metric: accuracy, max", "metric: nll, max", "search.metric"),
        ("search", "{id: cloud, model: forest", "{id: cloud, model: tree", "search.keep[0].model"),
        ("search", "{metric: accuracy, at", "{metric: accuracy, variant: onnx-int8, at", "gates[0].variant"),
        # evaluation
        ("table", "input: {a: 0, b: 0}", "input: {a: 0}", "evaluation.behaviours[0].input"),
        ("table", "input: {a: 0, b: 0}", "input: [0, 0, 0]", "evaluation.behaviours[0].input"),
        ("table", "input: {a: 0, b: 0}", "input: [0, x]", "evaluation.behaviours[0].input"),
        ("text", "input: switch on", "input: [1, 2]", "evaluation.behaviours[0].input"),
        ("table", "noise_std: 0.1", "typo_rate: 0.1", "evaluation.robustness.noise_std"),
        ("text", "typo_rate: 0.1", "noise_std: 0.1", "evaluation.robustness.typo_rate"),
        ("text", "fallback: {variant: cloud", "fallback: {variant: int8", "fallback.variant"),
        ("table", "task: t", "prompts: {}\ntask: t", "prompts"),
        ("chat", PROMPTS, "", "prompts"),
        ("chat", "contains: [hello]", "matches: '['", "prompts.cases[0].matches"),
        ("chat", ", contains: [hello]", "", "prompts.cases[0]"),
        ("chat", "contains: [hello]", "min_tokens: 99", "prompts.cases[0].min_tokens"),
        ("chat", "task: t", "evaluation: {slices: [site]}\ntask: t", "evaluation.slices"),
        # gates
        ("chat", "metric: top1_agreement", "metric: accuracy", "gates[0].metric"),
        ("table", "metric: accuracy, at", "metric: tokens_per_s, at", "gates[0].metric"),
        ("table", "metric: accuracy, at", "metric: first_token_ms, at", "gates[0].metric"),
        ("table", "metric: accuracy, at", "metric: kl_mean, at", "gates[0].metric"),
        (
            "table",
            f"{NOISE}gates: [{{metric: accuracy",
            "gates: [{metric: robust_accuracy",
            "gates[0].metric",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(base: str, old: str, new: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(changed(RECIPES[base], (old, new)))
    faults = caught.value.details["faults"]
    assert isinstance(faults, list)
    assert field in [fault["field"] for fault in faults]


def test_auto_needs_a_search_section() -> None:
    start, end = SEARCH.index("search:"), SEARCH.index("evaluation:")
    with pytest.raises(ConfigError) as caught:
        parse(SEARCH[:start] + SEARCH[end:])
    assert caught.value.subject == "search"


def test_teachers_that_learn_from_each_other_are_refused() -> None:
    text = changed(
        TEXT,
        ("  small:\n", "    distillation: {teacher: small, temperature: 2, alpha: 0.5}\n  small:\n"),
    )
    with pytest.raises(ConfigError, match="no model can be trained first"):
        parse(text)


def test_a_path_may_climb_to_what_lies_beside_the_recipe() -> None:
    recipe = parse(changed(TABLE, ("file: data.npz", "file: ../data/rows.npz")))
    assert recipe.data.file == "../data/rows.npz"
