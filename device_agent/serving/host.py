"""The model behind the device's local API: checks, runs, asks the cloud where the policy says so, records."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from device_agent.core.routing import POLICY_PARAMETER, Fallback, Local, decide, parse_policy
from device_agent.core.rows import FallbackReason
from device_agent.serving.fallback_client import Cloud, CloudAnswer
from device_agent.serving.labels import LabelBook
from device_agent.serving.predictor import Prediction, Predictor
from edgeops.errors import BadRequestError, EdgeopsError, InferenceError, NotFoundError, TransportError
from edgeops.manifest import Manifest
from edgeops.messages import BundleRef
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

_log = logging.getLogger(__name__)

# A model slower than this runs in a thread, so that the event loop can go on reading and writing. The hop
# costs more than a faster model takes.
INLINE_LIMIT_MS: Final = 2.0
FALLBACK_UNAVAILABLE: Final = "fallback_unavailable"
_PLATFORMS: Final = {"onnx": "onnxruntime_onnx", "gguf": "llama_cpp", "mlx": "mlx"}
_FROM_CLOUD: Final = (DIGEST, VARIANT, LABEL, CONFIDENCE)


class DeviceHost:
    """Serves one loaded bundle (see `edgeops.serving.host.ModelHost`).

    `cloud` None, or a bundle without a fallback policy, means that every answer is the device's. `run_ms`
    is what one item takes; above `INLINE_LIMIT_MS` the engine runs in a thread of its own.
    """

    def __init__(
        self,
        manifest: Manifest,
        bundle: BundleRef,
        variant: str,
        predictor: Predictor,
        labels: LabelBook,
        cloud: Cloud | None,
        *,
        run_ms: float,
    ) -> None:
        fields = manifest.fields
        self._name, self._version = fields.name, fields.version
        self._predictor = predictor
        self._labels = labels
        self._cloud = cloud
        self._classes = fields.classification.classes if fields.classification else ()
        self._threshold = fields.fallback.confidence_threshold if fields.fallback and cloud else None
        self._own: dict[str, Any] = {ANSWERED_BY: "device", DIGEST: bundle.digest, VARIANT: variant}
        self._thread = ThreadPoolExecutor(1, "engine") if run_ms > INLINE_LIMIT_MS else None
        self._info = ModelInfo(
            name=fields.name,
            versions=(fields.version,),
            platform=_PLATFORMS[manifest.variant(variant).format],
            inputs=fields.inputs,
            outputs=fields.outputs,
            parameters={DIGEST: bundle.digest, VARIANT: variant},
        )

    @property
    def inline(self) -> bool:
        """Whether the engine runs on the event loop."""
        return self._thread is None

    def live(self) -> bool:
        """True: nothing here can be half dead."""
        return True

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether that model is the one that is loaded."""
        return model in (None, self._name) and version in (None, self._version)

    def models(self) -> Sequence[ModelInfo]:
        """The one that is loaded."""
        return (self._info,)

    def model(self, name: str, version: str | None = None) -> ModelInfo:
        """Its metadata, or `NotFoundError`."""
        if name != self._name or version not in (None, self._version):
            raise NotFoundError(
                f"This device serves {self._name} {self._version}, not {name[:80]!r}"
                f"{'' if version is None else f' {version[:80]!r}'}.",
                subject="model",
            )
        return self._info

    def rejected(self, kind: str) -> None:
        """Counts a request that was refused before it got here."""
        self._predictor.reject()

    async def infer(self, request: InferRequest, caller: Mapping[str, Any]) -> InferResponse:
        """Answers one request and records it before the answer leaves.

        Raises `NotFoundError` and `BadRequestError` (counted as rejected), or what the engine raised, if
        the cloud could not answer in its place (counted as an error).
        """
        try:
            self.model(request.model, request.version)
            policy = parse_policy(request.parameters.get(POLICY_PARAMETER))
            outcome = await self._run(request.inputs)
        except (BadRequestError, NotFoundError):
            self._predictor.reject()
            raise
        if isinstance(outcome, Prediction):
            route = decide(outcome.confidence, self._threshold, policy, failed=False)
        else:
            route = decide(None, self._threshold, policy, failed=True)
        answer = None if isinstance(route, Local) else await self._ask(request, route)
        reason = None if isinstance(route, Local) else route.reason
        return self._settle(request, outcome, reason, answer)

    async def close(self) -> None:
        """Frees the engine and the connections to the cloud."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._cloud is not None:
            await self._cloud.close()
        self._predictor.close()

    async def _run(self, inputs: Mapping[str, Array]) -> Prediction | Exception:
        """The device's own answer, or what it failed on."""
        try:
            if self._thread is None:
                return self._predictor.run(inputs)
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._predictor.run, inputs)
        except BadRequestError:
            raise
        except InferenceError as error:
            return error
        except Exception as error:  # noqa: BLE001 (a bug must be counted, and the cloud may still answer)
            _log.exception("The engine raised what it should not.")
            return error

    async def _ask(self, request: InferRequest, route: Fallback) -> CloudAnswer | None:
        if self._cloud is None:
            return None
        try:
            answer = await self._cloud.ask(request, self._version, route.reason)
        except TransportError as error:
            _log.info("No answer from the cloud: %s", error)
            return None
        missing = [spec.name for spec in self._info.outputs if spec.name not in answer.outputs]
        if missing:
            _log.warning("The cloud's answer lacks the output %r.", missing[0])
            return None
        return answer

    def _settle(
        self,
        request: InferRequest,
        outcome: Prediction | Exception,
        reason: FallbackReason | None,
        answer: CloudAnswer | None,
    ) -> InferResponse:
        """Records what happened, and makes the answer of it."""
        cloud_answered = answer is not None
        if isinstance(outcome, Prediction):
            self._predictor.record(request.inputs, outcome, reason, cloud_answered=cloud_answered)
            if request.id and len(outcome.predicted) == 1 and outcome.predicted[0] >= 0:
                self._labels.remember(request.id, outcome.predicted[0])
        else:
            kind = outcome.kind if isinstance(outcome, EdgeopsError) else "internal"
            self._predictor.record_failure(request.inputs, kind, reason, cloud_answered=cloud_answered)
        if answer is not None:
            said = {key: answer.parameters[key] for key in _FROM_CLOUD if key in answer.parameters}
            parameters = {**said, ANSWERED_BY: "cloud", REASON: reason}
            return InferResponse(self._name, self._version, request.id, answer.outputs, parameters)
        if not isinstance(outcome, Prediction):
            raise outcome
        parameters = self._parameters(outcome, FALLBACK_UNAVAILABLE if reason else None)
        return InferResponse(self._name, self._version, request.id, outcome.outputs, parameters)

    def _parameters(self, prediction: Prediction, reason: str | None) -> dict[str, Any]:
        parameters = self._own.copy()
        if reason is not None:
            parameters[REASON] = reason
        confidence = prediction.confidence
        if confidence is not None and math.isfinite(confidence):
            parameters[CONFIDENCE] = confidence
            if len(prediction.predicted) == 1 and prediction.predicted[0] >= 0:
                parameters[LABEL] = self._classes[prediction.predicted[0]]
        return parameters
