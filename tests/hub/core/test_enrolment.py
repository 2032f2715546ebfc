"""Enrolment through the devices' API: tokens, names, renewal, revocation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi.testclient import TestClient
from sqlalchemy import select

from cloud_hub import audit
from cloud_hub.app import create_device_app
from cloud_hub.store import schema
from cloud_hub.store.database import reading
from cloud_hub.trust import enrolment
from cloud_hub.trust.access import Services, check_device
from cloud_hub.trust.limits import RateLimiter
from edgeops.clock import now_ms
from edgeops.errors import AccessError, RateLimitedError
from edgeops.signing.keys import public_pem
from edgeops_testkit.hub_core import DeviceKey, open_hub, read_token, token


def enroll(
    client: TestClient, granted: dict[str, str], device: str, key: DeviceKey | None = None
) -> tuple[int, dict[str, object]]:
    body = {
        "id": granted["id"],
        "secret": granted["secret"],
        "device": device,
        "csr_pem": (key or DeviceKey.new()).csr(),
    }
    response = client.post("/device/v1/enroll", json=body)
    return response.status_code, response.json()


def serial_of(answer: dict[str, object]) -> str:
    certificate = x509.load_pem_x509_certificate(str(answer["certificate_pem"]).encode())
    return format(certificate.serial_number, "x")


def revoked_serials(services: Services) -> set[str]:
    crl = x509.load_pem_x509_crl(services.authority.files.revocations.read_bytes())
    return {format(entry.serial_number, "x") for entry in crl}


def test_a_token_enrols_a_device_with_its_labels(services: Services, device_side: TestClient) -> None:
    granted = token(services, labels={"site": "north", "line": "3"})
    key = DeviceKey.new()
    status, answer = enroll(device_side, granted, "pump-1", key)
    assert status == 201, answer
    settings = services.settings
    assert answer["mqtt_host"] == settings.public_host and answer["mqtt_port"] == settings.mqtt_port
    assert answer["hub_url"] == f"https://127.0.0.1:{settings.device_port}" == granted["url"]
    assert answer["gateway_url"] == f"https://127.0.0.1:{settings.gateway_port}"
    assert answer["desired_key_pem"] == public_pem(services.desired_key.public_key()).decode()
    certificate = x509.load_pem_x509_certificate(str(answer["certificate_pem"]).encode())
    assert certificate.public_key() == key.key.public_key()
    with reading(services.engine) as connection:
        device = connection.execute(select(schema.devices)).one()
        stored = connection.execute(select(schema.tokens)).one()
        acts = [entry.action for entry in audit.entries(connection, limit=10)]
    assert (device.name, device.site) == ("pump-1", "north")
    assert device.labels_json == '{"line": "3", "site": "north"}'
    assert device.certificate_serial == serial_of(answer)
    assert granted["secret"] not in str(tuple(stored)), "only a hash of the secret is stored"
    assert acts == ["device.enroll", "token.issue"]
    check_device(services.engine, "pump-1", serial_of(answer))


def test_the_authority_can_be_told_by_the_tokens_fingerprint(
    services: Services, device_side: TestClient
) -> None:
    response = device_side.get("/device/v1/ca")
    der = x509.load_pem_x509_certificate(response.content).public_bytes(Encoding.DER)
    assert hashlib.sha256(der).hexdigest() == token(services)["ca_sha256"]


@pytest.mark.parametrize("change", ["secret", "id", "expired", "used"])
def test_a_wrong_token_is_refused(services: Services, device_side: TestClient, change: str) -> None:
    granted = token(services, at_ms=now_ms() - 7_200_000) if change == "expired" else token(services)
    if change == "secret":
        granted["secret"] = "A" * 43
    if change == "id":
        granted["id"] = "0" * 32
    if change == "used":
        assert enroll(device_side, granted, "first")[0] == 201
    status, answer = enroll(device_side, granted, "pump-1")
    assert status == 401
    assert answer["error"]["kind"] == "unauthenticated"  # type: ignore[index]
    with reading(services.engine) as connection:
        names = connection.execute(select(schema.devices.c.name)).scalars().all()
    assert "pump-1" not in names


def test_a_token_enrols_no_more_devices_than_it_says(services: Services, device_side: TestClient) -> None:
    granted = token(services, uses=2)
    statuses = [enroll(device_side, granted, f"pump-{number}")[0] for number in range(3)]
    assert statuses == [201, 201, 401]


def test_a_lost_answer_can_be_asked_for_again(services: Services, device_side: TestClient) -> None:
    granted, key = token(services), DeviceKey.new()
    _, first = enroll(device_side, granted, "pump-1", key)
    status, second = enroll(device_side, granted, "pump-1", key)
    assert status == 201, "same token, same key: the same device"
    for answer in (first, second):
        check_device(services.engine, "pump-1", serial_of(answer))
    assert enroll(device_side, granted, "pump-2", key)[0] == 401, "another name needs another use"


def test_a_taken_name_is_a_conflict(services: Services, device_side: TestClient) -> None:
    _, first = enroll(device_side, token(services), "pump-1")
    granted = token(services)
    status, answer = enroll(device_side, granted, "pump-1")
    assert status == 409
    assert answer["error"]["subject"] == "pump-1"  # type: ignore[index]
    check_device(services.engine, "pump-1", serial_of(first))
    assert enroll(device_side, granted, "pump-2")[0] == 201, "a refused attempt uses nothing up"


def test_a_token_that_allows_it_replaces_a_device(services: Services, device_side: TestClient) -> None:
    _, first = enroll(device_side, token(services), "pump-1")
    status, second = enroll(device_side, token(services, reenroll=True), "pump-1")
    assert status == 201
    check_device(services.engine, "pump-1", serial_of(second))
    with pytest.raises(AccessError, match="revoked"):
        check_device(services.engine, "pump-1", serial_of(first))
    assert revoked_serials(services) == {serial_of(first)}


@pytest.mark.parametrize("name", ["", "UPPER", "a/b", "a b", "-a", "a" * 65, "ä", "+", "#"])
def test_an_unfit_name_is_refused(services: Services, device_side: TestClient, name: str) -> None:
    status, answer = enroll(device_side, token(services), name)
    assert status == 400
    assert "device" in str(answer["error"])


def test_an_unfit_request_is_refused_and_uses_nothing_up(services: Services, device_side: TestClient) -> None:
    granted = token(services)
    body = {"id": granted["id"], "secret": granted["secret"], "device": "pump-1", "csr_pem": "nonsense"}
    assert device_side.post("/device/v1/enroll", json=body).status_code == 400
    assert enroll(device_side, granted, "pump-1")[0] == 201


def test_attempts_are_rate_limited(tmp_path: Path) -> None:
    with open_hub(tmp_path, enroll_rate_per_minute=3) as services:
        with TestClient(create_device_app(services), raise_server_exceptions=False) as client:
            wrong = {"id": "0" * 32, "secret": "guess"}
            statuses = [enroll(client, wrong, "pump-1")[0] for _ in range(4)]
            assert statuses == [401, 401, 401, 429]
            body = {**wrong, "device": "pump-1", "csr_pem": DeviceKey.new().csr()}
            refused = client.post("/device/v1/enroll", json=body)
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.json()["error"]["details"]["retry_after_s"] == int(refused.headers["Retry-After"])


def test_the_limit_is_per_source_and_refills() -> None:
    now = 0.0
    limiter = RateLimiter(6, clock_s=lambda: now)
    for _ in range(6):
        limiter.attempt("a")
    with pytest.raises(RateLimitedError) as caught:
        limiter.attempt("a")
    assert caught.value.details["retry_after_s"] == 10
    limiter.attempt("b")
    now = 10.0
    limiter.attempt("a")
    with pytest.raises(RateLimitedError):
        limiter.attempt("a")


def test_all_sources_together_are_limited_too() -> None:
    limiter = RateLimiter(2, clock_s=lambda: 0.0)
    for number in range(20):
        limiter.attempt(f"source-{number}")
    with pytest.raises(RateLimitedError):
        limiter.attempt("source-20")


def test_renewal_keeps_the_old_certificate_until_it_ends(services: Services, device_side: TestClient) -> None:
    _, first = enroll(device_side, token(services), "pump-1")
    key = ec.generate_private_key(ec.SECP256R1())
    renewed = enrolment.renew(
        services.engine,
        services.authority,
        device="pump-1",
        csr_pem=DeviceKey(key).csr().encode(),
        now_ms=now_ms(),
    )
    check_device(services.engine, "pump-1", renewed.serial)
    check_device(services.engine, "pump-1", serial_of(first))
    with reading(services.engine) as connection:
        current = connection.execute(select(schema.devices.c.certificate_serial)).scalar_one()
    assert current == renewed.serial


def test_revoking_ends_every_certificate_and_tells_the_broker(
    services: Services, device_side: TestClient, operators: TestClient
) -> None:
    key = DeviceKey.new()
    granted = token(services)
    serials = {serial_of(enroll(device_side, granted, "pump-1", key)[1]) for _ in range(2)}
    enroll(device_side, token(services), "pump-2")
    answers = [operators.post("/api/v1/devices/pump-1/revoke").json() for _ in range(2)]
    assert answers == [{"device": "pump-1", "new": True}, {"device": "pump-1", "new": False}]
    assert revoked_serials(services) == serials
    for serial in serials:
        with pytest.raises(AccessError, match="revoked"):
            check_device(services.engine, "pump-1", serial)
    with pytest.raises(AccessError):
        enrolment.renew(
            services.engine,
            services.authority,
            device="pump-1",
            csr_pem=key.csr().encode(),
            now_ms=now_ms(),
        )
    # The broker's own copies, which it reads again upon a signal.
    broker = services.settings.state_dir / "broker"
    assert "user pump-1" in (broker / "devices.acl").read_text()
    assert "user pump-2" not in (broker / "devices.acl").read_text()
    assert (broker / "revoked.crl").read_bytes() == services.authority.files.revocations.read_bytes()


def test_the_same_key_cannot_come_back_after_a_revocation(
    services: Services, device_side: TestClient, operators: TestClient
) -> None:
    key = DeviceKey.new()
    enroll(device_side, token(services), "pump-1", key)
    operators.post("/api/v1/devices/pump-1/revoke")
    assert enroll(device_side, token(services), "pump-1", key)[0] == 409
    status, answer = enroll(device_side, token(services, reenroll=True), "pump-1", key)
    assert status == 201
    check_device(services.engine, "pump-1", serial_of(answer))
    assert "user pump-1" not in (services.settings.state_dir / "broker" / "devices.acl").read_text()


def test_a_restart_restores_the_revocation_list(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services:
        with TestClient(create_device_app(services)) as client:
            _, answer = enroll(client, token(services), "pump-1")
        enrolment.revoke(
            services.engine,
            services.authority,
            device="pump-1",
            actor="operator",
            now_ms=now_ms(),
            on_revoked=lambda device: None,
        )
        # As if the hub had ended between the database and the file.
        services.authority.update_revocations(list)
    with open_hub(tmp_path) as services:
        assert revoked_serials(services) == {serial_of(answer)}


def test_tokens_over_the_api(operators: TestClient, anyone: TestClient, services: Services) -> None:
    body = {"labels": {"site": "north"}, "uses": 3, "ttl_s": 60}
    answer = operators.post("/api/v1/tokens", json=body)
    assert answer.status_code == 201
    assert read_token(answer.json()["token"])["ca_sha256"] == services.authority.ca_sha256
    assert 0 < answer.json()["expires_at_ms"] - now_ms() <= 60_000
    assert anyone.post("/api/v1/tokens", json=body).status_code == 401
    unfit = [{"uses": 0}, {"ttl_s": 1}, {"labels": {"Site": "x"}}, {"labels": {"a": "X"}}, {"lables": {}}]
    assert [operators.post("/api/v1/tokens", json=each).status_code for each in unfit] == [400] * 5
