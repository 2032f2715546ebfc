"""schemathesis on both applications: whatever fits the OpenAPI document, or nearly does, gets no 5xx."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from cloud_hub.app import create_api_app, create_device_app
from cloud_hub.trust.access import Services
from cloud_hub.trust.tls import PEER
from edgeops_testkit.hub_core import enrolled, open_hub

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with open_hub(tmp_path_factory.mktemp("hub"), enroll_rate_per_minute=1_000_000) as services:
        yield services


@pytest.fixture
def operators_schema(hub: Services) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", create_api_app(hub, dashboard=False))


@pytest.fixture
def devices_schema(hub: Services) -> Any:
    """The devices' application as a device with a certificate meets it (see cloud_hub/trust/tls.py)."""
    name = f"device-{secrets.token_hex(4)}"
    _, issued = enrolled(hub, name)
    app = create_device_app(hub)
    peer = {"device": name, "serial": issued.serial}

    async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {PEER: peer}} if scope["type"] == "http" else scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", with_certificate)


def check_every_operation(schema: Any, headers: dict[str, str]) -> int:
    """Sends generated requests to each operation of the document; returns how many operations there are."""
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:

        @BOUNDED
        @given(case=operation.as_strategy())
        def run(case: Any) -> None:
            response = case.call(headers=headers)
            assert response.status_code < 500, response.text
            case.validate_response(response, checks=CHECKS)

        run()
    return len(operations)


@pytest.mark.slow
def test_operators_api_has_no_server_error(operators_schema: Any, hub: Services) -> None:
    count = check_every_operation(operators_schema, {"Authorization": f"Bearer {hub.operator_token}"})
    assert count >= 15


@pytest.mark.slow
def test_devices_api_has_no_server_error(devices_schema: Any) -> None:
    assert check_every_operation(devices_schema, {}) == 5
