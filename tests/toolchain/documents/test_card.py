"""The model card: front matter that the Hub takes, the same text every time, and nothing that a model's
answers can break."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from huggingface_hub import ModelCard

from edgeops.canonical import canonical_json
from edgeops_testkit.reports import HOSTILE, report
from models.digits import __path__ as digits
from toolchain.documents.card import model_card, table
from toolchain.recipe import Recipe
from toolchain.recipe.file import read_recipe
from toolchain.recipe.models import GgufModel
from toolchain.recipe.variants import VariantSpec


def recipe(**changes: Any) -> Recipe:
    """The digits recipe, with some of it changed."""
    return msgspec.structs.replace(read_recipe(Path(digits[0]) / "recipe.yaml"), **changes)


def language_recipe() -> Recipe:
    variants = tuple(
        VariantSpec(id=f"gguf-{p}", model="student", precision=p, format="gguf", memory_budget_mb=64)
        for p in ("q4_k_m", "f16")
    )
    models = {"student": GgufModel(file="model.gguf"), "teacher": GgufModel(file="teacher.gguf")}
    return recipe(task="text-generation", variants=variants, models=models, fallback=None, name="sample")


CARDS = {
    "image-classification": recipe(name="sample"),
    "text-generation": language_recipe(),
}


@pytest.mark.parametrize("task", CARDS)
def test_the_hub_reads_the_front_matter(task: str) -> None:
    card = ModelCard(model_card(CARDS[task], report(task)))
    assert card.data.pipeline_tag == task
    assert card.data.license == "cc-by-4.0"
    assert card.data.model_name == "sample"
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    shipped = report(task)["variants"][report(task)["preferred"]]["metrics"]
    assert told
    assert all(shipped[name] == value for name, value in told.items())


def test_it_says_which_run_ships_and_by_which_figure() -> None:
    told = report()
    told["training"]["student"]["shipped"] = {"seed": 7, "kind": "alone", "calibration_accuracy": 0.9125}
    card = model_card(CARDS["image-classification"], told)
    assert "The model of seed 7, trained alone, ships (calibration accuracy 0.9125)." in card
    assert "first seed" not in card


@pytest.mark.parametrize("task", CARDS)
def test_the_same_report_gives_the_same_card(task: str) -> None:
    read_back = json.loads(canonical_json(report(task)))  # which sorts objects by their keys
    assert model_card(CARDS[task], report(task)) == model_card(CARDS[task], read_back)


@pytest.mark.parametrize("task", CARDS)
def test_every_table_of_a_card_is_sound_whatever_stands_in_it(task: str) -> None:
    body = model_card(CARDS[task], report(task)).split("---\n", 2)[2]
    width = None
    for line in body.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        bars = line.replace("\\\\", "").replace("\\|", "").count("|")
        width = bars if width is None else width
        assert bars == width, line
    assert "<script" not in "".join(line for line in body.splitlines() if line.startswith("|"))


def test_a_card_says_all_that_a_reader_needs() -> None:
    text = model_card(CARDS["image-classification"], report())
    for part in (
        "# sample 1.0.0",
        "## Quality",
        "| baseline |",
        "## By class and slice",
        "The gap in accuracy between values of site is 0.0500.",
        "## Behaviour",
        "## Fallback",
        "at the confidence level 0.9 the error is at most 3.7% (target 5.0%)",
        "## Training",
        "temperature 4, α 0.7",
        "## Quantization",
        "scheme dynamic",
        "## Gates",
        "robust_accuracy",
    ):
        assert part in text, part


def test_a_language_models_card_shows_its_answers() -> None:
    text = model_card(language_recipe(), report("text-generation"))
    assert "On 512 held-out tokens, in llama.cpp." in text
    assert "| greets | Hello! \\| a \\| b \\| | all | passed |" in text
    assert "lacks is JSON" in text
    assert "prompts/chat_template.jinja" in text
    assert "## Fallback" not in text


@pytest.mark.parametrize(
    ("given", "license", "name"),
    [("Apache-2.0", "apache-2.0", None), ("LicenseRef-Ours", "other", "licenseref-ours")],
)
def test_a_license_that_the_hub_does_not_know_is_named(given: str, license: str, name: str | None) -> None:
    front = yaml.safe_load(model_card(recipe(license=given), report()).split("---\n", 2)[1])
    assert (front["license"], front.get("license_name")) == (license, name)


def test_cells_cannot_end_a_table() -> None:
    (line,) = table(["a"], [[f"x\ny {HOSTILE} \\"]])[2:]
    assert line == "| x y &lt;script>alert('x')&lt;/script>\\|\\`\\*\\[a](http://evil.example) \\\\ |"
