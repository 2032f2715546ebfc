"""The in-process path with a real engine and a real ring: answers, confidence, what is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from device_agent.core.rows import RingMeta
from device_agent.core.window import Block, window_of
from device_agent.serving.predictor import Predictor
from device_agent.telemetry.recorder import RingWriter
from device_agent.telemetry.ring_reader import RingReader
from edgeops.bundle import read_manifest
from edgeops.confidence import calibrated
from edgeops.engines.base import load_engine
from edgeops.errors import ArtifactError, BadRequestError, InferenceError
from edgeops.manifest import Classification, ColumnSpec, Feature, Manifest, ManifestFields, TensorSpec
from edgeops.messages import Window
from edgeops.serving.host import Array
from edgeops.serving.text_tensor import text_array
from edgeops.sketches import Sketch
from edgeops_testkit.bundles import DEVICE_VARIANT, digits_data, make_bundle
from edgeops_testkit.graphs import variant_for, write_imputing, write_linear, write_two_in_two_out
from edgeops_testkit.rings import BUNDLE
from edgeops_testkit.text_models import write_text_variant


class BrokenEngine:
    """A fake engine that loads and then fails on every run, as one does when its memory is gone."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        raise InferenceError("The engine is out of memory.")

    def close(self) -> None:
        return


class Setup:
    """A predictor and the window of what it has recorded."""

    def __init__(self, path: Path, engine: Any, manifest: Manifest) -> None:
        meta = RingMeta.of(manifest, BUNDLE, DEVICE_VARIANT, 0)
        self.predictor = Predictor(engine, manifest, RingWriter(path, 1 << 20, meta))
        self._path = path

    def window(self) -> Window:
        reader = RingReader(self._path)
        head = reader.head()
        block = Block(reader.rows(0, head), reader.totals(0), reader.totals(head))
        times = {"start_ms": 0, "end_ms": 1}
        return window_of(block, reader.meta, reader.layout, device="d", session=1, sequence=1, **times)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), key=None)


@pytest.fixture
def setup(bundle: Path, tmp_path: Path) -> Iterator[Setup]:
    manifest = read_manifest(bundle)
    engine = load_engine(manifest.variant(DEVICE_VARIANT), bundle)
    made = Setup(tmp_path / "a.ring", engine, manifest)
    yield made
    made.predictor.close()


def test_answers_are_the_engines_and_recorded(setup: Setup) -> None:
    images = digits_data()[2][:50]
    outputs = [setup.predictor.predict({"image": image[None]})["probabilities"] for image in images]
    window = setup.window()
    probabilities = np.concatenate(outputs)
    expected = probabilities.argmax(axis=1)
    assert window.requests == 50
    assert window.classes == {
        str(digit): int(count) for digit, count in enumerate(np.bincount(expected)) if count
    }
    assert window.features["mean"].mean == pytest.approx(images.reshape(50, -1).mean(axis=1).mean(), rel=1e-5)
    confidence = Sketch.parse(window.confidence)
    assert confidence.quantiles([0, 1]) == [probabilities.max(1).min(), probabilities.max(1).max()]
    assert Sketch.parse(window.latency).quantile(0) > 0


def test_a_batch_is_one_request(setup: Setup) -> None:
    images = digits_data()[2][:20]
    single = np.concatenate(
        [setup.predictor.run({"image": image[None]}).outputs["probabilities"] for image in images]
    )
    prediction = setup.predictor.run({"image": images})
    assert prediction.predicted == single.argmax(axis=1).tolist()
    assert prediction.confidence == pytest.approx(single.max(axis=1).min(), rel=1e-5)
    setup.predictor.predict({"image": images})
    window = setup.window()
    assert (window.requests, sum(window.classes.values())) == (1, 20)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"other": np.zeros((1, 1, 8, 8), np.float32)},
        {"image": np.zeros((1, 1, 8, 8), np.float64)},
        {"image": np.zeros((1, 64), np.float32)},
        {"image": np.zeros((1, 1, 8, 9), np.float32)},
    ],
)
def test_malformed_inputs_are_refused_and_counted(setup: Setup, inputs: dict[str, Array]) -> None:
    with pytest.raises(BadRequestError):
        setup.predictor.predict(inputs)
    window = setup.window()
    assert (window.rejected, window.requests, window.errors) == (1, 0, {})


def test_engine_failures_are_counted_with_their_inputs(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    engine = BrokenEngine(manifest.fields.inputs, manifest.fields.outputs)
    setup = Setup(tmp_path / "a.ring", engine, manifest)
    for size in (1, 3):
        with pytest.raises(InferenceError):
            setup.predictor.predict({"image": digits_data()[2][:size]})
    window = setup.window()
    assert (window.requests, window.errors, window.rejected) == (2, {"inference": 2}, 0)
    assert Sketch.parse(window.latency).count == 0
    assert window.features["mean"].count == 4
    assert window.classes == {}


def predictor_of(bundle: Path, path: Path, **changes: Any) -> Setup:
    """A predictor of the bundle with other fields in its manifest."""
    manifest = Manifest.create(msgspec.structs.replace(fields_of(bundle), **changes))
    return Setup(path, load_engine(manifest.variant(DEVICE_VARIANT), bundle), manifest)


def test_values_beyond_their_bounds_are_answered_and_counted(setup: Setup) -> None:
    image = digits_data()[2][:1]
    for inputs in (image, image * 16, np.concatenate([image, image - 1]), image):
        setup.predictor.predict({"image": inputs})
    window = setup.window()
    assert (window.requests, window.rejected, window.outside) == (4, 0, 2)


def test_a_request_that_fails_is_counted_as_outside_too(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    engine = BrokenEngine(manifest.fields.inputs, manifest.fields.outputs)
    setup = Setup(tmp_path / "a.ring", engine, manifest)
    for scale in (1, 16):
        with pytest.raises(InferenceError):
            setup.predictor.predict({"image": digits_data()[2][:1] * np.float32(scale)})
    window = setup.window()
    assert (window.requests, window.outside) == (2, 1)


def test_where_the_contract_says_so_they_are_refused(bundle: Path, tmp_path: Path) -> None:
    (image,) = fields_of(bundle).inputs
    refusing = msgspec.structs.replace(image, outside="refuse")
    setup = predictor_of(bundle, tmp_path / "a.ring", inputs=(refusing,))
    setup.predictor.predict({"image": digits_data()[2][:1]})
    with pytest.raises(BadRequestError, match="above the maximum 1, up to 16") as caught:
        setup.predictor.predict({"image": digits_data()[2][:1] * 16})
    assert caught.value.subject == "image"
    window = setup.window()
    assert (window.requests, window.rejected, window.outside) == (1, 1, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_in_process_too(setup: Setup, value: float) -> None:
    image = digits_data()[2][:1].copy()
    image[0, 0, 3, 3] = value
    with pytest.raises(BadRequestError, match="not finite"):
        setup.predictor.predict({"image": image})
    assert setup.window().rejected == 1


def test_nulls_of_a_table_reach_the_model_and_the_profile(bundle: Path, tmp_path: Path) -> None:
    """A graph that takes a null for zero, as an imputer does."""
    model = write_imputing(tmp_path / "bundle" / "model.onnx")
    variant = variant_for(model, tmp_path / "bundle", variant_id=DEVICE_VARIANT)
    columns = (ColumnSpec(name="age", minimum=0.0), ColumnSpec(name="income", max_null_rate=0.5))
    fields = msgspec.structs.replace(
        fields_of(bundle),
        variants=(variant,),
        inputs=(TensorSpec(name="row", dtype="FP32", shape=(-1, 2), columns=columns),),
        outputs=(TensorSpec(name="known", dtype="FP32", shape=(-1, 2)),),
        classification=None,
        features=(
            Feature(name="income", input="row", kind="element", index=1),
            Feature(name="mean", input="row", kind="mean"),
        ),
        fallback=None,
    )
    setup = Setup(tmp_path / "a.ring", load_engine(variant, tmp_path / "bundle"), Manifest.create(fields))
    for row in ([3.0, np.nan], [5.0, 7.0], [-1.0, np.nan]):
        setup.predictor.predict({"row": np.array([row], np.float32)})
    with pytest.raises(BadRequestError, match="'age'"):
        setup.predictor.predict({"row": np.array([[np.nan, 1.0]], np.float32)})
    window = setup.window()
    assert (window.requests, window.rejected, window.outside) == (3, 1, 1)
    assert (window.features["income"].count, window.features["income"].invalid) == (1, 2)
    assert window.features["mean"].mean == pytest.approx((3 + 6 - 1) / 3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_confidence_is_that_of_the_temperature(bundle: Path, tmp_path: Path, temperature: float) -> None:
    fallback = fields_of(bundle).fallback
    assert fallback is not None
    setup = predictor_of(
        bundle,
        tmp_path / "a.ring",
        fallback=msgspec.structs.replace(fallback, temperature=temperature),
    )
    images = digits_data()[2][:30]
    batch = setup.predictor.run({"image": images})
    expected = calibrated(batch.outputs["probabilities"], temperature).max(axis=1)
    np.testing.assert_allclose(batch.confidences, expected, rtol=1e-6)
    for number, image in enumerate(images):
        alone = setup.predictor.run({"image": image[None]})
        assert alone.confidence == pytest.approx(expected[number], rel=1e-4)
        assert alone.predicted == [batch.predicted[number]]


def test_a_classifier_of_words_is_as_sure_as_its_least_sure_word(bundle: Path, tmp_path: Path) -> None:
    variant = write_text_variant(tmp_path / "bundle", DEVICE_VARIANT, head="word", sharpness=1.0)
    fields = msgspec.structs.replace(
        fields_of(bundle),
        variants=(variant,),
        inputs=(TensorSpec(name="text", dtype="BYTES", shape=(-1,), max_characters=80),),
        outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(-1, -1, 3)),),
        classification=Classification(output="probabilities", classes=("a", "b", "c")),
        features=(Feature(name="words", input="text", kind="words"),),
        fallback=None,
    )
    setup = Setup(tmp_path / "a.ring", load_engine(variant, tmp_path / "bundle"), Manifest.create(fields))
    texts = text_array(["turn on the light", "play"])
    prediction = setup.predictor.run({"text": texts})
    words = prediction.outputs["probabilities"].max(axis=2)
    assert prediction.confidences == [words[0].min(), words[1, 0]]
    assert prediction.confidence == min(words[0].min(), words[1, 0])
    assert prediction.predicted == [-1, -1]
    setup.predictor.predict({"text": texts})
    setup.predictor.predict({"text": texts[1:]})
    window = setup.window()
    assert (window.requests, window.classes) == (2, {})
    assert Sketch.parse(window.confidence).count == 3
    assert window.features["words"].maximum == 4


def test_labels_are_counted(setup: Setup) -> None:
    for right in (True, True, False):
        setup.predictor.label(right)
    window = setup.window()
    assert (window.labels_seen, window.labels_right, window.requests) == (3, 2, 0)


def fields_of(bundle: Path) -> ManifestFields:
    return read_manifest(bundle).fields


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": (TensorSpec(name="picture", dtype="FP32", shape=(-1, 1, 8, 8)),), "features": ()},
        {"inputs": (TensorSpec(name="image", dtype="FP64", shape=(-1, 1, 8, 8)),)},
        {"inputs": (TensorSpec(name="image", dtype="FP32", shape=(-1, 1, 8, 9)),)},
        {"inputs": (TensorSpec(name="image", dtype="FP32", shape=(-1, 64)),)},
        {"classification": Classification(output="probabilities", classes=("a", "b"))},
    ],
)
def test_a_graph_that_is_not_what_its_manifest_says_is_refused(
    bundle: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    manifest = Manifest.create(msgspec.structs.replace(fields_of(bundle), **change))
    engine = load_engine(manifest.variant(DEVICE_VARIANT), bundle)
    with pytest.raises(ArtifactError):
        Setup(tmp_path / "a.ring", engine, manifest)


def test_dimensions_that_only_the_manifest_fixes_are_checked(bundle: Path, tmp_path: Path) -> None:
    """The raw copy in a row has the size that the manifest says: another must never get that far."""
    model = write_linear(tmp_path / "bundle" / "model.onnx", features=4, classes=3)
    variant = variant_for(model, tmp_path / "bundle", variant_id=DEVICE_VARIANT)
    fields = msgspec.structs.replace(
        fields_of(bundle),
        variants=(variant,),
        inputs=(TensorSpec(name="pixels", dtype="FP32", shape=(1, 4)),),
        outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(-1, 3)),),
        classification=Classification(output="probabilities", classes=("a", "b", "c")),
        features=(),
        fallback=None,
    )
    setup = Setup(tmp_path / "a.ring", load_engine(variant, tmp_path / "bundle"), Manifest.create(fields))
    setup.predictor.predict({"pixels": np.ones((1, 4), np.float32)})
    with pytest.raises(BadRequestError):
        setup.predictor.predict({"pixels": np.ones((2, 4), np.float32)})
    window = setup.window()
    assert (window.requests, window.rejected) == (1, 1)


def test_a_model_that_is_no_classifier(bundle: Path, tmp_path: Path) -> None:
    model = write_two_in_two_out(tmp_path / "bundle" / "model.onnx")
    variant = variant_for(model, tmp_path / "bundle", variant_id=DEVICE_VARIANT)
    engine = load_engine(variant, tmp_path / "bundle")
    fields = msgspec.structs.replace(
        fields_of(bundle),
        variants=(variant,),
        inputs=tuple(engine.inputs),
        outputs=tuple(engine.outputs),
        classification=None,
        features=(),
        fallback=None,
    )
    setup = Setup(tmp_path / "a.ring", engine, Manifest.create(fields))
    pair = np.ones((2, 2), np.float32)
    prediction = setup.predictor.run({"a": pair, "b": pair, "i": np.array([0, 2])})
    assert prediction.confidence is None
    setup.predictor.record({}, prediction)
    with pytest.raises(BadRequestError, match="batches of different sizes"):
        setup.predictor.predict({"a": pair, "b": pair[:1], "i": np.array([0, 2])})
    window = setup.window()
    assert (window.requests, window.rejected, window.classes) == (1, 1, {})
    assert Sketch.parse(window.confidence).count == 0
    assert Sketch.parse(window.latency).count == 1
