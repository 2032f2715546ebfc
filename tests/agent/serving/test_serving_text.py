"""A text classifier served by a real process: the stock client's BYTES, contract, telemetry, labels."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from device_agent.processes.serving_protocol import Failed
from edgeops.bundle import other_files, read_manifest, verify_bundle, write_manifest
from edgeops.engines.base import load_engine
from edgeops.features import feature_columns
from edgeops.manifest import Language
from edgeops.serving.text_tensor import text_array
from edgeops.sketches import Sketch
from edgeops_testkit.keys import make_keys
from edgeops_testkit.serving_process import (
    ServingProcess,
    client_of,
    infer_texts,
    listening,
    post,
    window_of,
)
from edgeops_testkit.text_models import (
    CLASSES,
    DEVICE_VARIANT,
    FEATURES,
    MAX_CHARACTERS,
    TEXTS,
    make_text_bundle,
)

pytestmark = pytest.mark.slow

INFER = "/v2/models/commands/infer"
COMMANDS = [text for text, _ in TEXTS]


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slots")
    keys = make_keys(folder)
    bundle = make_text_bundle(folder, key=keys.private)
    verify_bundle(bundle, keys.ring)
    return bundle


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


@pytest.fixture
def process(slot: Path, tmp_path: Path, listener: socket.socket) -> Iterator[ServingProcess]:
    with ServingProcess(slot, tmp_path / "rings" / "a.ring", listener) as process:
        process.serve()
        yield process


def tensor_of(*texts: Any, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
    return {"inputs": [tensor | changes]}


@pytest.mark.parametrize("binary", [True, False])
def test_the_stock_client_is_answered(process: ServingProcess, slot: Path, binary: bool) -> None:
    engine = load_engine(read_manifest(slot).variant(DEVICE_VARIANT), slot)
    with client_of(process) as client:
        metadata = client.get_model_metadata("commands")
        assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    for texts in (["play some jazz"], ["Zürich \N{GRINNING FACE}", "", "turn on the lamp"]):
        outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary)]
        result = infer_texts(process, texts, binary_in=binary, outputs=outputs)
        expected = engine.run({"text": text_array(texts)})["probabilities"]
        np.testing.assert_array_equal(result.as_numpy("probabilities"), expected)
        parameters = result.get_response()["parameters"]
        assert parameters["answered_by"] == "device"
        assert parameters["confidence"] == pytest.approx(float(expected.max(axis=1).min()))
    assert parameters.get("class") is None  # that of several items is nobody's


def test_what_it_answers_reaches_telemetry(process: ServingProcess, tmp_path: Path) -> None:
    answers = [
        infer_texts(process, [text], request_id=f"r-{n}").get_response() for n, text in enumerate(COMMANDS)
    ]
    said = [answer["parameters"]["class"] for answer in answers]
    assert said == [label for _, label in TEXTS]
    labels = [{"id": "r-0", "label": said[0]}, {"id": "r-1", "label": "weather"}]
    assert post(process, "/edgeops/v1/labels", labels)[0] == 200
    window = window_of(process, tmp_path)
    assert (window.requests, window.rejected, window.outside) == (len(COMMANDS), 0, 0)
    assert window.classes == {name: said.count(name) for name in CLASSES}
    assert (window.labels_seen, window.labels_right) == (2, 1)
    columns = feature_columns(FEATURES, {"text": text_array(COMMANDS)})
    for name, column in columns.items():
        assert window.features[name].count == len(COMMANDS)
        assert window.features[name].mean == pytest.approx(float(column.mean()), rel=1e-5)
    assert Sketch.parse(window.confidence).count == len(COMMANDS)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (tensor_of("x" * (MAX_CHARACTERS + 1)), "201 characters, and at most 200 may be"),
        (tensor_of("fine", "x" * 300), "300 characters"),
        (tensor_of("a", shape=[1, 1]), "the model wants BYTES"),
        (tensor_of(3), "not BYTES"),
        (tensor_of(None), "not BYTES"),
        (tensor_of(1.5, datatype="FP32"), "the model wants BYTES"),
        (b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["\xff"]}]}', "UTF-8"),
    ],
)
def test_what_the_contract_does_not_allow_is_told_and_counted(
    process: ServingProcess, tmp_path: Path, body: Any, says: str
) -> None:
    status, answer = post(process, INFER, body)
    assert (status, list(answer)) == (400, ["error"])
    assert says.lower() in answer["error"].lower()
    assert post(process, INFER, tensor_of("x" * MAX_CHARACTERS))[0] == 200
    window = window_of(process, tmp_path)
    assert (window.requests, window.rejected) == (1, 1)


def test_bytes_that_are_no_utf8_are_refused(process: ServingProcess) -> None:
    with pytest.raises(InferenceServerException, match="utf-8"), client_of(process) as client:
        tensor = triton.InferInput("text", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"\xff\xfe"], object))
        client.infer("commands", [tensor])


def test_a_text_bundle_that_fails_its_selftest_is_refused(tmp_path: Path, listener: socket.socket) -> None:
    bundle = make_text_bundle(tmp_path, key=None)
    vectors = (bundle / "selftest/vectors.json").read_text()
    assert "kitchen" in vectors
    (bundle / "selftest/vectors.json").write_text(vectors.replace("kitchen", "snow"))
    fields = read_manifest(bundle).fields
    write_manifest(bundle, msgspec.structs.replace(fields, files=other_files(bundle, fields.variants)))
    with ServingProcess(bundle, tmp_path / "rings" / "a.ring", listener) as process:
        process.send(process.start)
        error = process.receive(Failed).error
    assert error["subject"] == DEVICE_VARIANT
    assert "self-test" in error["message"]


def test_a_language_model_is_refused(tmp_path: Path, listener: socket.socket) -> None:
    """Its files would load as a classifier's do: it is the manifest that says what it is."""
    bundle = make_text_bundle(tmp_path, key=None)
    (bundle / "template.jinja").write_text("{{ messages }}")
    fields = read_manifest(bundle).fields
    write_manifest(
        bundle,
        msgspec.structs.replace(
            fields,
            files=other_files(bundle, fields.variants),
            language=Language(context_tokens=32, chat_template="template.jinja"),
        ),
    )
    with ServingProcess(bundle, tmp_path / "rings" / "a.ring", listener) as process:
        process.send(process.start)
        error = process.receive(Failed).error
    assert "is a language model" in error["message"]
    assert error["remedy"]
