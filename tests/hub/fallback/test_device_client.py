"""A device's own fallback client against the real gateway: the two ends of the fallback contract."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sqlalchemy import text

from cloud_hub.store.database import writing
from device_agent.serving.fallback_client import CloudAnswer, Gateway
from edgeops.errors import TransportError
from edgeops.serving.host import InferRequest
from edgeops_testkit.bundles import CLOUD_VARIANT, digits_data
from edgeops_testkit.gateway import enrol, make_and_publish, running_gateway
from edgeops_testkit.hub_core import open_hub

pytestmark = pytest.mark.slow


def _ask(site: Any, version: str, images: np.ndarray) -> CloudAnswer:
    async def scenario() -> CloudAnswer:
        gateway = Gateway(
            f"https://{site.gateway.address}",
            key_path=site.device.key,
            cert_path=site.device.certificate,
            ca_path=site.gateway.ca,
            timeout_s=20,
            answer_size_bytes=1 << 20,
        )
        try:
            request = InferRequest("digits", None, "r1", {"image": images}, (), {})
            return await gateway.ask(request, version, "low_confidence")
        finally:
            await gateway.close()

    return asyncio.run(scenario())


def test_a_device_gets_what_it_asks_for(site: Any) -> None:
    images = digits_data()[2][:2]
    answer = _ask(site, "1.1.0", images)
    model = site.root / f"bundles/digits-1.1.0/variants/{CLOUD_VARIANT}/model.onnx"
    expected = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(answer.outputs["probabilities"], expected.run(None, {"image": images})[0])
    assert answer.parameters["answered_by"] == "cloud"
    assert answer.parameters["reason"] == "low_confidence"
    assert answer.parameters["digest"] == site.digests["1.1.0"]


def test_a_device_is_told_when_there_is_no_answer(site: Any) -> None:
    with pytest.raises(TransportError, match="answered 404"):
        _ask(site, "7.0.0", digits_data()[2][:1])


def test_a_database_that_is_away_is_503_and_comes_back(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services:
        make_and_publish(services, tmp_path)
        device = enrol(services, tmp_path, "cam-1")
        with running_gateway(services) as gateway:
            with writing(services.engine) as connection:
                connection.execute(text("ALTER TABLE certificates RENAME TO away"))
            client = gateway.client(device)
            refused = client.get("/v2")
            assert (refused.status_code, "database" in refused.json()["error"]) == (503, True)
            # The operator's token needs no database, and the registry stays as it was read.
            assert gateway.operator().get("/v2/models/digits/versions/1.0.0").status_code == 200
            with writing(services.engine) as connection:
                connection.execute(text("ALTER TABLE away RENAME TO certificates"))
            assert client.get("/v2").status_code == 200
