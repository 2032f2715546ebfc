"""The devices' listener as a device meets it: real TLS, real certificates, revoked and foreign ones."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud_hub.app import create_device_app
from cloud_hub.settings import HubSettings
from cloud_hub.trust.access import Services
from cloud_hub.trust.authority import Authority, IssuedCertificate, prepare
from cloud_hub.trust.enrolment import revoke
from cloud_hub.trust.tls import bind
from edgeops.canonical import sha256_bytes
from edgeops.clock import now_ms
from edgeops.errors import ConfigError
from edgeops.settings import load
from edgeops_testkit.hub_core import DeviceKey, enrolled, listening, open_hub
from edgeops_testkit.waiting import free_port, wait_until

pytestmark = pytest.mark.slow  # every test starts a server

BLOB = bytes(range(256)) * 5000


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Services]:
    with open_hub(tmp_path) as services:
        services.blobs.put(sha256_bytes(BLOB), [BLOB])
        settings = services.settings
        with listening(create_device_app(services), settings.device_port, services.authority.files.server):
            yield services


def client(
    services: Services, folder: Path, shown: tuple[DeviceKey, IssuedCertificate] | None
) -> httpx.Client:
    """A device's client: it trusts the hub's authority alone, and shows a certificate if it has one."""
    context = ssl.create_default_context(cafile=str(services.authority.files.ca))
    if shown is not None:
        key, issued = shown
        files = folder / f"{issued.serial}.key", folder / f"{issued.serial}.crt"
        files[0].write_bytes(key.pem)
        files[1].write_bytes(issued.pem)
        context.load_cert_chain(files[1], files[0])
    url = f"https://127.0.0.1:{services.settings.device_port}"
    return httpx.Client(base_url=url, verify=context, trust_env=False, timeout=20)


def ended_by(device: httpx.Client) -> httpx.TransportError:
    """What ends the connection itself: no HTTP answer comes at all."""
    with pytest.raises(httpx.TransportError) as caught:
        device.get("/device/v1/ca")
    return caught.value


def test_a_device_downloads_whole_and_in_ranges(hub: Services, tmp_path: Path) -> None:
    path = f"/device/v1/blobs/{sha256_bytes(BLOB)}"
    with client(hub, tmp_path, enrolled(hub, "pump-1")) as device:
        whole = device.get(path)
        assert (whole.status_code, whole.content) == (200, BLOB)
        assert whole.headers["etag"] == f'"{sha256_bytes(BLOB)}"'
        rest = device.get(path, headers={"Range": "bytes=1000000-", "If-Range": whole.headers["etag"]})
        assert (rest.status_code, rest.content) == (206, BLOB[1_000_000:])
        assert rest.headers["content-range"] == f"bytes 1000000-{len(BLOB) - 1}/{len(BLOB)}"
        past = device.get(path, headers={"Range": f"bytes={len(BLOB)}-"})
        assert past.status_code == 416
        assert device.get("/device/v1/blobs/" + "0" * 64).status_code == 404
        assert device.get(f"/device/v1/bundles/{'0' * 64}/signature").status_code == 404


def test_without_a_certificate_only_enrolment_is_open(hub: Services, tmp_path: Path) -> None:
    with client(hub, tmp_path, None) as stranger:
        assert stranger.get("/device/v1/ca").status_code == 200
        assert stranger.get(f"/device/v1/blobs/{sha256_bytes(BLOB)}").status_code == 401
        body = {"csr_pem": DeviceKey.new().csr()}
        assert stranger.post("/device/v1/renew", json=body).status_code == 401
        # The operator's token is for operators.
        header = {"Authorization": f"Bearer {hub.operator_token}"}
        assert stranger.post("/device/v1/renew", json=body, headers=header).status_code == 401
        assert stranger.get("/api/v1/devices", headers=header).status_code == 404


def test_a_device_renews_its_certificate(hub: Services, tmp_path: Path) -> None:
    first, key = enrolled(hub, "pump-1"), DeviceKey.new()
    with client(hub, tmp_path, first) as device:
        answer = device.post("/device/v1/renew", json={"csr_pem": key.csr("pump-2")}).json()
    assert answer["device"] == "pump-1", "whatever the request asks for"
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(answer["certificate_pem"].encode())
    pem = answer["certificate_pem"].encode()
    renewed = IssuedCertificate(pem, format(certificate.serial_number, "x"), answer["expires_at_ms"], "")
    with client(hub, tmp_path, (key, renewed)) as device:
        assert device.get(f"/device/v1/blobs/{sha256_bytes(BLOB)}").status_code == 200


def test_revocation_holds_on_an_open_connection(hub: Services, tmp_path: Path) -> None:
    path = f"/device/v1/blobs/{sha256_bytes(BLOB)}"
    with client(hub, tmp_path, enrolled(hub, "pump-1")) as device:
        assert device.get(path).status_code == 200
        revoke(
            hub.engine,
            hub.authority,
            device="pump-1",
            actor="operator",
            now_ms=now_ms(),
            on_revoked=lambda name: None,
        )
        refused = device.get(path)
        assert refused.status_code == 403
        assert refused.json()["error"]["kind"] == "access"
        assert device.post("/device/v1/renew", json={"csr_pem": DeviceKey.new().csr()}).status_code == 403


def test_a_certificate_that_the_hub_does_not_know_is_refused(hub: Services, tmp_path: Path) -> None:
    """Signed by the authority, but of no device: such as one issued before a backup was restored."""
    key = DeviceKey.new()
    issued = hub.authority.issue_device(key.csr().encode(), "ghost")
    with client(hub, tmp_path, (key, issued)) as device:
        assert device.get(f"/device/v1/blobs/{sha256_bytes(BLOB)}").status_code == 403


def foreign_authority(folder: Path) -> Authority:
    return prepare(load(HubSettings, state_dir=folder))


def test_a_foreign_certificate_ends_the_handshake(hub: Services, tmp_path: Path) -> None:
    key = DeviceKey.new()
    issued = foreign_authority(tmp_path / "foreign").issue_device(key.csr().encode(), "pump-1")
    with client(hub, tmp_path, (key, issued)) as device:
        assert not isinstance(ended_by(device), httpx.TimeoutException), "the hub says so at once"


def test_a_server_certificate_is_none_of_a_client(hub: Services, tmp_path: Path) -> None:
    server = hub.authority.files.server
    context = ssl.create_default_context(cafile=str(server.ca))
    context.load_cert_chain(server.certificate, server.key)
    url = f"https://127.0.0.1:{hub.settings.device_port}"
    with httpx.Client(base_url=url, verify=context, trust_env=False) as device:
        assert not isinstance(ended_by(device), httpx.TimeoutException), "the hub says so at once"


def test_a_device_tells_a_false_hub_apart(hub: Services, tmp_path: Path) -> None:
    false_ca = foreign_authority(tmp_path / "foreign").files.ca
    context = ssl.create_default_context(cafile=str(false_ca))
    url = f"https://127.0.0.1:{hub.settings.device_port}"
    with httpx.Client(base_url=url, verify=context, trust_env=False) as device:
        assert "CERTIFICATE_VERIFY_FAILED" in str(ended_by(device))


def test_old_tls_is_refused(hub: Services) -> None:
    context = ssl.create_default_context(cafile=str(hub.authority.files.ca))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    url = f"https://127.0.0.1:{hub.settings.device_port}"
    with httpx.Client(base_url=url, verify=context, trust_env=False) as device:
        assert re.search("EOF|protocol version", str(ended_by(device)))


def test_no_header_can_stand_for_a_certificate(hub: Services, tmp_path: Path) -> None:
    headers = {"X-Client-Cert": "pump-1", "X-Forwarded-For": "10.0.0.1", "edgeops.peer": "pump-1"}
    with client(hub, tmp_path, None) as stranger:
        answer = stranger.get(f"/device/v1/blobs/{sha256_bytes(BLOB)}", headers=headers)
    assert answer.status_code == 401


def test_a_taken_port_names_the_setting() -> None:
    taken = bind("127.0.0.1", 0, "device_port")
    port = taken.getsockname()[1]
    try:
        with pytest.raises(ConfigError) as caught:
            bind("127.0.0.1", port, "device_port")
    finally:
        taken.close()
    assert caught.value.subject == "device_port"
    assert str(port) in caught.value.message
    assert "EDGEOPS_HUB_DEVICE_PORT" in str(caught.value.remedy)


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_an_answer_under_way_is_finished_at_the_end(tmp_path: Path) -> None:
    """Cancelling the listener lets an open request get its answer."""
    entered, leave = threading.Event(), threading.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        entered.set()
        await asyncio.to_thread(leave.wait, 20)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    port = free_port()
    answers: list[str] = []
    caller = threading.Thread(
        target=lambda: answers.append(
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=20).text
        )
    )

    def answer_once_closed() -> None:
        wait_until(lambda: refuses(port), 20, "a closed listener")
        leave.set()

    gone = threading.Thread(target=answer_once_closed)
    with listening(slow, port, None):
        caller.start()
        assert entered.wait(20)
        gone.start()
    for thread in (gone, caller):
        thread.join(20)
    assert answers == ["done"]
