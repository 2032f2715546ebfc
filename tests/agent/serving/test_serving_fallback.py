"""Low confidence, real mutual TLS, and a gateway that is there, slow, gone, or wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from device_agent.processes.serving_protocol import Failed
from edgeops_testkit.bundles import digits_data, make_bundle
from edgeops_testkit.fake_gateway import FakeGateway, TlsFiles, make_tls
from edgeops_testkit.serving_process import ServingProcess, bundle_ref, infer, listening, post, window_of

pytestmark = pytest.mark.slow

# One that the student is sure of.
IMAGE = digits_data()[2][:1]


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("slots"), key=None)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def unsure() -> Any:
    """An image that the student is unsure of (below the manifest's threshold of 0.6)."""
    return np.full((1, 1, 8, 8), 0.3, np.float32)


def options_of(url: str, tls: TlsFiles) -> dict[str, Any]:
    return {
        "gateway_url": url,
        "fallback_timeout_s": 0.5,
        "device_key_path": str(tls.device_key),
        "device_cert_path": str(tls.device_cert),
        "ca_path": str(tls.ca),
    }


def test_the_cloud_answers_what_the_device_is_unsure_of(
    slot: Path, tmp_path: Path, listener: socket.socket, tls: TlsFiles, unsure: Any
) -> None:
    gateway = FakeGateway(says=7)
    ring = tmp_path / "rings" / "a.ring"
    with (
        gateway.running(tls) as url,
        ServingProcess(slot, ring, listener, **options_of(url, tls)) as process,
    ):
        process.serve()
        result = infer(process, unsure, request_id="r-1")
        assert result.get_response()["parameters"] == {
            "answered_by": "cloud",
            "reason": "low_confidence",
            "digest": "d" * 64,
            "variant": "teacher",
            "class": "7",
            "confidence": 1.0,
        }
        assert result.as_numpy("probabilities").argmax() == 7
        assert np.array_equal(gateway.requests[0].inputs["image"], unsure)
        # The label judges the device's own answer, which was not 7.
        assert post(process, "/edgeops/v1/labels", {"id": "r-1", "label": "7"})[0] == 200
        sure = infer(process, IMAGE, parameters={"edgeops_policy": "device-first"})
        assert sure.get_response()["parameters"]["answered_by"] == "device"
        forbidden = infer(process, unsure, parameters={"edgeops_policy": "local-only"})
        assert forbidden.get_response()["parameters"]["answered_by"] == "device"
        assert "reason" not in forbidden.get_response()["parameters"]
        wanted = infer(process, IMAGE, parameters={"edgeops_policy": "cloud-first"})
        assert wanted.get_response()["parameters"]["reason"] == "requested"
        with pytest.raises(InferenceServerException):
            infer(process, IMAGE, parameters={"edgeops_policy": "whatever"})
        assert gateway.reasons == ["low_confidence", "requested"]
        window = window_of(process, tmp_path)
    assert window.requests == 4
    assert window.rejected == 1
    assert window.fallbacks == {"low_confidence": 1, "requested": 1}
    assert window.fallback_failures == {}
    assert (window.labels_seen, window.labels_right) == (1, 0)


@pytest.mark.parametrize("mode", ["hang", "refuse", "garbage"])
def test_the_device_answers_when_the_cloud_does_not(
    slot: Path, tmp_path: Path, listener: socket.socket, tls: TlsFiles, unsure: Any, mode: str
) -> None:
    ring = tmp_path / "rings" / "a.ring"
    with (
        FakeGateway(mode=mode).running(tls) as url,
        ServingProcess(slot, ring, listener, **options_of(url, tls)) as process,
    ):
        process.serve()
        parameters = infer(process, unsure).get_response()["parameters"]
        assert (parameters["answered_by"], parameters["reason"]) == ("device", "fallback_unavailable")
        assert parameters["digest"] == bundle_ref(slot).digest
        window = window_of(process, tmp_path)
    assert (window.requests, window.errors) == (1, {})
    assert (window.fallbacks, window.fallback_failures) == ({}, {"low_confidence": 1})


def test_an_offline_device_goes_on_answering(
    slot: Path, tmp_path: Path, listener: socket.socket, tls: TlsFiles, unsure: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
    ring = tmp_path / "rings" / "a.ring"
    with ServingProcess(slot, ring, listener, **options_of(url, tls)) as process:
        process.serve()
        answers = [infer(process, unsure).get_response()["parameters"]["reason"] for _ in range(10)]
        window = window_of(process, tmp_path)
    assert answers == ["fallback_unavailable"] * 10
    assert window.fallback_failures == {"low_confidence": 10}


def test_certificates_that_cannot_be_used_fail_the_start(
    slot: Path, tmp_path: Path, listener: socket.socket, tls: TlsFiles
) -> None:
    options = options_of("https://127.0.0.1:1", tls) | {"device_cert_path": str(tmp_path / "none")}
    ring = tmp_path / "rings" / "a.ring"
    with ServingProcess(slot, ring, listener, **options) as process:
        process.send(process.start)
        assert process.receive(Failed).error["kind"] == "config"
    assert not ring.exists()
