"""The hub's host of models: a bundle's cloud variant answers in the device's place."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloud_hub.fallback.catalog import Catalog, Served
from cloud_hub.fallback.engines import EnginePool
from cloud_hub.fallback.ledger import Ledger
from cloud_hub.fallback.metrics import GatewayMetrics
from edgeops.clock import now_ms
from edgeops.confidence import item_confidences
from edgeops.errors import BadRequestError, EdgeopsError, InferenceError, NotFoundError
from edgeops.serving.host import (
    ANSWERED_BY,
    CONFIDENCE,
    DIGEST,
    LABEL,
    REASON,
    VARIANT,
    Array,
    InferRequest,
    InferResponse,
    ModelInfo,
)

CALLER_NAME = "name"
CALLER_REASON = "reason"


class FallbackHost:
    """Fits `edgeops.serving.host.ModelHost`. `caller` in `infer` has `name` and `reason`."""

    def __init__(
        self, catalog: Catalog, engines: EnginePool, ledger: Ledger, metrics: GatewayMetrics
    ) -> None:
        self._catalog = catalog
        self._engines = engines
        self._ledger = ledger
        self._metrics = metrics

    def live(self) -> bool:
        """The process answers."""
        return True

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the registry was read; of a model, whether it is among what can be served. Engines are
        loaded when they are first asked for."""
        if model is None:
            return self._catalog.was_read
        try:
            self._catalog.find(model, version)
        except NotFoundError:
            return False
        return True

    def models(self) -> Sequence[ModelInfo]:
        """All published models that have a cloud variant."""
        return [_info(each[0], each) for each in self._catalog.versions().values()]

    def model(self, name: str, version: str | None = None) -> ModelInfo:
        """One model's metadata, or `NotFoundError`."""
        served = self._catalog.find(name, version)
        return _info(served, self._catalog.versions()[served.name])

    async def infer(self, request: InferRequest, caller: Mapping[str, Any]) -> InferResponse:
        """The cloud variant's answer. Raises `NotFoundError`, `BadRequestError`, `OverloadedError`, and
        `InferenceError` or `ArtifactError` when the engine fails or cannot be loaded."""
        started = time.perf_counter()
        reason: str = caller[CALLER_REASON]
        try:
            served = self._catalog.find(request.model, request.version)
        except NotFoundError as error:
            self._metrics.rejected(error.kind)
            raise
        try:
            served.contract.outside(request.inputs)
            outputs = await self._engines.run(served, request.inputs)
            parameters = _parameters(served, reason, outputs)
        except BadRequestError as error:
            self._metrics.rejected(error.kind)
            raise
        except EdgeopsError as error:
            self._count(served, caller[CALLER_NAME], reason, error.kind, started)
            raise
        self._count(served, caller[CALLER_NAME], reason, "ok", started)
        return InferResponse(served.name, served.version, request.id, outputs, parameters)

    def rejected(self, kind: str) -> None:
        """Counts a request that was refused before it got here."""
        self._metrics.rejected(kind)

    def _count(self, served: Served, caller: str, reason: str, outcome: str, started: float) -> None:
        elapsed_s = time.perf_counter() - started
        self._metrics.answered(served.name, reason, outcome, elapsed_s)
        self._ledger.add(
            at_ms=now_ms(),
            model=served.name,
            caller=caller,
            reason=reason,
            latency_ms=elapsed_s * 1000,
            failed=outcome != "ok",
        )


def _info(served: Served, versions: Sequence[Served]) -> ModelInfo:
    fields = served.manifest.fields
    return ModelInfo(
        name=served.name,
        versions=tuple(each.version for each in versions),
        platform=f"{served.variant.runtime.engine}_{served.variant.format}",
        inputs=fields.inputs,
        outputs=fields.outputs,
        parameters={DIGEST: served.digest, VARIANT: served.variant.id},
    )


def _parameters(served: Served, reason: str, outputs: Mapping[str, Array]) -> dict[str, Any]:
    """Who answered, why, and how sure: of one item its class and confidence, of several (items or words) the
    least confidence among them."""
    parameters: dict[str, Any] = {
        ANSWERED_BY: "cloud",
        REASON: reason,
        DIGEST: served.digest,
        VARIANT: served.variant.id,
    }
    classification = served.manifest.fields.classification
    if classification is None:
        return parameters
    probabilities = outputs.get(classification.output)
    width = len(classification.classes)
    if probabilities is None or probabilities.ndim not in (2, 3) or probabilities.shape[-1] != width:
        raise InferenceError(
            f"The engine gave no output {classification.output!r} with {width} classes.",
            remedy="Build the bundle again: its graph is not what its manifest says.",
            subject=classification.output,
        )
    confidence = float(np.min(item_confidences(probabilities), initial=math.inf))
    if math.isfinite(confidence):
        parameters[CONFIDENCE] = confidence
        if probabilities.shape == (1, width):
            parameters[LABEL] = classification.classes[int(probabilities[0].argmax())]
    return parameters
