"""A prepared hub, and its two applications behind in-process clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from cloud_hub.app import create_api_app, create_device_app
from cloud_hub.trust.access import Services
from edgeops_testkit.hub_core import open_hub


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with open_hub(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """One hub for all examples of a property test, which clears what it writes."""
    with open_hub(tmp_path_factory.mktemp("hub")) as opened:
        yield opened


@pytest.fixture
def operators(services: Services) -> Iterator[TestClient]:
    """The operators' application, with the operator's token."""
    app = create_api_app(services, dashboard=False)
    headers = {"Authorization": f"Bearer {services.operator_token}"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def anyone(services: Services) -> Iterator[TestClient]:
    """The operators' application, with nothing to show."""
    with TestClient(create_api_app(services, dashboard=False), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def device_side(services: Services) -> Iterator[TestClient]:
    """The devices' application, without a certificate."""
    with TestClient(create_device_app(services), raise_server_exceptions=False) as client:
        yield client
