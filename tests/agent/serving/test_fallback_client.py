"""Asking the cloud: the codec, the circuit, and the client against a gateway over real mutual TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from device_agent.serving.fallback_client import Circuit, CloudAnswer, Gateway
from device_agent.serving.gateway_codec import decode_response, encode_request
from edgeops.errors import ConfigError, TransportError
from edgeops.serving.host import DTYPES, Array, InferRequest, InferResponse
from edgeops.serving.tensor_codec import OutputPlan, decode_request, encode_response
from edgeops_testkit.fake_gateway import FakeGateway, TlsFiles, make_tls
from edgeops_testkit.text_models import array_of

IMAGE = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)


def request_of(inputs: dict[str, Array], **parameters: str) -> InferRequest:
    return InferRequest("digits", None, "r-1", inputs, (), parameters)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_tls(tmp_path_factory.mktemp("tls"))


def client(url: str, tls: TlsFiles, **changes: Any) -> Gateway:
    values: dict[str, Any] = {
        "key_path": tls.device_key,
        "cert_path": tls.device_cert,
        "ca_path": tls.ca,
        "timeout_s": 5.0,
        "answer_size_bytes": 1 << 20,
    }
    return Gateway(url, **{**values, **changes})


def asking(gateway: Gateway, use: Callable[[Gateway], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        try:
            return await use(gateway)
        finally:
            await gateway.close()

    return asyncio.run(run())


def ask(gateway: Gateway) -> CloudAnswer:
    answer: CloudAnswer = asking(gateway, lambda g: g.ask(request_of({"image": IMAGE}), "1.0.0", "requested"))
    return answer


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_servers_codec_reads_what_the_client_writes_and_back(dtype: str) -> None:
    array = array_of(DTYPES[dtype], [[0, 1, 1], [1, 0, 1]])
    inputs = {"a": array, "b": array[:, ::2]}
    body, header_size = encode_request(request_of(inputs, edgeops_policy="cloud-first"))
    request, plan = decode_request(body, header_size, "digits", "1.0.0")
    assert request.id == "r-1"
    assert request.parameters == {}
    for name, sent in inputs.items():
        assert np.array_equal(request.inputs[name], sent)
        assert request.inputs[name].dtype == sent.dtype
    response = InferResponse("digits", "1.0.0", "r-1", inputs, {"digest": "d"})
    answer, json_size = encode_response(response, (), plan)
    outputs, parameters = decode_response(answer, str(json_size))
    assert parameters == {"digest": "d"}
    for name, sent in inputs.items():
        assert np.array_equal(outputs[name], sent)


@given(st.binary(max_size=200), st.none() | st.text(max_size=5) | st.integers(-5, 300).map(str))
@example(b"", "²")
@example(b"12", "٢")
def test_answers_that_cannot_be_read_are_transport_errors(body: bytes, size: str | None) -> None:
    with pytest.raises(TransportError):
        decode_response(body, size)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_damaged_answers_are_transport_errors_or_fit_their_shape(at: int, value: int) -> None:
    response = InferResponse("m", "1", "", {"y": np.ones((2, 3), np.float32)}, {})
    body, size = encode_response(response, (), OutputPlan({}, True))
    damaged = bytearray(body)
    damaged[at % len(body)] = value
    try:
        outputs, _ = decode_response(bytes(damaged), str(size))
    except TransportError:
        return
    for array in outputs.values():
        assert array.size * array.dtype.itemsize == 24


def test_a_null_goes_to_the_cloud_as_it_came() -> None:
    sent = np.array([[1.0, np.nan]], np.float32)
    body, header_size = encode_request(request_of({"x": sent}))
    request, _ = decode_request(body, header_size, "digits", "1.0.0")
    np.testing.assert_array_equal(request.inputs["x"], sent)


@pytest.mark.parametrize("data", [b"", b"\x01\0\0\0", b"\x01\0\0\0\xff", b"\x01\0\0\0aa"])
def test_an_answer_that_is_not_the_text_it_says_is_a_transport_error(data: bytes) -> None:
    size = {"binary_data_size": len(data)}
    output = {"name": "y", "datatype": "BYTES", "shape": [1], "parameters": size}
    head = msgspec.json.encode({"outputs": [output]})
    with pytest.raises(TransportError):
        decode_response(head + data, str(len(head)))


def test_an_answer_cut_short_is_a_transport_error() -> None:
    head = msgspec.json.encode(
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}
    )
    body = head + struct.pack("<f", 1.0)
    with pytest.raises(TransportError):
        decode_response(body, str(len(head)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_circuit_opens_after_failures_in_a_row_and_probes_one_at_a_time() -> None:
    clock = Clock()
    circuit = Circuit(3, 5.0, clock)
    for _ in range(2):
        circuit.failed()
    circuit.succeeded()
    for _ in range(2):
        circuit.failed()
    assert circuit.allows()
    circuit.failed()
    assert not circuit.allows()
    clock.now = 4.9
    assert not circuit.allows()
    clock.now = 5.0
    assert circuit.allows()
    assert not circuit.allows()  # one probe is out
    circuit.failed()
    clock.now = 9.9
    assert not circuit.allows()
    clock.now = 10.0
    assert circuit.allows()
    circuit.succeeded()
    assert circuit.allows()
    assert circuit.allows()


@pytest.mark.slow
def test_a_good_answer(tls: TlsFiles) -> None:
    gateway = FakeGateway(says=7)
    with gateway.running(tls) as url:
        answer = ask(client(url, tls))
    assert int(answer.outputs["probabilities"].argmax()) == 7
    assert answer.parameters["digest"] == "d" * 64
    assert gateway.reasons == ["requested"]
    (request,) = gateway.requests
    assert (request.model, request.version, request.id) == ("digits", "1.0.0", "r-1")
    assert np.array_equal(request.inputs["image"], IMAGE)


@pytest.mark.slow
def test_no_answer_in_time(tls: TlsFiles) -> None:
    with FakeGateway(mode="hang").running(tls) as url, pytest.raises(TransportError, match="timed out"):
        ask(client(url, tls, timeout_s=0.2))


@pytest.mark.slow
def test_a_refusal_and_an_answer_too_large(tls: TlsFiles) -> None:
    gateway = FakeGateway(mode="refuse")
    with gateway.running(tls) as url:
        with pytest.raises(TransportError, match="403"):
            ask(client(url, tls))
        gateway.mode = "answer"
        with pytest.raises(TransportError, match="too large"):
            ask(client(url, tls, answer_size_bytes=64))


@pytest.mark.slow
def test_a_gateway_with_a_foreign_certificate_gets_no_request(tls: TlsFiles, tmp_path: Path) -> None:
    foreign = make_tls(tmp_path)
    gateway = FakeGateway()
    with gateway.running(foreign) as url, pytest.raises(TransportError):
        ask(client(url, tls))
    assert gateway.requests == []


@pytest.mark.slow
def test_a_device_without_a_certificate_of_the_hub_gets_no_answer(tls: TlsFiles, tmp_path: Path) -> None:
    foreign = make_tls(tmp_path)
    gateway = FakeGateway()
    with gateway.running(tls) as url, pytest.raises(TransportError):
        ask(client(url, tls, key_path=foreign.device_key, cert_path=foreign.device_cert))
    assert gateway.requests == []


@pytest.mark.slow
def test_a_renewed_certificate_is_used_without_a_restart(tls: TlsFiles, tmp_path: Path) -> None:
    old = make_tls(tmp_path)  # the gateway does not know this one's CA
    key, cert = tmp_path / "device.key", tmp_path / "device.crt"

    async def use(gateway: Gateway) -> list[object]:
        seen: list[object] = []
        request = request_of({"image": IMAGE})
        try:
            await gateway.ask(request, "1.0.0", "requested")
        except TransportError as error:
            seen.append(type(error))
        for path, new in ((key, tls.device_key), (cert, tls.device_cert)):
            before = path.stat().st_mtime_ns
            path.write_bytes(new.read_bytes())
            os.utime(path, ns=(before + 1, before + 1))
        seen.append(int((await gateway.ask(request, "1.0.0", "requested")).outputs["probabilities"].argmax()))
        return seen

    assert old.device_cert == cert
    with FakeGateway(says=3).running(tls) as url:
        assert asking(client(url, tls, key_path=key, cert_path=cert), use) == [TransportError, 3]


def test_nobody_there_opens_the_circuit(tls: TlsFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def use(gateway: Gateway) -> list[str]:
        reasons = []
        for _ in range(5):
            try:
                await gateway.ask(request_of({"image": IMAGE}), "1.0.0", "low_confidence")
            except TransportError as error:
                reasons.append(error.message)
        return reasons

    reasons = asking(client(f"https://127.0.0.1:{port}", tls), use)
    assert ["not asked" in reason for reason in reasons] == [False, False, False, True, True]


def test_certificates_that_cannot_be_used_stop_the_start(tls: TlsFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        client("https://127.0.0.1:1", tls, cert_path=tmp_path / "missing.crt")
    with pytest.raises(ConfigError):
        client("https://127.0.0.1:1", tls, cert_path=tls.ca)  # not this key's
