"""A small host of one model over a real engine, for tests of the serving protocol alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeops.contract import Contract
from edgeops.engines.base import Engine
from edgeops.errors import NotFoundError
from edgeops.serving.host import ANSWERED_BY, InferRequest, InferResponse, ModelInfo


class SmallHost:
    """Serves `engine` as model `small`, versions `1.0.0` and `2.0.0`; remembers what it was told."""

    name = "small"
    versions = ("1.0.0", "2.0.0")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._contract = Contract(engine.inputs)
        self.is_ready = True
        self.breaks: Exception | None = None
        self.rejections: list[str] = []
        self.requests: list[InferRequest] = []
        self.callers: list[Mapping[str, Any]] = []

    def live(self) -> bool:
        return True

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        return self.is_ready

    def models(self) -> Sequence[ModelInfo]:
        return [self.model(self.name)]

    def model(self, name: str, version: str | None = None) -> ModelInfo:
        if name != self.name or version not in (None, *self.versions):
            raise NotFoundError(f"There is no model {name[:80]!r} here.", subject="model")
        return ModelInfo(
            name=name,
            versions=self.versions,
            platform="onnxruntime_onnx",
            inputs=tuple(self._engine.inputs),
            outputs=tuple(self._engine.outputs),
            parameters={"digest": "0" * 64},
        )

    async def infer(self, request: InferRequest, caller: Mapping[str, Any]) -> InferResponse:
        self.requests.append(request)
        self.callers.append(caller)
        if self.breaks is not None:
            raise self.breaks
        self.model(request.model, request.version)
        self._contract.outside(request.inputs)
        outputs = self._engine.run(request.inputs)
        version = request.version or self.versions[-1]
        return InferResponse(request.model, version, request.id, outputs, {ANSWERED_BY: "device"})

    def rejected(self, kind: str) -> None:
        self.rejections.append(kind)
