"""What stands behind the serving protocols: a host of models. The agent and the hub each have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeops.manifest import TensorSpec

Array = npt.NDArray[Any]

# Keys of a response's `parameters`: who answered, and why it was not the device.
ANSWERED_BY = "answered_by"  # "device" or "cloud"
REASON = "reason"  # "low_confidence", "device_error", "requested"; absent when the device answered
DIGEST = "digest"  # of the bundle whose weights answered
VARIANT = "variant"
CONFIDENCE = "confidence"
LABEL = "class"


@dataclass(frozen=True)
class ModelInfo:
    """One served model, as the protocol's metadata shows it."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded inference request. Arrays have the dtype and shape that the request declared;
    whether they fit the model is the host's to check (`BadRequestError`)."""

    model: str
    version: str | None
    id: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer: arrays by output name, and parameters such as who answered and why."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    parameters: Mapping[str, Any]


class ModelHost(Protocol):
    """What the routes need. Implementations raise `EdgeopsError`s; the routes map them to statuses."""

    def live(self) -> bool:
        """Whether the process works at all."""

    def ready(self, model: str | None = None, version: str | None = None) -> bool:
        """Whether the server, or one model, would answer now."""

    def models(self) -> Sequence[ModelInfo]:
        """The models served now."""

    def model(self, name: str, version: str | None = None) -> ModelInfo:
        """One model's metadata, or `NotFoundError`."""

    async def infer(self, request: InferRequest, caller: Mapping[str, Any]) -> InferResponse:
        """Answers one request. `caller` is what the application knows of the client (ASGI scope extras)."""

    def rejected(self, kind: str) -> None:
        """Told of each request refused before `infer` (a malformed body), so that it is counted."""


# Every `edgeops.manifest.Dtype`. BYTES are arrays of `str` (see `edgeops.serving.text_tensor`).
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("uint16"),
    "UINT32": np.dtype("uint32"),
    "UINT64": np.dtype("uint64"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("int16"),
    "INT32": np.dtype("int32"),
    "INT64": np.dtype("int64"),
    "FP16": np.dtype("float16"),
    "FP32": np.dtype("float32"),
    "FP64": np.dtype("float64"),
    "BYTES": np.dtype("object"),
}
