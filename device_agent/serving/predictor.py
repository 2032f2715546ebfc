"""The prediction path: data contract, engine, predicted class, confidence, telemetry. The local API and
in-process callers share it; it costs a few microseconds more than the engine alone."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Final

import msgspec
import numpy as np

from device_agent.core.rows import (
    LABELS_RIGHT,
    LABELS_SEEN,
    OUTSIDE,
    REJECTED,
    FallbackReason,
    error_total,
    fallback_total,
)
from device_agent.telemetry.recorder import RingWriter
from edgeops.confidence import confidence as calibrated_confidence
from edgeops.confidence import item_confidences
from edgeops.contract import Contract
from edgeops.engines.base import Engine
from edgeops.errors import ArtifactError, BadRequestError, InferenceError
from edgeops.manifest import Manifest
from edgeops.serving.host import DTYPES, Array

_NAN: Final = float("nan")


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """The device's own answer: outputs by name; per item the predicted class (-1: there is none for the whole
    item) and its confidence (NaN: none); the time that the engine took; how many values of the request lie
    outside the contract's bounds; and whether the model is a classifier."""

    outputs: dict[str, Array]
    predicted: list[int]
    confidences: list[float]
    latency_ms: float
    outside: int = 0
    classifies: bool = True

    @property
    def confidence(self) -> float | None:
        """The least confidence among the items (NaN if one is), None if the model gives none."""
        return float(np.min(self.confidences)) if self.classifies else None


class Predictor:
    """One loaded variant with its telemetry.

    `run` may be called from one other thread; everything else from one thread only. Raises `ArtifactError`
    when the graph is not what the manifest says: then nothing it answers could be trusted.
    """

    def __init__(self, engine: Engine, manifest: Manifest, ring: RingWriter) -> None:
        self._engine = engine
        self._engine_run = engine.run
        self._ring = ring
        fields = manifest.fields
        _check_interface(engine, manifest)
        self._outside = Contract(fields.inputs).outside
        self._first = fields.inputs[0].name
        self._rank_zero = not fields.inputs[0].shape
        self._others = [spec.name for spec in fields.inputs[1:] if spec.shape[:1] == (-1,)]
        graph = {spec.name: spec.shape for spec in engine.inputs}
        # Dimensions that the manifest fixes and the graph leaves free; the engine checks all others.
        self._fixed = [
            (spec.name, axis, size)
            for spec in fields.inputs
            for axis, size in enumerate(spec.shape)
            if size >= 0 and graph[spec.name][axis] < 0
        ]
        self._plain = not (self._fixed or self._others or self._rank_zero)
        classification = fields.classification
        self._output = classification.output if classification else ""
        self._classes = len(classification.classes) if classification else 0
        self._one_item = (1, self._classes)
        self._temperature = fields.fallback.temperature if fields.fallback else 1.0
        self._recalibrates = self._temperature != 1

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, recorded as one request of as many items as the batch dimension says.

        Raises `BadRequestError` (counted as rejected) and `InferenceError` (counted as an error).
        """
        try:
            prediction = self.run(inputs)
        except BadRequestError:
            self.reject()
            raise
        except InferenceError as error:
            self.record_failure(inputs, error.kind)
            raise
        self.record(inputs, prediction)
        return prediction.outputs

    def run(self, inputs: Mapping[str, Array]) -> Prediction:
        """Holds the inputs against the contract, runs the engine and reads the answer. Records nothing."""
        outside = self._outside(inputs)
        if not self._plain:
            self._check(inputs)
        start = perf_counter()
        outputs = self._engine_run(inputs)
        if not self._output:
            items = 1 if self._rank_zero else inputs[self._first].shape[0]
            latency_ms = (perf_counter() - start) * 1000
            return Prediction(outputs, [-1] * items, [_NAN] * items, latency_ms, outside, False)
        probabilities = outputs[self._output]
        if probabilities.shape == self._one_item:
            best = int(probabilities.argmax())
            confidence = float(probabilities.item(best))
            if self._recalibrates:
                confidence = calibrated_confidence(probabilities, confidence, self._temperature)
            return Prediction(outputs, [best], [confidence], (perf_counter() - start) * 1000, outside)
        items = 1 if self._rank_zero else inputs[self._first].shape[0]
        by_word = probabilities.ndim == 3
        if probabilities.shape[:: 2 if by_word else 1] != (items, self._classes):
            raise InferenceError(
                f"The output {self._output!r} has shape {list(probabilities.shape)} for {items} items and "
                f"{self._classes} classes.",
                subject=self._output,
            )
        predicted = [-1] * items if by_word else probabilities.argmax(axis=1).tolist()
        confidences = item_confidences(probabilities, self._temperature).tolist()
        return Prediction(outputs, predicted, confidences, (perf_counter() - start) * 1000, outside)

    def record(
        self,
        inputs: Mapping[str, Array],
        prediction: Prediction,
        fallback: FallbackReason | None = None,
        *,
        cloud_answered: bool = False,
    ) -> None:
        """Records an answered request; `fallback` says why the cloud was asked, if it was."""
        if fallback is not None:
            self._ring.tally(fallback_total(fallback, answered=cloud_answered))
        if prediction.outside:
            self._ring.tally(OUTSIDE)
        predicted, confidences = prediction.predicted, prediction.confidences
        if len(predicted) == 1:
            self._ring.request(inputs, prediction.latency_ms, predicted[0], confidences[0])
        else:
            self._ring.batch(inputs, prediction.latency_ms, predicted, confidences)

    def record_failure(
        self,
        inputs: Mapping[str, Array],
        kind: str,
        fallback: FallbackReason | None = None,
        *,
        cloud_answered: bool = False,
    ) -> None:
        """Records a well-formed request that the engine failed on, whether or not the cloud then answered
        it. `kind` is the error's (`EdgeopsError.kind`)."""
        self._ring.tally(error_total(kind))
        items = 1 if self._rank_zero else inputs[self._first].shape[0]
        nothing = Prediction({}, [-1] * items, [_NAN] * items, _NAN, self._outside(inputs), False)
        self.record(inputs, nothing, fallback, cloud_answered=cloud_answered)

    def reject(self) -> None:
        """Counts a malformed request."""
        self._ring.tally(REJECTED)
        self._ring.note()

    def label(self, right: bool) -> None:
        """Counts a label, and whether the device's own answer agreed with it."""
        self._ring.tally(LABELS_SEEN)
        if right:
            self._ring.tally(LABELS_RIGHT)
        self._ring.note()

    def close(self) -> None:
        """Frees the engine and lets go of the ring."""
        self._engine.close()
        self._ring.close()

    def _check(self, inputs: Mapping[str, Array]) -> None:
        for name, axis, size in self._fixed:
            array = inputs.get(name)
            if array is not None and (array.ndim <= axis or array.shape[axis] != size):
                raise BadRequestError(
                    f"The input {name!r} has shape {list(array.shape)}; dimension {axis} must be {size}.",
                    subject=name,
                )
        first = inputs.get(self._first)
        for name in self._others:
            array = inputs.get(name)
            if first is not None and array is not None and array.shape[:1] != first.shape[:1]:
                raise BadRequestError(
                    f"The inputs {self._first!r} and {name!r} have batches of different sizes.", subject=name
                )


def _check_interface(engine: Engine, manifest: Manifest) -> None:
    """The graph has the manifest's inputs and outputs: names, dtypes, ranks, compatible dimensions."""
    fields = manifest.fields
    for said, found in ((fields.inputs, engine.inputs), (fields.outputs, engine.outputs)):
        have = {spec.name: spec for spec in found}
        if said is fields.inputs and set(have) != {spec.name for spec in said}:
            raise _differs(f"has the inputs {sorted(have)}")
        for spec in said:
            graph = have.get(spec.name)
            if graph is None:
                raise _differs(f"has no output {spec.name!r}")
            if DTYPES.get(spec.dtype) != DTYPES[graph.dtype] or len(spec.shape) != len(graph.shape):
                raise _differs(f"has {spec.name!r} as {graph.dtype} {list(graph.shape)}")
            for want, size in zip(spec.shape, graph.shape, strict=True):
                if want >= 0 and size >= 0 and want != size:
                    raise _differs(f"has {spec.name!r} with shape {list(graph.shape)}")
    classification = fields.classification
    if classification is None:
        return
    shape = next(spec.shape for spec in fields.outputs if spec.name == classification.output)
    if len(shape) not in (2, 3) or shape[-1] not in (-1, len(classification.classes)):
        raise _differs(f"classifies by {classification.output!r} of shape {list(shape)}")


def _differs(how: str) -> ArtifactError:
    return ArtifactError(
        f"The model's graph is not what its manifest says: it {how}.",
        remedy="Build the bundle again.",
        subject="manifest.json",
    )
