"""A hub with six devices at three sites, and three bundles, all of them real."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from cloud_hub.app import create_api_app
from edgeops.messages import BundleRef
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.hub_core import open_hub
from edgeops_testkit.hub_fleet import FleetHub

DEVICES = {f"d{number}": ("north", "south", "east")[number % 3] for number in range(6)}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, BundleRef]]:
    """The folder of a hub that trusts the builder, with its bundles published and the devices online."""
    root = tmp_path_factory.mktemp("prepared")
    with open_hub(root) as services:
        fleet_hub = FleetHub(services)
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            bundle = make_bundle(root / "built", version=version, key=root / "builder.key", teacher=False)
            fleet_hub.publish(bundle)
        for name, site in DEVICES.items():
            fleet_hub.enroll(name, site)
        return root, fleet_hub.bundles


@pytest.fixture
def hub(tmp_path: Path, prepared: tuple[Path, dict[str, BundleRef]]) -> Iterator[FleetHub]:
    """A hub of the test's own."""
    root, bundles = prepared
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    with open_hub(tmp_path, drift_span_s=600) as services:
        yield FleetHub(services, bundles=dict(bundles), revision=1_000)


@pytest.fixture
def api(hub: FleetHub) -> Iterator[TestClient]:
    """The operators' application, with the operator's token."""
    app = create_api_app(hub.services, dashboard=False)
    headers = {"Authorization": f"Bearer {hub.services.operator_token}"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        yield client
