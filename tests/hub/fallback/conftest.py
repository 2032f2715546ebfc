"""One hub with two published versions, one device, and a running gateway, for all tests of this folder that
do not change what others see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud_hub.trust.access import Services
from edgeops_testkit.gateway import DeviceFiles, RunningGateway, enrol, make_and_publish, running_gateway
from edgeops_testkit.hub_core import open_hub


@dataclass(frozen=True)
class Site:
    """What the folder's tests share. `digests` by version."""

    root: Path
    services: Services
    gateway: RunningGateway
    device: DeviceFiles
    digests: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("hub")
    with open_hub(root, request_size_bytes=256 << 10, fallback_memory_bytes=512 << 20) as services:
        digests = {
            version: make_and_publish(services, root, version=version) for version in ("1.0.0", "1.1.0")
        }
        device = enrol(services, root, "cam-1")
        with running_gateway(services) as gateway:
            yield Site(root, services, gateway, device, digests)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """A hub of the test's own, with nothing published and no gateway."""
    with open_hub(tmp_path) as opened:
        yield opened
