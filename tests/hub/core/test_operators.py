"""The operators' application: who may do what, errors, limits, headers, sign-in, the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.routing import Route

from cloud_hub import audit
from cloud_hub.app import create_api_app
from cloud_hub.store.database import reading, writing
from cloud_hub.trust import login
from cloud_hub.trust.access import Services
from edgeops.clock import now_ms
from edgeops.errors import UnauthenticatedError
from edgeops_testkit.hub_core import open_hub

# Path parameters that not every name fits.
VALUES = {"{sha256}": "a" * 64, "{version}": "1.0.0", "{alias}": "prod"}


def test_every_operators_route_needs_the_token(services: Services, anyone: TestClient) -> None:
    """Found from the OpenAPI document, so that a route added later is tested too."""
    document = anyone.get("/openapi.json").json()
    checked = 0
    for path, operations in document["paths"].items():
        if not path.startswith("/api/"):
            continue
        for method in operations:
            address = (
                path.replace("{sha256}", "a" * 64).replace("{version}", "1.0.0").replace("{alias}", "prod")
            )
            address = address.replace("{name}", "x").replace("{rollout_id}", "r").replace("{rollout}", "r")
            answer = anyone.request(method, address)
            assert answer.status_code in (400, 401), f"{method} {path}: {answer.status_code}"
            assert anyone.request(method, address, json={}).status_code in (400, 401)
            checked += 1
    assert checked >= 12


def test_a_wrong_token_is_refused_then_limited(services: Services, anyone: TestClient) -> None:
    wrong = {"Authorization": "Bearer " + "x" * 43}
    answers = [anyone.get("/api/v1/devices", headers=wrong) for _ in range(31)]
    assert [answer.status_code for answer in answers] == [401] * 30 + [429]
    assert answers[0].headers["WWW-Authenticate"] == "Bearer"
    assert int(answers[-1].headers["Retry-After"]) >= 1
    right = {"Authorization": f"Bearer {services.operator_token}"}
    assert anyone.get("/api/v1/devices", headers=right).status_code == 200, "nobody can lock the operator out"


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic {}", "bearer {}x", "{}"])
def test_only_the_bearer_token_counts(services: Services, anyone: TestClient, value: str) -> None:
    header = {"Authorization": value.format(services.operator_token)}
    assert anyone.get("/api/v1/devices", headers=header).status_code == 401


def test_a_session_cookie_opens_no_api(services: Services, anyone: TestClient) -> None:
    cookie = login.start_session(services.engine, "operator", now_ms())
    answer = anyone.get("/api/v1/devices", headers={"Cookie": f"{login.COOKIE}={cookie}"})
    assert answer.status_code == 401


def test_errors_are_json_with_a_kind(operators: TestClient) -> None:
    cases = {
        ("GET", "/api/v1/nothing"): (404, "not_found"),
        ("DELETE", "/api/v1/devices"): (405, "bad_request"),
        ("GET", "/api/v1/devices/nobody"): (404, "not_found"),
        ("GET", "/api/v1/devices/NOT-A-NAME"): (400, "bad_request"),
        ("GET", "/api/v1/devices?limit=0"): (400, "bad_request"),
        ("POST", "/api/v1/devices/nobody/revoke"): (404, "not_found"),
        ("GET", "/api/v1/bundles/digits/one"): (400, "bad_request"),
    }
    for (method, path), (status, kind) in cases.items():
        answer = operators.request(method, path)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind), path


def test_another_method_is_told_which_are_allowed(operators: TestClient) -> None:
    assert operators.delete("/api/v1/tokens").headers["allow"] == "POST"
    assert operators.patch("/api/v1/models/digits/aliases/prod").headers["allow"] == "PUT"


def test_a_refused_value_is_not_repeated(operators: TestClient) -> None:
    answer = operators.post("/api/v1/tokens", json={"uses": "a-secret-typed-in-the-wrong-place"})
    assert answer.status_code == 400
    assert "a-secret" not in answer.text


def test_an_unexpected_error_tells_nothing(services: Services) -> None:
    app = create_api_app(services, dashboard=False)

    async def broken(_request: object) -> None:
        raise RuntimeError("the inside of the hub")

    app.router.routes.insert(0, Route("/broken", broken))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/broken")
        text = client.get("/metrics").text
    assert answer.status_code == 500
    assert answer.json()["error"]["kind"] == "internal"
    assert "inside" not in answer.text
    assert 'status="500"' in text, "an error is counted too"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[TestClient]:
    with open_hub(tmp_path, request_size_bytes=2048, blob_size_bytes=1 << 20) as services:
        headers = {"Authorization": f"Bearer {services.operator_token}"}
        app = create_api_app(services, dashboard=False)
        with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
            yield client


def test_too_large_a_request_is_refused(small: TestClient) -> None:
    body = json.dumps({"sha256": ["a" * 64] * 100}).encode()
    kind = {"Content-Type": "application/json"}
    assert small.post("/api/v1/blobs/missing", content=body[:1000], headers=kind).status_code == 400
    assert small.post("/api/v1/blobs/missing", content=body, headers=kind).status_code == 413

    def unannounced() -> Iterator[bytes]:
        for start in range(0, len(body), 500):
            yield body[start : start + 500]

    # Without a length it is counted on the way, so the framework reports it as a body that broke off.
    broken_off = small.post("/api/v1/blobs/missing", content=unannounced(), headers=kind)
    assert broken_off.status_code in (400, 413)
    assert small.put("/api/v1/blobs/" + "a" * 64, content=bytes(1 << 21)).status_code == 413
    assert small.put("/api/v1/blobs/" + "a" * 64, content=bytes(1 << 19)).status_code == 422


def test_answers_carry_security_headers(operators: TestClient) -> None:
    for path in ("/api/v1/devices", "/login", "/healthz"):
        headers = operators.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert operators.get("/api/v1/devices").headers["cache-control"] == "no-store"


def test_a_code_opens_one_session(services: Services, operators: TestClient, anyone: TestClient) -> None:
    answer = operators.post("/api/v1/login-codes").json()
    assert answer["url"].endswith(f"/login?code={answer['code']}")
    entered = anyone.get("/login", params={"code": answer["code"]}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    value = entered.cookies[login.COOKIE]
    scope = {"headers": [(b"cookie", f"a=b; {login.COOKIE}={value}".encode())]}
    assert login.session_of(scope, services) == "operator"
    anyone.cookies.clear()
    assert anyone.get("/login", params={"code": answer["code"]}).status_code == 401, "it works once"
    anyone.cookies.set(login.COOKIE, value)
    assert anyone.post("/logout", follow_redirects=False).status_code == 303
    assert login.session_of(scope, services) is None


def test_codes_and_sessions_end_by_themselves(services: Services) -> None:
    long_ago = now_ms() - login.SESSION_TTL_MS
    code, _ = login.issue_code(services.engine, "operator", long_ago)
    with pytest.raises(UnauthenticatedError):
        login.open_session(services.engine, code, long_ago + login.CODE_TTL_MS)
    value = login.start_session(services.engine, "operator", long_ago)
    scope = {"headers": [(b"cookie", f"{login.COOKIE}={value}".encode())]}
    assert login.session_of(scope, services) is None


@pytest.mark.parametrize("header", [[], [(b"cookie", b"")], [(b"cookie", b"edgeops_session=guess; x")]])
def test_no_cookie_no_session(services: Services, header: list[tuple[bytes, bytes]]) -> None:
    assert login.session_of({"headers": header}, services) is None


def test_the_token_signs_in_by_a_form(services: Services, anyone: TestClient) -> None:
    assert "Operator's token" in anyone.get("/login").text
    wrong = anyone.post("/login", content="token=wrong")
    assert wrong.status_code == 401 and "not the operator" in wrong.text
    right = anyone.post("/login", data={"token": services.operator_token}, follow_redirects=False)
    assert right.status_code == 303
    assert login.COOKIE in right.cookies


def test_the_audit_log_pages_backwards(services: Services, operators: TestClient) -> None:
    with writing(services.engine) as connection:
        for number in range(5):
            audit.record(connection, "operator", "thing.do", f"subject-{number}", {"n": number}, number)
    first = operators.get("/api/v1/audit", params={"limit": 2}).json()["entries"]
    assert [entry["subject"] for entry in first] == ["subject-4", "subject-3"]
    older = operators.get("/api/v1/audit", params={"before_id": first[-1]["id"]}).json()["entries"]
    assert [entry["detail"]["n"] for entry in older] == [2, 1, 0]


def test_an_act_that_fails_leaves_no_entry(services: Services) -> None:
    with pytest.raises(RuntimeError), writing(services.engine) as connection:
        audit.record(connection, "operator", "thing.do", "subject", {}, 1)
        raise RuntimeError("the act failed")
    with reading(services.engine) as connection:
        assert audit.entries(connection, limit=10) == []
