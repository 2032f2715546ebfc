"""The host without HTTP: engine failures, slow models, and what a cloud may answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.core.rows import FallbackReason, RingMeta
from device_agent.core.window import Block, window_of
from device_agent.serving.fallback_client import CloudAnswer
from device_agent.serving.host import INLINE_LIMIT_MS, DeviceHost
from device_agent.serving.labels import Label, LabelBook
from device_agent.serving.predictor import Predictor
from device_agent.telemetry.recorder import RingWriter
from device_agent.telemetry.ring_reader import RingReader
from edgeops.bundle import read_manifest
from edgeops.engines.base import Engine, load_engine
from edgeops.errors import InferenceError, NotFoundError, TransportError
from edgeops.manifest import Manifest
from edgeops.messages import Window
from edgeops.serving.host import Array, InferRequest, InferResponse
from edgeops_testkit.bundles import DEVICE_VARIANT, digits_data, make_bundle
from edgeops_testkit.rings import BUNDLE

IMAGE = digits_data()[2][:1]


class FakeCloud:
    """A fake of the gateway client: a fixed answer, or none."""

    def __init__(self, answer: CloudAnswer | None) -> None:
        self.answer = answer
        self.reasons: list[FallbackReason] = []

    async def ask(self, request: InferRequest, version: str, reason: FallbackReason) -> CloudAnswer:
        self.reasons.append(reason)
        if self.answer is None:
            raise TransportError("The gateway did not answer.")
        return self.answer

    async def close(self) -> None:
        return


class WatchedEngine:
    """The real engine; notes the threads it ran in, and raises `failure` instead of running, if any."""

    def __init__(self, engine: Engine, failure: Exception | None = None) -> None:
        self._engine = engine
        self.failure = failure
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.threads: list[str] = []
        self.close = engine.close

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.threads.append(threading.current_thread().name)
        if self.failure is not None:
            raise self.failure
        return self._engine.run(inputs)


class Setup:
    """A host with its parts."""

    def __init__(self, folder: Path, manifest: Manifest, engine: WatchedEngine) -> None:
        self.engine = engine
        self._manifest, self._path = manifest, folder / "a.ring"
        meta = RingMeta.of(manifest, BUNDLE, DEVICE_VARIANT, 0)
        self.predictor = Predictor(engine, manifest, RingWriter(self._path, 1 << 20, meta))
        self.book = LabelBook(meta.classes)

    def infer(
        self, cloud: FakeCloud | None, image: Array = IMAGE, *, run_ms: float = 0.0, times: int = 1
    ) -> Sequence[InferResponse]:
        host = DeviceHost(
            self._manifest, BUNDLE, DEVICE_VARIANT, self.predictor, self.book, cloud, run_ms=run_ms
        )

        async def run() -> list[InferResponse]:
            try:
                requests = [
                    InferRequest("digits", None, f"r-{number}", {"image": image}, (), {})
                    for number in range(times)
                ]
                return await asyncio.gather(*(host.infer(request, {}) for request in requests))
            finally:
                await host.close()

        return asyncio.run(run())

    def window(self) -> Window:
        reader = RingReader(self._path)
        head = reader.head()
        block = Block(reader.rows(0, head), reader.totals(0), reader.totals(head))
        times = {"start_ms": 0, "end_ms": 1}
        return window_of(block, reader.meta, reader.layout, device="d", session=1, sequence=1, **times)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), key=None)


@pytest.fixture
def setup(bundle: Path, tmp_path: Path) -> Setup:
    manifest = read_manifest(bundle)
    return Setup(tmp_path, manifest, WatchedEngine(load_engine(manifest.variant(DEVICE_VARIANT), bundle)))


def cloud_of(**outputs: Array) -> FakeCloud:
    parameters: dict[str, Any] = {"digest": "d" * 64, "variant": "teacher", "class": "3", "confidence": 0.9}
    return FakeCloud(CloudAnswer(outputs, parameters))


PROBABILITIES = np.eye(10, dtype=np.float32)[[3]]


def test_the_cloud_answers_when_the_engine_fails(setup: Setup) -> None:
    setup.engine.failure = InferenceError("The engine is out of memory.")
    cloud = cloud_of(probabilities=PROBABILITIES)
    (response,) = setup.infer(cloud)
    assert response.parameters["answered_by"] == "cloud"
    assert response.parameters["reason"] == "device_error"
    assert np.array_equal(response.outputs["probabilities"], PROBABILITIES)
    window = setup.window()
    assert (window.requests, window.errors, window.fallbacks) == (1, {"inference": 1}, {"device_error": 1})
    assert setup.book.judge(Label("r-0", "3")) is None  # the device itself has answered nothing


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(InferenceError("out of memory"), "inference"), (ZeroDivisionError("a bug"), "internal")],
)
def test_without_a_cloud_the_failure_is_told_and_counted(setup: Setup, failure: Exception, kind: str) -> None:
    setup.engine.failure = failure
    with pytest.raises(type(failure)):
        setup.infer(FakeCloud(None))
    window = setup.window()
    assert (window.requests, window.errors) == (1, {kind: 1})
    assert window.fallback_failures == {"device_error": 1}


def test_a_device_without_a_gateway_never_misses_it(setup: Setup) -> None:
    (response,) = setup.infer(None, np.full((1, 1, 8, 8), 0.3, np.float32))
    assert response.parameters["answered_by"] == "device"
    assert "reason" not in response.parameters
    assert setup.window().fallback_failures == {}


def test_an_answer_without_the_models_outputs_is_none(setup: Setup) -> None:
    (response,) = setup.infer(cloud_of(other=PROBABILITIES), np.full((1, 1, 8, 8), 0.3, np.float32))
    assert response.parameters["reason"] == "fallback_unavailable"
    assert setup.window().fallback_failures == {"low_confidence": 1}


def test_one_unsure_item_sends_the_whole_batch(setup: Setup) -> None:
    batch = np.concatenate([IMAGE, np.full((1, 1, 8, 8), 0.3, np.float32)])
    cloud = cloud_of(probabilities=np.eye(10, dtype=np.float32)[[3, 3]])
    (response,) = setup.infer(cloud, batch)
    assert response.parameters["answered_by"] == "cloud"
    assert cloud.reasons == ["low_confidence"]
    assert setup.window().fallbacks == {"low_confidence": 1}
    assert setup.book.judge(Label("r-0", "3")) is None  # a label is for one item


@pytest.mark.parametrize("run_ms", [0.0, INLINE_LIMIT_MS, INLINE_LIMIT_MS + 0.1])
def test_only_slow_models_run_in_a_thread(setup: Setup, run_ms: float) -> None:
    responses = setup.infer(None, run_ms=run_ms, times=20)
    assert len(responses) == setup.window().requests == 20
    main = threading.current_thread().name
    in_thread = run_ms > INLINE_LIMIT_MS
    assert all((name != main) == in_thread for name in setup.engine.threads)
    assert len(set(setup.engine.threads)) == 1


def test_another_model_or_version_is_not_found_and_counted(setup: Setup, bundle: Path) -> None:
    manifest = read_manifest(bundle)
    host = DeviceHost(manifest, BUNDLE, DEVICE_VARIANT, setup.predictor, setup.book, None, run_ms=0.0)
    for model, version in (("letters", None), ("digits", "2.0.0")):
        request = InferRequest(model, version, "", {"image": IMAGE}, (), {})
        with pytest.raises(NotFoundError):
            asyncio.run(host.infer(request, {}))
        assert not host.ready(model, version)
    assert host.ready("digits", "1.0.0")
    assert setup.window().rejected == 2
