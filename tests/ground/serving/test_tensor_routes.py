"""Open Inference Protocol v2: what a well-behaved client sees."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import Scope

import edgeops
from edgeops.errors import InferenceError, RateLimitedError, UnauthenticatedError
from edgeops.serving.host import DTYPES
from edgeops.serving.tensor_routes import error_response, tensor_routes
from edgeops.serving.text_tensor import pack_texts
from edgeops_testkit.small_host import SmallHost
from edgeops_testkit.text_models import array_of

Serve = Callable[[str], tuple[TestClient, SmallHost]]
INFER = "/v2/models/small/infer"
ROWS = [[0.5, -1.0, 2.0, 0.25], [1.0, 1.0, 1.0, 1.0]]


def _request(data: Any = ROWS, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": shape or [2, 4], "data": data}
    return {"inputs": [tensor], **more}


def test_health(serve: Serve) -> None:
    client, host = serve("linear")
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/small/ready"):
        assert client.get(path).status_code == 200
    host.is_ready = False
    assert client.get("/v2/health/live").json() == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/small/ready", "/v2/models/small/versions/1.0.0/ready"):
        assert client.get(path).status_code == 503
    assert client.get("/v2/models/other/ready").status_code == 404


def test_server_metadata(serve: Serve) -> None:
    client, _ = serve("linear")
    assert client.get("/v2").json() == {
        "name": "edgeops",
        "version": edgeops.__version__,
        "extensions": ["binary_tensor_data", "model_repository"],
    }


@pytest.mark.parametrize("path", ["/v2/models/small", "/v2/models/small/versions/1.0.0"])
def test_model_metadata(serve: Serve, path: str) -> None:
    client, _ = serve("linear")
    assert client.get(path).json() == {
        "name": "small",
        "versions": ["1.0.0", "2.0.0"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
        "parameters": {"digest": "0" * 64},
    }


def test_repository_index(serve: Serve) -> None:
    client, _ = serve("linear")
    assert client.post("/v2/repository/index").json() == [
        {"name": "small", "version": version, "state": "READY", "reason": ""}
        for version in ("1.0.0", "2.0.0")
    ]


@pytest.mark.parametrize("data", [ROWS, [value for row in ROWS for value in row]], ids=["nested", "flat"])
def test_an_answer(serve: Serve, data: Any) -> None:
    client, host = serve("linear")
    answer = client.post(INFER, json=_request(data, id="r1"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    expected = host.requests[0].inputs["pixels"]
    np.testing.assert_array_equal(expected, np.array(ROWS, np.float32))
    assert {key: body[key] for key in ("model_name", "model_version", "id", "parameters")} == {
        "model_name": "small",
        "model_version": "2.0.0",
        "id": "r1",
        "parameters": {"answered_by": "device"},
    }
    (output,) = body["outputs"]
    assert {key: output[key] for key in ("name", "datatype", "shape")} == {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, 3],
    }
    got = np.array(output["data"], np.float32).reshape(2, 3)
    np.testing.assert_array_equal(got, host._engine.run({"pixels": expected})["probabilities"])
    assert host.rejections == []


def test_the_path_says_which_version(serve: Serve) -> None:
    client, host = serve("linear")
    answer = client.post("/v2/models/small/versions/1.0.0/infer", json=_request())
    assert answer.json()["model_version"] == "1.0.0"
    assert host.requests[0].version == "1.0.0"
    assert "id" not in answer.json()


def test_parameters_reach_the_host(serve: Serve) -> None:
    client, host = serve("linear")
    parameters = {"edgeops_policy": "local-only", "priority": 3, "binary_data_output": False}
    assert client.post(INFER, json=_request(parameters=parameters)).status_code == 200
    assert host.requests[0].parameters == {"edgeops_policy": "local-only", "priority": 3}


def test_fields_that_a_client_may_leave_null(serve: Serve) -> None:
    client, _ = serve("linear")
    answer = client.post(INFER, json=_request(id=None, parameters=None, outputs=None))
    assert answer.status_code == 200


def test_only_the_outputs_asked_for_come_in_their_order(serve: Serve) -> None:
    client, _ = serve("pair")
    inputs = [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
        {"name": "b", "datatype": "FP32", "shape": [1, 2], "data": [10, 20]},
        {"name": "i", "datatype": "INT64", "shape": [1], "data": [1]},
    ]
    for names in (["row"], ["row", "total"], ["total", "row"]):
        body = {"inputs": inputs, "outputs": [{"name": name} for name in names]}
        assert [output["name"] for output in client.post(INFER, json=body).json()["outputs"]] == names


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "FP16"])
def test_every_dtype_goes_through_json(serve: Serve, dtype: str) -> None:
    client, host = serve(dtype)
    values: list[Any] = {
        "BOOL": [True, False, True, True],
        "BYTES": ["", "a", "ü\0", "\N{GRINNING FACE}"],
    }.get(dtype, [0, 1, 2, 127])
    tensor = {"name": "x", "datatype": dtype, "shape": [2, 2], "data": values}
    (output,) = client.post(INFER, json={"inputs": [tensor]}).json()["outputs"]
    assert output["data"] == values
    assert output["datatype"] == dtype
    assert host.requests[0].inputs["x"].dtype == DTYPES[dtype]


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_every_dtype_goes_through_binary(serve: Serve, dtype: str, padding: int) -> None:
    client, host = serve(dtype)
    array = array_of(DTYPES[dtype], [[0, 1, 1], [1, 0, 1]])
    data = pack_texts(array) if dtype == "BYTES" else array.tobytes()
    size = {"binary_data_size": len(data)}
    head = (
        json.dumps(
            {
                "inputs": [{"name": "x", "datatype": dtype, "shape": [2, 3], "parameters": size}],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        + b" " * padding
    )  # moves the data off its dtype's alignment
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    answer = client.post(INFER, content=head + data, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    cut = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:cut])["outputs"]
    assert output["parameters"] == size
    assert "data" not in output
    assert answer.content[cut:] == data
    np.testing.assert_array_equal(host.requests[0].inputs["x"], array)
    assert host.requests[0].inputs["x"].flags.aligned


def test_binary_and_json_outputs_in_one_answer(serve: Serve) -> None:
    client, _ = serve("pair")
    body = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
            {"name": "b", "datatype": "FP32", "shape": [1, 2], "data": [10, 20]},
            {"name": "i", "datatype": "INT64", "shape": [1], "data": [1]},
        ],
        "outputs": [{"name": "total"}, {"name": "row", "parameters": {"binary_data": True}}],
    }
    answer = client.post(INFER, json=body)
    cut = int(answer.headers["inference-header-content-length"])
    total, row = json.loads(answer.content[:cut])["outputs"]
    assert total["data"] == [11, 22]
    assert row["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(answer.content[cut:], np.float32).tolist() == [2, 3]


def test_a_null_among_floats_is_a_missing_value(serve: Serve) -> None:
    client, host = serve("linear")
    answer = client.post(INFER, json=_request([0.5, None, 2.0, 0.25], [1, 4]))
    assert answer.status_code == 400  # this model has no column that may be null
    np.testing.assert_array_equal(host.requests[0].inputs["pixels"], [[0.5, np.nan, 2.0, 0.25]])


def test_any_byte_is_a_valid_binary_bool(serve: Serve) -> None:
    client, host = serve("BOOL")
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "BOOL", "shape": [1, 4], "parameters": {"binary_data_size": 4}}
            ]
        }
    ).encode()
    answer = client.post(
        INFER,
        content=head + bytes([0, 1, 2, 255]),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert answer.json()["outputs"][0]["data"] == [False, True, True, True]
    assert host.requests[0].inputs["x"].view(np.uint8).tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_compressed_requests(serve: Serve, coding: str, compress: Callable[[bytes], bytes]) -> None:
    client, _ = serve("linear")
    body = compress(json.dumps(_request()).encode())
    assert client.post(INFER, content=body, headers={"Content-Encoding": coding}).status_code == 200


def test_a_body_in_many_pieces(serve: Serve) -> None:
    client, _ = serve("linear")
    body = json.dumps(_request()).encode()
    pieces = (body[i : i + 7] for i in range(0, len(body), 7))
    assert client.post(INFER, content=pieces).status_code == 200


def test_errors_of_a_host_keep_their_status(serve: Serve) -> None:
    client, host = serve("linear")
    host.breaks = InferenceError("The engine failed.", remedy="Look at its log.")
    answer = client.post(INFER, json=_request())
    assert (answer.status_code, answer.json()) == (500, {"error": "The engine failed. Look at its log."})
    assert host.rejections == []


def test_a_bug_in_a_host_is_logged_and_told_in_general_words(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client, host = serve("linear")
    host.breaks = KeyError("secret detail")
    answer = client.post(INFER, json=_request())
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"].startswith("The server failed")
    assert "secret detail" in caplog.text


def test_the_caller_is_told_to_the_host_or_refused(serve: Serve) -> None:
    _, host = serve("linear")

    def caller(scope: Scope) -> dict[str, Any]:
        headers = dict(scope["headers"])
        if b"x-name" not in headers:
            raise UnauthenticatedError("Say who you are.")
        return {"name": headers[b"x-name"].decode()}

    routes = tensor_routes(host, request_size_bytes=1000, caller=caller)
    with TestClient(Starlette(routes=routes)) as client:
        refused = client.post(INFER, json=_request())
        assert (refused.status_code, refused.json()) == (401, {"error": "Say who you are."})
        assert refused.headers["www-authenticate"] == "Bearer"
        assert client.post(INFER, json=_request(), headers={"X-Name": "cam-1"}).status_code == 200
    assert host.callers == [{"name": "cam-1"}]
    assert host.rejections == ["unauthenticated"]


def test_error_response_is_the_protocols_form() -> None:
    response = error_response(RateLimitedError("Slow down.", details={"retry_after_s": 7}))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert json.loads(response.body) == {"error": "Slow down."}
