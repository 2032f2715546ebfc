"""A text that the device is unsure of: from a real serving process to the real gateway and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from edgeops.bundle import read_manifest
from edgeops.confidence import confidences
from edgeops.engines.base import load_engine
from edgeops.serving.text_tensor import text_array
from edgeops_testkit.gateway import enrol, publish, running_gateway
from edgeops_testkit.hub_core import open_hub
from edgeops_testkit.serving_process import ServingProcess, infer_texts, listening, window_of
from edgeops_testkit.text_models import (
    CLOUD_VARIANT,
    DEVICE_VARIANT,
    MAX_CHARACTERS,
    TEXTS,
    make_text_bundle,
)

pytestmark = pytest.mark.slow

# At this temperature the device trusts itself less than its probabilities say.
TEMPERATURE, THRESHOLD = 2.0, 0.6


def test_the_cloud_answers_what_the_device_is_unsure_of(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    with open_hub(tmp_path, request_size_bytes=256 << 10, fallback_memory_bytes=1 << 30) as services:
        bundle = make_text_bundle(
            tmp_path / "bundles",
            key=tmp_path / "builder.key",
            temperature=TEMPERATURE,
            threshold=THRESHOLD,
        )
        (bundle / "measurements.json").write_text("{}")
        publish(services, bundle)
        device = enrol(services, tmp_path, "cam-1")
        with running_gateway(services) as gateway, listening() as listener:
            manifest = read_manifest(bundle)
            texts = [text for text, _ in TEXTS]
            own = load_engine(manifest.variant(DEVICE_VARIANT), bundle)
            teacher = load_engine(manifest.variant(CLOUD_VARIANT), bundle)
            sure = confidences(own.run({"text": text_array(texts)})["probabilities"], TEMPERATURE)
            assert 0 < (sure >= THRESHOLD).sum() < len(texts), sure
            options = {
                "gateway_url": f"https://{gateway.address}",
                "fallback_timeout_s": 20.0,
                "device_key_path": str(device.key),
                "device_cert_path": str(device.certificate),
                "ca_path": str(gateway.ca),
            }
            with ServingProcess(bundle, tmp_path / "rings" / "a.ring", listener, **options) as process:
                process.serve()
                for text, confidence in zip(texts, sure, strict=True):
                    result = infer_texts(process, [text])
                    parameters = result.get_response()["parameters"]
                    by_device = confidence >= THRESHOLD
                    engine = own if by_device else teacher
                    expected = engine.run({"text": text_array([text])})["probabilities"]
                    np.testing.assert_array_equal(result.as_numpy("probabilities"), expected)
                    assert parameters["answered_by"] == ("device" if by_device else "cloud"), text
                    if by_device:
                        assert parameters["confidence"] == pytest.approx(confidence)
                window = window_of(process, tmp_path)
            low = int((sure < THRESHOLD).sum())
            assert (window.requests, window.fallbacks) == (len(texts), {"low_confidence": low})
            tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["x" * (MAX_CHARACTERS + 1)]}
            refused = gateway.client(device).post(
                "/v2/models/commands/versions/1.0.0/infer", json={"inputs": [tensor]}
            )
            assert refused.status_code == 400
            assert "201 characters" in refused.json()["error"]
            client = triton.InferenceServerClient(
                gateway.address,
                ssl=True,
                ssl_options={
                    "ca_certs": str(gateway.ca),
                    "certfile": str(device.certificate),
                    "keyfile": str(device.key),
                },
            )
            two = triton.InferInput("text", [2], "BYTES")
            two.set_data_from_numpy(np.array(["rain in Zürich", "play"], object))
            got = client.infer("commands", [two], model_version="1.0.0").as_numpy("probabilities")
            expected = teacher.run({"text": text_array(["rain in Zürich", "play"])})["probabilities"]
            np.testing.assert_array_equal(got, expected)
            client.close()
