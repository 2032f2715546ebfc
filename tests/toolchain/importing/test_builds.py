"""Sources through `edgeops build`: what is hostile ends the build with exit code 3 and one sentence."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeops.errors import ArtifactError
from edgeops_testkit.onnx_models import model_of, save
from edgeops_testkit.recipes import Builder, last_line
from edgeops_testkit.sources import three_columns, three_columns_graph

pytestmark = pytest.mark.slow

RECIPE = """
schema_version: "1.0"
name: columns
version: 1.0.0
task: tabular-classification
description: Tells three classes by three numbers.
license: CC0-1.0
date: 2026-01-01
data: {file: rows.npz, seed: 1, calibration: 0.2, held_out: 0.3}
input: {name: x, shape: [3]}
models:
  net: {source: onnx, file: net.onnx}
variants:
  - {id: onnx-fp32, model: net, precision: fp32, memory_budget_mb: 64}
selftest: {rows: 4, atol: 0.001}
gates:
  - {metric: accuracy, variant: onnx-fp32, at_least: 0.7}
  - {metric: parity_max_abs, variant: onnx-fp32, at_most: 1.0e-6}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the recipe, the data and the model."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    data = three_columns()
    np.savez(
        folder / "rows.npz",
        inputs=data.inputs,
        labels=data.labels,
        classes=np.array(data.classes),
        site=data.attributes["site"],
    )
    onnx.save(three_columns_graph(), folder / "net.onnx")
    return folder


def test_a_file_of_rows_and_a_file_of_a_model_become_a_bundle(desk: Path, tmp_path: Path) -> None:
    line = Builder.at(tmp_path / "desk").build(desk)
    bundle = Path(line["path"])
    assert line["variants"][0]["quality"]["accuracy"] >= 0.7
    assert line["variants"][0]["quality"]["parity_max_abs"] == 0
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    assert manifest["classification"]["classes"] == ["a", "b", "c"]


CONVOLUTIONS = """
schema_version: "1.0"
name: stripes
version: 1.0.0
task: image-classification
description: Tells stripes by convolutions.
license: CC0-1.0
date: 2026-01-01
data: {file: rows.npz, seed: 1, calibration: 0.3, held_out: 0.3}
input: {name: x, shape: [1, 12, 12]}
models:
  net: {source: onnx, file: net.onnx}
variants:
  - {id: onnx-int8, model: net, precision: int8, memory_budget_mb: 64}
selftest: {rows: 4, atol: 0.05}
gates:
  - {metric: parity_max_abs, variant: onnx-int8, at_most: 0.1}
"""


def test_a_convolutional_network_becomes_int8_in_its_convolutions(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = {
        "k": rng.normal(size=(16, 1, 3, 3)).astype(np.float32) / 3,
        "l": rng.normal(size=(64, 16, 3, 3)).astype(np.float32) / 12,
        "w": rng.normal(size=(64, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "l"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["g"]),
        helper.make_node("Softmax", ["g"], ["probabilities"]),
    ]
    model = model_of(nodes, weights, inputs={"x": ["n", 1, 12, 12]}, outputs={"probabilities": ["n", 2]})
    save(tmp_path, model).rename(tmp_path / "net.onnx")
    labels = np.arange(120) % 2
    images = rng.normal(size=(120, 1, 12, 12)) + np.sin(np.arange(12) * 2) * labels[:, None, None, None]
    np.savez(tmp_path / "rows.npz", inputs=images.astype(np.float32), labels=labels, classes=["no", "yes"])
    (tmp_path / "recipe.yaml").write_text(CONVOLUTIONS)
    line = Builder.at(tmp_path / "desk").build(tmp_path)
    assert line["gates"][0]["value"] > 0
    assert line["variants"][0]["size_bytes"] < (tmp_path / "net.onnx").stat().st_size / 2
    made = onnx.load(next(Path(line["path"]).rglob("*.onnx")))
    floats = [tensor for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(tensor.dims) <= 64 for tensor in floats)


def a_pickle(desk: Path) -> None:
    (desk / "net.onnx").write_bytes(pickle.dumps({"weights": [1.0]}))


def hard_link(desk: Path) -> None:
    (desk / "other.onnx").hardlink_to(desk / "net.onnx")


def value_beyond(desk: Path) -> None:
    text = (desk / "recipe.yaml").read_text()
    (desk / "recipe.yaml").write_text(text.replace("shape: [3]}", "shape: [3], maximum: 1.5}"))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [(a_pickle, "net.onnx is a pickle"), (hard_link, "hard link"), (value_beyond, "above the maximum 1.5")],
)
def test_what_cannot_be_trusted_ends_the_build(
    desk: Path, tmp_path: Path, spoil: Callable[[Path], None], what: str
) -> None:
    spoil(desk)
    builder = Builder.at(tmp_path / "desk")
    done = builder.run(desk)
    assert done.returncode == ArtifactError.exit_code
    error = last_line(done.stdout)["error"] if done.stdout.strip() else {"message": done.stderr}
    assert what in error["message"]
    assert "Traceback" not in done.stderr
    assert not builder.out.exists() or not list(builder.out.glob("*/model.sig"))
