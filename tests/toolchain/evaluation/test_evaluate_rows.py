"""The evaluation of rows in ONNX Runtime, as a build runs it: figures, laws, and what it refuses."""

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeops.errors import ArtifactError, ConfigError, EdgeopsError, InferenceError
from edgeops.manifest import TensorSpec
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.evaluation_steps import (
    CLASSES,
    FEATURES,
    linear_answers,
    read_json,
    rows_config,
    rows_folder,
    run_step,
)
from edgeops_testkit.graphs import write_linear
from edgeops_testkit.text_models import CLASSES as INTENTS
from edgeops_testkit.text_models import TEXTS, write_text_variant
from toolchain.evaluation.report import read_evaluation
from toolchain.evaluation.rows import Asker
from toolchain.handover.arrays import load_arrays, save_arrays

pytestmark = pytest.mark.slow

EVERYTHING = rows_config(
    groups=["site"],
    behaviours=[
        {"name": "passes", "input": [3, 0, 0, 0], "expect": "circle", "min_confidence": 0.0},
        {"name": "fails", "input": [3, 0, 0, 0], "expect": "line", "min_confidence": 0.0},
    ],
    robustness={"seed": 5, "noise_std": 0.5, "typo_rate": None},
)


class Meeting:
    """A fake engine, of which two calls must be under way at once for either to end (see `Engine`)."""

    def __init__(self) -> None:
        self.inputs = (TensorSpec(name="pixels", dtype="FP32", shape=(-1, FEATURES)),)
        self.outputs = (TensorSpec(name="probabilities", dtype="FP32", shape=(-1, FEATURES)),)
        self._barrier = threading.Barrier(2)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._barrier.wait(timeout=30)
        return {"probabilities": inputs["pixels"]}

    def close(self) -> None:
        self._barrier.abort()


def test_as_many_rows_are_under_way_as_there_are_processors_and_keep_their_order() -> None:
    rows = np.arange(128 * FEATURES, dtype=np.float32).reshape(128, FEATURES)  # an even number of parts
    answers = Asker(Meeting(), rows_config(), processors=2).ask_rows(rows)
    np.testing.assert_array_equal(answers, rows)


class Given:
    """The inputs of an evaluate step, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = rows_folder(folder / "data")
        self.model = folder / "model"
        write_linear(self.model / "variant" / "model.onnx", features=FEATURES, classes=len(CLASSES))
        self.answers = folder / "answers"
        self.answers.mkdir()
        held_out = load_arrays(self.data / "data.npz")["held_out_inputs"]
        save_arrays(self.answers / "answers.npz", {"held_out": linear_answers(held_out)})

    def evaluate(self, config: dict[str, Any], name: str = "out", *, processors: int = 1) -> Path:
        return run_step(
            "evaluate_rows",
            self.folder / name,
            config,
            processors=processors,
            data=self.data,
            model=self.model,
            answers=self.answers,
        )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def whole(given: Given) -> Path:
    return given.evaluate(EVERYTHING, "whole")


def test_the_outcome_does_not_depend_on_the_processors(given: Given, whole: Path) -> None:
    many = given.evaluate(EVERYTHING, "many", processors=4)
    for name in ("evaluation.json", "outputs.npz"):
        assert (many / name).read_bytes() == (whole / name).read_bytes()


def test_the_figures_are_those_of_the_rows(given: Given, whole: Path) -> None:
    told = read_evaluation(read_json(whole / "evaluation.json"))
    arrays = load_arrays(given.data / "data.npz")
    right = linear_answers(arrays["held_out_inputs"]).argmax(axis=1) == arrays["held_out_labels"]
    assert told.metrics["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert told.metrics["parity_agreement"] == 1.0
    assert told.metrics["parity_max_abs"] < 1e-5
    assert told.source["accuracy"] == told.metrics["accuracy"]
    assert told.metrics["size_bytes"] == (given.model / "variant" / "model.onnx").stat().st_size
    rome = arrays["held_out_attribute_site"] == "rome"
    assert told.slices["site=rome"]["accuracy"] == pytest.approx(right[rome].mean(), abs=1e-6)
    assert told.slices["site=rome"]["rows"] == 40
    gap = abs(right[rome].mean() - right[~rome].mean())
    assert told.groups["site"].gap == pytest.approx(gap, abs=1e-5)
    assert told.figure("group_gap", group="site") == told.metrics["group_gap"]
    assert set(told.slices) >= {f"class={name}" for name in CLASSES}
    assert told.confusion is not None
    assert sum(map(sum, told.confusion)) == 120


def test_cases_and_noise_are_told(whole: Path) -> None:
    told = read_evaluation(read_json(whole / "evaluation.json"))
    got = {case.name: case.passed for case in told.behaviours}
    assert got["passes"] != got["fails"]
    assert told.metrics["behaviours_passed"] == 0.5
    assert told.robustness is not None
    assert told.robustness["noise_std"] == 0.5
    assert told.metrics["robust_accuracy"] == told.robustness["accuracy"]
    assert told.robustness["accuracy"] < told.metrics["accuracy"]


def test_what_is_measured_stands_apart(whole: Path) -> None:
    measured = read_json(whole / "measurements.json")
    assert set(measured) == {"latency_p50_ms", "latency_p99_ms", "memory_bytes"}
    assert all(value > 0 for value in measured.values())
    assert not set(measured) & set(read_json(whole / "evaluation.json")["metrics"])


def test_two_evaluations_are_the_same_bytes(given: Given, whole: Path) -> None:
    again = given.evaluate(EVERYTHING, "again")
    for name in ("evaluation.json", "outputs.npz"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_outputs_are_what_later_steps_need(given: Given, whole: Path) -> None:
    outputs = load_arrays(whole / "outputs.npz")
    calibration = load_arrays(given.data / "data.npz")["calibration_inputs"]
    assert outputs["calibration"] == pytest.approx(linear_answers(calibration), abs=1e-5)
    assert np.array_equal(outputs["selftest_inputs"], calibration[:4])
    assert outputs["selftest_outputs"] == pytest.approx(linear_answers(calibration[:4]), abs=1e-5)


def test_one_scaled_weight_shows_in_parity(given: Given, tmp_path: Path) -> None:
    damaged = Given(tmp_path)
    path = damaged.model / "variant" / "model.onnx"
    model = onnx.load(path)
    weights = next(t for t in model.graph.initializer if t.name == "W")
    values = numpy_helper.to_array(weights).copy()
    values[1, 2] *= 1.5
    weights.CopyFrom(numpy_helper.from_array(values, "W"))
    onnx.save(model, path)
    told = read_evaluation(read_json(damaged.evaluate(rows_config()) / "evaluation.json"))
    assert told.metrics["parity_max_abs"] > 0.01


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"output": "logits"}, ArtifactError, "logits"),
        ({"input": {**rows_config()["input"], "name": "image"}}, ArtifactError, "image"),
        ({"input": {**rows_config()["input"], "shape": [5]}}, ArtifactError, "5"),
        ({"slices": ["age"]}, ConfigError, "age"),
        ({"format": "gguf"}, ArtifactError, "model.gguf"),
        ({"robustness": {"seed": 1, "noise_std": None, "typo_rate": 0.1}}, ConfigError, "noise_std"),
        (
            {"behaviours": [{"name": "b", "input": [1], "expect": "line", "min_confidence": 0}]},
            ConfigError,
            "'b'",
        ),
    ],
)
def test_what_does_not_fit_the_recipe_is_refused(
    given: Given, tmp_path: Path, change: dict[str, Any], error: type[EdgeopsError], match: str
) -> None:
    with pytest.raises(error, match=match):
        run_step(
            "evaluate_rows",
            tmp_path / "out",
            rows_config(**change),
            data=given.data,
            model=given.model,
            answers=given.answers,
        )


def write_greedy(path: Path) -> None:
    """Has the interface of `write_linear`, and asks for 160 GB when it runs."""
    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("MatMul", ["pixels", "W"], ["scores"]),
        helper.make_node("Add", ["scores", "zero"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(CLASSES)])],
        [
            numpy_helper.from_array(np.array([40_000_000_000], np.int64), "many"),
            numpy_helper.from_array(np.ones((FEATURES, len(CLASSES)), np.float32), "W"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def test_a_graph_that_asks_for_all_memory_gets_an_error(tmp_path: Path) -> None:
    greedy = Given(tmp_path)
    write_greedy(greedy.model / "variant" / "model.onnx")
    with pytest.raises((ArtifactError, InferenceError)):
        greedy.evaluate(rows_config())


def text_step(folder: Path, head: Any, task: str, labels: np.ndarray, **changes: Any) -> Path:
    """Evaluates a text model of the testkit against its own answers."""
    from edgeops.engines.base import load_engine
    from edgeops.serving.text_tensor import text_array

    variant = write_text_variant(folder / "bundle", head=head)
    shutil.copytree(folder / "bundle" / "variants" / variant.id, folder / "model" / "variant")
    texts = [text for text, _ in TEXTS]
    engine = load_engine(variant, folder / "bundle")
    output = engine.outputs[0].name
    answers = engine.run({"text": text_array(texts)})[output]
    arrays = {f"{p}_inputs": np.array(texts) for p in ("train", "calibration", "held_out")}
    arrays |= {f"{p}_labels": labels for p in ("train", "calibration", "held_out")}
    arrays["held_out_attribute_site"] = np.array(["oslo"] * len(texts))
    for name in ("data", "answers"):
        (folder / name).mkdir()
    save_arrays(folder / "data" / "data.npz", arrays)
    save_arrays(folder / "answers" / "answers.npz", {"held_out": answers})
    (folder / "data" / "data.json").write_text('{"classes": ["light", "music", "weather"]}')
    given = {**rows_config()["input"], "name": "text", "dtype": "BYTES", "shape": []}
    config = rows_config(task=task, input=given, output=output, **changes)
    roles = {name: folder / name for name in ("data", "model", "answers")}
    return run_step("evaluate_rows", folder / "out", config, **roles)


def test_texts_are_classified_and_mistyped(tmp_path: Path) -> None:
    labels = np.array([INTENTS.index(name) for _, name in TEXTS])
    out = text_step(
        tmp_path,
        "sequence",
        "text-classification",
        labels,
        behaviours=[{"name": "rain", "input": "will it rain", "expect": "weather", "min_confidence": 0}],
        robustness={"seed": 1, "typo_rate": 0.2, "noise_std": None},
    )
    told = read_evaluation(read_json(out / "evaluation.json"))
    assert told.metrics["accuracy"] == 1.0
    assert told.behaviours[0].passed
    assert told.robustness is not None
    assert told.robustness["same_answer"] == told.robustness["accuracy"]
    vectors = load_arrays(out / "outputs.npz")
    assert vectors["selftest_inputs"].tolist() == [text for text, _ in TEXTS[:4]]


def test_words_are_classified(tmp_path: Path) -> None:
    words = [text.split() for text, _ in TEXTS]
    labels = np.full((len(words), max(map(len, words))), -100)
    for row, line in enumerate(words):
        labels[row, : len(line)] = 1
    out = text_step(tmp_path, "word", "token-classification", labels)
    told = read_evaluation(read_json(out / "evaluation.json"))
    assert told.items == sum(map(len, words))
    assert told.metrics["parity_agreement"] > 0.95
    assert told.slices["class=music"]["rows"] == told.items
    assert load_arrays(out / "outputs.npz")["calibration"].shape == (len(words), labels.shape[1], 3)


def test_embeddings_are_compared_with_their_neighbours(tmp_path: Path) -> None:
    labels = np.array([INTENTS.index(name) for _, name in TEXTS])
    out = text_step(tmp_path, "embedding", "feature-extraction", labels)
    told = read_evaluation(read_json(out / "evaluation.json"))
    assert told.metrics["cosine_min"] == pytest.approx(1.0, abs=1e-5)
    assert told.source["neighbour_accuracy"] == told.metrics["neighbour_accuracy"]
    assert told.dimensions == load_arrays(out / "outputs.npz")["calibration"].shape[1]
    assert told.slices["class=music"]["rows"] == 4
    assert told.slices["site=oslo"]["neighbour_accuracy"] == told.metrics["neighbour_accuracy"]


def test_a_baseline_is_taken_out_of_its_bundle_and_evaluated(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "old", key=None)
    config = {"name": "digits", "task": "classification"}
    out = run_step("baseline", tmp_path / "baseline", config, bundle=bundle)
    told = read_json(out / "baseline.json")
    assert (told["version"], told["variant"], told["format"]) == ("1.0.0", "onnx-fp32", "onnx")
    model = bundle / "variants" / "onnx-fp32" / "model.onnx"
    assert (out / "variant" / "model.onnx").read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [({"name": "sensors"}, "sensors"), ({"task": "text-generation"}, "text-generation")],
)
def test_a_baseline_of_something_else_is_refused(tmp_path: Path, change: dict[str, str], match: str) -> None:
    bundle = make_bundle(tmp_path / "old", key=None)
    with pytest.raises(ArtifactError, match=match):
        config = {"name": "digits", "task": "classification", **change}
        run_step("baseline", tmp_path / "baseline", config, bundle=bundle)


def test_a_baseline_that_was_changed_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "old", key=None)
    path = bundle / "variants" / "onnx-fp32" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="not the file that its manifest lists"):
        run_step("baseline", tmp_path / "out", {"name": "digits", "task": "classification"}, bundle=bundle)


def test_a_baseline_with_other_classes_cannot_be_compared(given: Given, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "old", key=None)
    config = {"name": "digits", "task": "classification"}
    baseline = run_step("baseline", tmp_path / "baseline", config, bundle=bundle)
    with pytest.raises(ArtifactError, match="10 classes"):
        run_step(
            "evaluate_rows",
            tmp_path / "out",
            rows_config(variant="baseline", format=None, precision=None),
            data=given.data,
            model=baseline,
            answers=given.answers,
        )
