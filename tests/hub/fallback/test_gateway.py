"""The gateway over real TLS: who may ask, what is answered, and what bad requests get."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from sqlalchemy import select

from cloud_hub.store import schema
from cloud_hub.store.database import reading
from cloud_hub.trust.access import Services
from cloud_hub.trust.certificates import client_certificate, new_key, self_signed
from edgeops.errors import ConfigError
from edgeops_testkit.bundles import CLASSES, CLOUD_VARIANT, digits_data
from edgeops_testkit.gateway import (
    enrol,
    infer_body,
    make_and_publish,
    revoke,
    running_gateway,
    set_alias,
    set_lifecycle,
)
from edgeops_testkit.hub_core import DeviceKey, open_hub
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow

IMAGES = digits_data()[2]
INFER = "/v2/models/digits/versions/1.0.0/infer"


def _teacher_session(root: Path, version: str = "1.0.0") -> onnxruntime.InferenceSession:
    path = root / f"bundles/digits-{version}/variants/{CLOUD_VARIANT}/model.onnx"
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_a_device_is_answered_by_the_teacher(site: Any) -> None:
    client = site.gateway.client(site.device)
    answer = client.post(
        INFER, content=infer_body(IMAGES[:1], id="a"), headers={"X-Edgeops-Reason": "low_confidence"}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    expected = _teacher_session(site.root).run(None, {"image": IMAGES[:1]})[0]
    got = np.array(body["outputs"][0]["data"], np.float32).reshape(1, 10)
    np.testing.assert_array_equal(got, expected)
    assert (body["model_name"], body["model_version"], body["id"]) == ("digits", "1.0.0", "a")
    assert body["parameters"] == {
        "answered_by": "cloud",
        "reason": "low_confidence",
        "digest": site.digests["1.0.0"],
        "variant": CLOUD_VARIANT,
        "confidence": float(expected.max()),
        "class": CLASSES[int(expected.argmax())],
    }


def test_several_items_share_the_least_confidence(site: Any) -> None:
    answer = site.gateway.client(site.device).post(INFER, content=infer_body(IMAGES[:9])).json()
    expected = _teacher_session(site.root).run(None, {"image": IMAGES[:9]})[0]
    assert answer["parameters"]["confidence"] == float(expected.max(axis=1).min())
    assert "class" not in answer["parameters"]
    assert answer["parameters"]["reason"] == "requested"


def test_the_stock_client_over_mutual_tls(site: Any) -> None:
    client = triton.InferenceServerClient(
        site.gateway.address,
        ssl=True,
        ssl_options={
            "ca_certs": str(site.gateway.ca),
            "certfile": str(site.device.certificate),
            "keyfile": str(site.device.key),
        },
    )
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", "1.1.0")
    metadata = client.get_model_metadata("digits", "1.0.0")
    assert metadata["versions"] == ["1.1.0", "1.0.0"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert metadata["parameters"] == {"digest": site.digests["1.0.0"], "variant": CLOUD_VARIANT}
    for binary in (True, False):
        tensor = triton.InferInput("image", [3, 1, 8, 8], "FP32")
        tensor.set_data_from_numpy(IMAGES[:3], binary_data=binary)
        result = client.infer(
            "digits", [tensor], model_version="1.1.0", headers={"X-Edgeops-Reason": "device_error"}
        )
        expected = _teacher_session(site.root, "1.1.0").run(None, {"image": IMAGES[:3]})[0]
        np.testing.assert_array_equal(result.as_numpy("probabilities"), expected)
        assert result.get_response()["parameters"]["reason"] == "device_error"
    client.close()


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (infer_body(IMAGES[:1, :, :4]), {}, 400, "the model wants [-1, 1, 8, 8]"),
        (infer_body(np.full((1, 1, 8, 8), 1e39)), {}, 400, "not finite"),
        (b"{}", {}, 400, "does not fit the protocol"),
        (b" " * (300 << 10), {}, 413, "larger than"),
        (infer_body(IMAGES[:1]), {"Content-Type": "text/plain"}, 415, "text/plain"),
        (infer_body(IMAGES[:1]), {"X-Edgeops-Reason": "bored"}, 400, "'bored' is not a reason"),
    ],
)
def test_bad_requests(site: Any, body: bytes, headers: dict[str, str], status: int, says: str) -> None:
    answer = site.gateway.client(site.device).post(INFER, content=body, headers=headers)
    assert answer.status_code == status
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/v2/models/other/infer", "/v2/models/digits/versions/9.9.9/infer", "/v2/models/digits/infer"]
)
def test_models_that_are_not_there(site: Any, path: str) -> None:
    answer = site.gateway.client(site.device).post(path, content=infer_body(IMAGES[:1]))
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


def test_without_a_certificate_or_a_token(site: Any) -> None:
    client = site.gateway.client()
    for method, path in (("GET", "/v2"), ("POST", INFER), ("GET", "/v2/health/live"), ("GET", "/metrics")):
        answer = client.request(method, path)
        assert answer.status_code == 401
        assert set(answer.json()) == {"error"}
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").json() == {"status": "ok"}


def test_the_operators_token_is_enough_and_a_wrong_one_is_not(site: Any) -> None:
    assert site.gateway.operator().post(INFER, content=infer_body(IMAGES[:1])).status_code == 200
    assert site.gateway.client(token="wrong").post(INFER, content=b"").status_code == 401
    # Nor does a certificate make a wrong token right.
    assert site.gateway.client(site.device, token="wrong").get("/v2").status_code == 401


def test_a_revoked_device_is_cut_off_on_its_open_connection(site: Any) -> None:
    device = enrol(site.services, site.root, "cam-2")
    client = site.gateway.client(device)
    assert client.get("/v2").status_code == 200
    revoke(site.services, "cam-2")
    refused = wait_until(
        lambda: answer if (answer := client.get("/v2")).status_code != 200 else None, 10, "the cut"
    )
    assert refused.status_code == 403
    assert "revoked" in refused.json()["error"]


def test_a_certificate_of_another_authority_does_not_get_in(site: Any, tmp_path: Path) -> None:
    ca_key, key = new_key(), DeviceKey.new()
    foreign = self_signed("a foreign authority", ca_key)
    certificate = client_certificate("cam-1", key.key.public_key(), foreign, ca_key, 10)
    (tmp_path / "key.pem").write_bytes(key.pem)
    from cryptography.hazmat.primitives.serialization import Encoding

    (tmp_path / "crt.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(cafile=str(site.gateway.ca))
    context.load_cert_chain(tmp_path / "crt.pem", tmp_path / "key.pem")
    client = httpx.Client(base_url=f"https://{site.gateway.address}", verify=context)
    with client, pytest.raises(httpx.TransportError):
        client.get("/v2")


def test_each_answer_is_counted_once(site: Any) -> None:
    device = enrol(site.services, site.root, "counter")
    client = site.gateway.client(device)
    for reason, count in (("low_confidence", 5), ("requested", 2)):
        for _ in range(count):
            client.post(INFER, content=infer_body(IMAGES[:1]), headers={"X-Edgeops-Reason": reason})
    client.post(INFER, content=b"{}")
    client.post("/v2/models/made-up/infer", content=infer_body(IMAGES[:1]))
    table = schema.fallback_minutes

    def rows() -> list[Any] | None:
        query = select(table).where(table.c.caller == "counter")
        with reading(site.services.engine) as connection:
            found = connection.execute(query).all()
        return list(found) if sum(row.requests for row in found) >= 7 else None

    sums: dict[str, int] = {}
    for row in wait_until(rows, 10, "the ledger"):
        assert (row.model, row.errors, row.minute_ms % 60_000) == ("digits", 0, 0)
        assert row.latency_ms_sum > 0
        sums[row.reason] = sums.get(row.reason, 0) + row.requests
    assert sums == {"low_confidence": 5, "requested": 2}


def test_metrics(site: Any) -> None:
    operator = site.gateway.operator()
    operator.post(INFER, content=infer_body(IMAGES[:1]))
    text = operator.get("/metrics").text
    assert 'edgeops_gateway_requests_total{model="digits",outcome="ok",reason="requested"}' in text
    assert "edgeops_gateway_engine_loads_total" in text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_default_version_follows_alias_and_lifecycle(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services, running_gateway(services) as gateway:
        client = gateway.operator()

        def default() -> str | None:
            answer = client.post("/v2/models/digits/infer", content=infer_body(IMAGES[:1]))
            return answer.json().get("model_version") or answer.json()["error"]

        assert "no model" in str(default())
        first = make_and_publish(services, tmp_path, version="1.9.0")
        second = make_and_publish(services, tmp_path, version="1.10.0")
        without = make_and_publish(services, tmp_path, version="2.0.0", teacher=False)
        wait_until(lambda: "no default version" in str(default()), 10, "the publication")
        set_lifecycle(services, first, "production")
        wait_until(lambda: default() == "1.9.0", 10, "1.9.0 in production")
        set_lifecycle(services, second, "production")
        wait_until(lambda: default() == "1.10.0", 10, "1.10.0 in production, which is higher")
        set_lifecycle(services, without, "production")
        set_alias(services, "digits", first)
        wait_until(lambda: default() == "1.9.0", 10, "the alias")
        set_lifecycle(services, first, "retired")
        wait_until(lambda: "no default version" in str(default()), 10, "the retirement")
        refused = client.post("/v2/models/digits/versions/1.9.0/infer", content=infer_body(IMAGES[:1]))
        assert (refused.status_code, "it is retired" in refused.text) == (404, True)
        refused = client.post("/v2/models/digits/versions/2.0.0/infer", content=infer_body(IMAGES[:1]))
        assert (refused.status_code, "no cloud variant" in refused.text) == (404, True)


def test_a_changed_blob_is_never_loaded(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services:
        make_and_publish(services, tmp_path)
        model = tmp_path / f"bundles/digits-1.0.0/variants/{CLOUD_VARIANT}/model.onnx"
        blob = services.blobs.path(_sha256(model))
        data = bytearray(blob.read_bytes())
        data[-50] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(data)
        with running_gateway(services) as gateway:
            answer = gateway.operator().post(INFER, content=infer_body(IMAGES[:1]))
            assert answer.status_code == 422
            assert "not the one that was published" in answer.json()["error"]
            text = gateway.operator().get("/metrics").text
            assert 'edgeops_gateway_engine_loads_total{outcome="artifact"} 1.0' in text


def test_a_changed_copy_is_replaced(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services:
        digest = make_and_publish(services, tmp_path)
        copy = services.settings.state_dir / f"engines/{digest}/variants/{CLOUD_VARIANT}/model.onnx"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(b"something else")
        with running_gateway(services) as gateway:
            assert gateway.operator().post(INFER, content=infer_body(IMAGES[:1])).status_code == 200
        assert copy.read_bytes() == services.blobs.path(_sha256(copy)).read_bytes()


def test_a_taken_port_is_one_sentence(services: Services) -> None:
    listener = socket.create_server(("127.0.0.1", services.settings.gateway_port))
    with listener, pytest.raises(ConfigError, match="is taken already"), running_gateway(services):
        pytest.fail("the gateway started")


def _sha256(path: Path) -> str:
    from edgeops.canonical import sha256_file

    return sha256_file(path)
