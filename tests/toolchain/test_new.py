"""`edgeops new` writes a recipe that reads, for each kind of model, and says what has to be filled in."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit import sources
from edgeops_testkit.recipes import changed
from toolchain.new.commands import TASKS, new, schema
from toolchain.new.create import TO_FILL, Created, create_recipe
from toolchain.recipe import Recipe
from toolchain.recipe.base import Task
from toolchain.recipe.file import parse_recipe, read_recipe
from toolchain.recipe.models import HuggingFaceModel, OnnxModel, PythonModel, SklearnModel
from toolchain.recipe.schema import SCHEMA_FILE, recipe_schema, schema_text

NETWORK = """
def torch_module(hidden=4):
    import torch
    return torch.nn.Sequential(torch.nn.Linear(3, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 3))

def pipeline():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()

def needs_more(width):
    return width

def no_model():
    return 7
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with code on the path, and a data file of three columns."""
    (tmp_path / "users_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    data = sources.three_columns()
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "site", "c", "kind"])
        for row, label, site in zip(data.inputs, data.labels, data.attributes["site"], strict=True):
            writer.writerow([*row[:2], site, row[2], data.classes[label]])
    yield tmp_path
    sys.modules.pop("users_network", None)


def create(model: Path | str, out: Path, **options: object) -> tuple[Recipe, Created]:
    given = {"data": None, "label": "label", "task": None, "name": None, "trained": False, **options}
    made = create_recipe(str(model), out, **given)  # type: ignore[arg-type]
    text = out.read_text()
    value = json.loads(json.dumps(yaml.safe_load(text), default=str))
    assert list(jsonschema.Draft202012Validator(recipe_schema()).iter_errors(value)) == []
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert made.schema.read_text() == schema_text()
    assert [TO_FILL in line for line in text.splitlines()].count(True) == len(made.to_fill)
    return read_recipe(out), made


def only_model(recipe: Recipe) -> object:
    (model,) = recipe.models.values()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in sources.TASK_DATA if task != "tabular-classification"])
def test_a_hugging_face_folder_tells_its_task_and_classes(task: Task, tmp_path: Path) -> None:
    folder = sources.huggingface_folder(tmp_path / "my Model", task)
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Card\n")
    recipe, made = create(folder, tmp_path / "recipes" / "recipe.yaml")
    assert recipe.task == task
    assert recipe.license == "apache-2.0"
    assert recipe.name == "my-model"
    model = only_model(recipe)
    assert isinstance(model, HuggingFaceModel)
    assert model.folder == "../my Model"
    factory, contract = sources.TASK_DATA[task]
    assert recipe.input.dtype == contract["dtype"]
    if task.endswith("-classification"):
        data = getattr(sources, factory)()
        assert recipe.data.classes == data.classes
    lines = (tmp_path / "recipes" / "recipe.yaml").read_text().splitlines()
    assert any("data." in lines[number - 1] for number in made.to_fill)


@pytest.mark.slow
def test_a_language_model_gets_the_formats_of_its_kind(tmp_path: Path) -> None:
    folder = sources.huggingface_folder(tmp_path / "chat", "text-generation")
    recipe, _ = create(folder, tmp_path / "recipe.yaml")
    assert [variant.format for variant in recipe.listed] == ["gguf", "gguf", "onnx"]
    assert recipe.listed[0].precision == "q8_0"  # rows of 32 weights, and K-quants take 256
    assert recipe.prompts is not None
    assert "# - {id: mlx-4bit, model: model, format: mlx" in (tmp_path / "recipe.yaml").read_text()


@pytest.mark.slow
def test_code_and_a_table_make_a_recipe_with_nothing_left_but_the_license(place: Path) -> None:
    recipe, made = create(
        "users_network:torch_module", place / "a.yaml", data=place / "rows.csv", label="kind"
    )
    assert [column.name for column in recipe.input.columns] == ["a", "b", "c"]
    assert recipe.data.file == "rows.csv"
    assert recipe.data.label == "kind"
    model = only_model(recipe)
    assert isinstance(model, PythonModel) and model.training is not None
    lines = (place / "a.yaml").read_text().splitlines()
    assert [lines[number - 1].split(":")[0] for number in made.to_fill] == ["license"]
    data = sources.three_columns()
    for i, column in enumerate(recipe.input.columns):
        assert column.minimum is not None and column.maximum is not None
        assert column.minimum <= data.inputs[:, i].min() < data.inputs[:, i].max() <= column.maximum


@pytest.mark.slow
def test_a_trained_module_is_not_trained_again(place: Path) -> None:
    recipe, _ = create("users_network:torch_module", place / "a.yaml", trained=True)
    model = only_model(recipe)
    assert isinstance(model, PythonModel) and model.training is None


@pytest.mark.slow
def test_sklearn_code_and_files(place: Path) -> None:
    import skops.io
    from sklearn.linear_model import LogisticRegression

    recipe, _ = create("users_network:pipeline", place / "a.yaml", data=place / "rows.csv", label="kind")
    assert isinstance(only_model(recipe), SklearnModel)
    data = sources.three_columns()
    fitted = LogisticRegression().fit(data.inputs, [data.classes[label] for label in data.labels])
    skops.io.dump(fitted, place / "kinds.skops")
    recipe, _ = create(place / "kinds.skops", place / "b.yaml")
    assert recipe.input.shape == (3,)
    assert recipe.data.classes == data.classes
    (place / "two.csv").write_text("a,b,kind\n1,2,a\n3,4,b\n")
    with pytest.raises(ConfigError, match=r"rows of the shape \[3\], and the data has \[2\]"):
        create(place / "kinds.skops", place / "c.yaml", data=place / "two.csv", label="kind")
    (place / "others.csv").write_text("a,b,c,kind\n1,2,3,a\n3,4,5,other\n")
    with pytest.raises(ConfigError, match="has the class 'other'"):
        create(place / "kinds.skops", place / "c.yaml", data=place / "others.csv", label="kind")


@pytest.mark.slow
def test_types_that_skops_does_not_know_are_named_and_not_trusted(place: Path) -> None:
    import skops.io
    from sklearn.tree import DecisionTreeClassifier

    data = sources.three_columns()
    skops.io.dump(DecisionTreeClassifier().fit(data.inputs, data.labels), place / "tree.skops")
    recipe, made = create(place / "tree.skops", place / "a.yaml")
    lines = (place / "a.yaml").read_text().splitlines()
    assert any("if you trust them" in lines[number - 1] for number in made.to_fill)
    model = only_model(recipe)
    assert isinstance(model, SklearnModel) and model.trusted_types == ()
    assert "# trusted_types: [sklearn.tree._tree.Tree]" in (place / "a.yaml").read_text()


@pytest.mark.slow
def test_an_onnx_file_tells_its_input_and_output(place: Path) -> None:
    import onnx
    from onnx import helper

    x = helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    y = helper.make_tensor_value_info("classes", onnx.TensorProto.FLOAT, ["batch", 64])
    nodes = [helper.make_node("Flatten", ["pixels"], ["f"]), helper.make_node("Softmax", ["f"], ["classes"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y])), place / "Net 1.onnx")
    recipe, _ = create(place / "Net 1.onnx", place / "a.yaml")
    assert (recipe.name, recipe.task) == ("net-1", "image-classification")
    assert (recipe.input.name, recipe.input.shape, recipe.output) == ("pixels", (1, 8, 8), "classes")
    assert isinstance(only_model(recipe), OnnxModel)
    (place / "broken.onnx").write_bytes((place / "Net 1.onnx").read_bytes()[:50])
    with pytest.raises(ArtifactError):
        create(place / "broken.onnx", place / "b.yaml")


@pytest.mark.slow
def test_a_gguf_file_tells_its_license_and_what_it_can_become(tmp_path: Path) -> None:
    import gguf

    file = tmp_path / "Chat-F16.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_license("MIT")
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(512)
    writer.add_tensor("token_embd.weight", np.zeros((4, 256), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    recipe, _ = create(file, tmp_path / "a.yaml")
    assert recipe.license == "MIT"
    assert [variant.precision for variant in recipe.listed] == ["q4_k_m", "f16"]
    assert recipe.prompts is not None and recipe.prompts.chat_template is not None


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nowhere", "There is no nowhere"),
        ("rows.csv", "it is not a Hugging Face folder"),
        ("model.pkl", "Save weights as safetensors"),
        ("empty", "there is no config.json in it"),
        ("users_network:nobody", "no 'users_network:nobody'"),
        ("users_network:needs_more", "calling it without arguments raised TypeError"),
        ("users_network:no_model", "it returns a int"),
    ],
)
def test_what_cannot_be_told_is_refused(
    model: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "empty").mkdir()
    (place / "model.pkl").write_bytes(b"\x80\x04N.")
    monkeypatch.chdir(place)
    with pytest.raises(ConfigError, match=words) as caught:
        create_recipe(model, Path("a.yaml"), data=None, label="label", task=None, name=None, trained=False)
    assert caught.value.remedy
    assert not Path("a.yaml").exists()


def test_nothing_is_written_over(place: Path) -> None:
    (place / "a.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        create_recipe(
            "users_network:pipeline",
            place / "a.yaml",
            data=None,
            label="l",
            task=None,
            name=None,
            trained=False,
        )
    assert (place / "a.yaml").read_text() == "mine"


@pytest.mark.slow
def test_the_alternatives_in_comments_are_sound_too(place: Path) -> None:
    create("users_network:pipeline", place / "a.yaml", data=place / "rows.csv", label="kind")
    text = (place / "a.yaml").read_text()
    start, end = text.index("variants:\n"), text.index("# variants: auto")
    searched = text[:start] + changed(
        text[end:], ("# variants: auto", "variants: auto"), ("# search:", "search:")
    )
    searched = changed(searched, ("variant: onnx-fp32, ", ""))
    assert parse_recipe(searched.encode(), "recipe.yaml").search is not None
    lines = [
        line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# evaluation:", "#   "))
    ]
    cased = text + "\n" + "\n".join(line.replace("#   ", "  ") for line in lines) + "\n"
    assert parse_recipe(cased.encode(), "recipe.yaml").evaluation.robustness is not None


@pytest.mark.slow
def test_the_commands(place: Path) -> None:
    runner = CliRunner()
    options = ["--data", str(place / "rows.csv"), "--label", "kind", "--name", "kinds", "--json"]
    done = runner.invoke(new, ["users_network:pipeline", "--out", str(place / "r.yaml"), *options])
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout)
    assert line["source"] == "sklearn"
    assert read_recipe(Path(line["recipe"])).name == "kinds"
    assert runner.invoke(schema, []).stdout == schema_text()
    assert set(TASKS) == set(sources.TASK_DATA)
