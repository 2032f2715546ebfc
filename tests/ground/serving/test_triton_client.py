"""The stock Triton client against the routes, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from starlette.applications import Starlette
from tritonclient.utils import InferenceServerException

from edgeops.engines.onnx_engine import OnnxEngine
from edgeops.serving.tensor_routes import tensor_routes
from edgeops_testkit.graphs import variant_for, write_linear
from edgeops_testkit.http_server import serving
from edgeops_testkit.small_host import SmallHost

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> SmallHost:
    folder = tmp_path_factory.mktemp("bundle")
    path = write_linear(folder / "model.onnx")
    return SmallHost(OnnxEngine.load(variant_for(path, folder), folder))


@pytest.fixture(scope="module")
def client(host: SmallHost) -> Iterator[triton.InferenceServerClient]:
    app = Starlette(routes=tensor_routes(host, request_size_bytes=1 << 20))
    with serving(app) as port:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        yield client
        client.close()


ROWS = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)


def _input(rows: np.ndarray, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("pixels", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("small")
    assert client.is_model_ready("small", "1.0.0")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "edgeops"
    metadata = client.get_model_metadata("small", "1.0.0")
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}]
    assert [entry["version"] for entry in client.get_model_repository_index()] == ["1.0.0", "2.0.0"]


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [None, True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_inference(
    client: triton.InferenceServerClient,
    host: SmallHost,
    binary_in: bool,
    binary_out: bool | None,
    coding: str | None,
) -> None:
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary_out)]
    result = client.infer(
        "small",
        [_input(ROWS, binary_in)],
        model_version="1.0.0",
        outputs=outputs,
        request_id="r-1",
        request_compression_algorithm=coding,
        response_compression_algorithm="gzip",
        parameters={"edgeops_policy": "local-only"},
    )
    expected = host._engine.run({"pixels": ROWS})["probabilities"]
    np.testing.assert_array_equal(result.as_numpy("probabilities"), expected)
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("r-1", "1.0.0")
    assert response["parameters"] == {"answered_by": "device"}
    assert host.requests[-1].parameters["edgeops_policy"] == "local-only"


def test_errors_reach_the_client_as_text(client: triton.InferenceServerClient) -> None:
    wide = np.zeros((1, 5), np.float32)
    with pytest.raises(InferenceServerException, match=r"the model wants \[-1, 4\]") as caught:
        client.infer("small", [_input(wide, True)])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model 'other'"):
        client.infer("other", [_input(ROWS, True)])


def test_a_connection_survives_a_body_above_the_limit(client: triton.InferenceServerClient) -> None:
    big = np.zeros((1 << 18, 4), np.float32)
    with pytest.raises(InferenceServerException, match="larger than 1048576 bytes"):
        client.infer("small", [_input(big, True)])
    assert client.infer("small", [_input(ROWS, True)]).as_numpy("probabilities").shape == (3, 3)
