"""The steps around training: runs are weighed, prompts are brought in, the tokenizer is trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit.training import TrainingGround
from toolchain.evaluation.prompting import PromptSettings, read_template
from toolchain.handover.arrays import load_arrays, save_arrays
from toolchain.handover.context import StepContext
from toolchain.steps import choose, prompts, tokenizer

pytestmark = pytest.mark.slow  # importing torch takes seconds

TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"


def context_of(folder: Path, config: dict[str, Any], inputs: dict[str, Path]) -> StepContext:
    out = folder / "out"
    out.mkdir()
    return StepContext(
        config=config,
        inputs=inputs,
        out=out,
        records={},
        progress=lambda _share, _note: None,
        checkpoints=folder,
    )


def made_run(folder: Path, seed: int, kind: str, accuracy: float, calibration_accuracy: float) -> Path:
    """What a training step leaves."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.safetensors").write_text(f"{seed} {kind}")
    report = {"accuracy": accuracy, "calibration_accuracy": calibration_accuracy, "seed": seed, "kind": kind}
    rest = {"parameters": 7, "train_rows": 3, "source": "python"}
    (folder / "training.json").write_text(json.dumps(report | rest))
    return folder


# By run: the accuracy on the held-out rows, and on the calibration rows.
Figures = dict[tuple[int, str], tuple[float, float]]


def weigh(folder: Path, figures: Figures) -> tuple[str, dict[str, Any]]:
    """Which model ships, and what is told."""
    inputs = {
        f"run-{seed}-{kind}": made_run(folder / f"{seed}-{kind}", seed, kind, *both)
        for (seed, kind), both in figures.items()
    }
    config = {
        "seeds": list(dict.fromkeys(seed for seed, _ in figures)),
        "distilled": any(kind == "distilled" for _, kind in figures),
        "task": "tabular-classification",
    }
    context = context_of(folder, config, inputs)
    choose.run(context)
    report: dict[str, Any] = json.loads((context.out / "training.json").read_bytes())
    return (context.out / "model" / "weights.safetensors").read_text(), report


def test_the_calibration_rows_choose_and_the_held_out_rows_only_tell(tmp_path: Path) -> None:
    shipped, report = weigh(
        tmp_path,
        {
            (5, "alone"): (0.5, 0.7),
            (5, "distilled"): (0.4, 0.8),
            (6, "alone"): (0.6, 0.1),
            (6, "distilled"): (0.9, 0.6),
        },
    )
    assert shipped == "5 distilled"
    assert report["shipped"] == {"seed": 5, "kind": "distilled", "calibration_accuracy": 0.8}
    assert report["distillation"]["runs"] == [
        {"seed": 5, "alone": 0.5, "distilled": 0.4},
        {"seed": 6, "alone": 0.6, "distilled": 0.9},
    ]
    assert report["distillation"]["verdict"] == "unclear"
    assert {"parameters", "train_rows", "source", "shipped", "distillation"} == set(report)


def test_a_distillation_that_does_worse_does_not_ship(tmp_path: Path) -> None:
    shipped, report = weigh(
        tmp_path,
        {(5, "alone"): (0.1, 0.81), (5, "distilled"): (0.9, 0.8), (6, "alone"): (0.2, 0.5)}
        | {(6, "distilled"): (0.9, 0.5)},
    )
    assert shipped == "5 alone"
    assert report["shipped"]["kind"] == "alone"


def test_of_equals_the_distilled_one_of_the_first_seed_ships(tmp_path: Path) -> None:
    runs = [(seed, kind) for seed in (6, 5) for kind in ("alone", "distilled")]
    assert weigh(tmp_path, dict.fromkeys(runs, (0.5, 0.5)))[0] == "6 distilled"


def test_of_a_model_without_a_teacher_the_best_seed_ships(tmp_path: Path) -> None:
    shipped, report = weigh(tmp_path, {(3, "alone"): (0.3, 0.1), (1, "alone"): (0.1, 0.2)})
    assert shipped == "1 alone"
    told = report["training"]
    assert (told["mean_alone"], told["metric"]) == (0.2, "accuracy")


def test_less_perplexity_is_better(tmp_path: Path) -> None:
    inputs = {}
    for seed, perplexity in ((1, 9.0), (2, 7.5)):
        folder = inputs[f"run-{seed}-alone"] = tmp_path / str(seed)
        (folder / "model").mkdir(parents=True)
        figures = {"perplexity": 8.0, "calibration_perplexity": perplexity}
        (folder / "training.json").write_text(json.dumps(figures))
    config = {"seeds": [1, 2], "distilled": False, "task": "text-generation"}
    context = context_of(tmp_path, config, inputs)
    choose.run(context)
    assert json.loads((context.out / "training.json").read_bytes())["shipped"]["seed"] == 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Hugging Face folder as far as prompts go: what it can hold, its tokens, its own template."""
    folder = tmp_path / "model-student" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 99}))
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def prompts_config(**given: Any) -> dict[str, Any]:
    case = {"name": "one", "user": "Why?"}
    return {"prompts": {"chat_template": None, "system": None, "stop": ["\n"], "cases": [case], **given}}


def test_without_a_template_in_the_recipe_the_models_own_ships(tmp_path: Path, model: Path) -> None:
    system = tmp_path / "brief.txt"
    system.write_text("Be brief.")
    context = context_of(
        tmp_path, prompts_config(system="brief.txt"), {"model": model.parent, "system": system}
    )
    prompts.run(context)
    assert (context.out / "prompts" / "chat_template.jinja").read_text() == TEMPLATE
    told = json.loads((context.out / "prompts.json").read_bytes())
    assert told == {"stop": ["\n"], "context_tokens": 99, "bos_token": "<s>", "eos_token": "</s>"}
    template = read_template(context.out, PromptSettings(eos_token="</s>"))
    assert template.render([{"role": "user", "content": "Why?"}]) == "system: Be brief.</s>user: Why?</s>"


def test_the_recipes_template_goes_before_the_models_own(tmp_path: Path, model: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("Q: {{ messages[-1]['content'] }}\nA:")
    context = context_of(
        tmp_path, prompts_config(chat_template="own.jinja"), {"model": model.parent, "chat_template": own}
    )
    prompts.run(context)
    assert (context.out / "prompts" / "chat_template.jinja").read_bytes() == own.read_bytes()
    assert not (context.out / "prompts" / "system.txt").exists()


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% for", "is not a template"),
        ("hello", "leaves out what the user says"),
        ("{{ messages[9]['content'].x.y }}", "fails on these messages"),
    ],
)
def test_a_template_that_does_not_render_is_refused(
    tmp_path: Path, model: Path, template: str, what: str
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text(template)
    context = context_of(
        tmp_path, prompts_config(chat_template="own.jinja"), {"model": model.parent, "chat_template": own}
    )
    with pytest.raises(ArtifactError, match=what):
        prompts.run(context)


def test_no_template_anywhere_is_told_with_its_remedy(tmp_path: Path, model: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no chat template") as caught:
        prompts.run(context_of(tmp_path, prompts_config(), {"model": model.parent}))
    assert caught.value.subject == "prompts.chat_template"


def test_a_gguf_file_brings_its_own_template_and_context(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    folder = tmp_path / "model-student" / "model"
    folder.mkdir(parents=True)
    writer = GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(77)
    writer.add_token_list(["<pad>", "<s>", "</s>"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    context = context_of(tmp_path, prompts_config(), {"model": folder.parent})
    prompts.run(context)
    told = json.loads((context.out / "prompts.json").read_bytes())
    assert told == {"stop": ["\n"], "context_tokens": 77, "bos_token": "<s>", "eos_token": "</s>"}
    assert (context.out / "prompts" / "chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize("generates", [False, True])
def test_the_tokenizer_is_trained_on_the_training_part_alone(tmp_path: Path, generates: bool) -> None:
    ground = TrainingGround(tmp_path)
    if generates:
        ground.with_documents()
        path = tmp_path / "data" / "corpus.json"
        parts = json.loads(path.read_bytes())
        path.write_text(json.dumps({**parts, "held_out": ["zzzzzz " * 500]}))
    else:
        ground.with_texts()
        arrays = load_arrays(tmp_path / "data" / "data.npz")
        arrays["held_out_inputs"] = np.array(["zzzzzz " * 500])
        save_arrays(tmp_path / "data" / "data.npz", arrays)
    task = "text-generation" if generates else "text-classification"
    config = {"tokenizer": {"vocabulary_size": 400, "max_tokens": 9}, "task": task, "chat": generates}
    context = context_of(tmp_path, config, {"data": tmp_path / "data"})
    tokenizer.run(context)
    content = json.loads((context.out / "tokenizer" / "tokenizer.json").read_bytes())
    assert "Ġdoor" in content["model"]["vocab"]
    assert "zz" not in content["model"]["vocab"]
    settings = json.loads((context.out / "tokenizer" / "tokenizer_config.json").read_bytes())
    assert settings["model_max_length"] == 9
    assert (context.out / "tokenizer" / "chat_template.jinja").exists() == generates
