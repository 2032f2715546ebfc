"""A prepared hub with a real, running mosquitto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeops_testkit.hub_mqtt import MqttHub, mqtt_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[MqttHub]:
    with mqtt_hub(tmp_path) as opened:
        yield opened
