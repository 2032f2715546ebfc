"""What one row of a telemetry ring is: its layout, and the running totals that every row carries.

A row holds the details of one request (or of one further item of a batched request) and the *totals* of
everything counted since the ring began, itself included. Counts in a window are differences of totals, so
they stay exact whatever happens to rows; rows only feed sketches, classes and features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgeops.errors import ArtifactError
from edgeops.manifest import Feature, Manifest, TensorSpec
from edgeops.messages import BundleRef
from edgeops.serving.host import DTYPES

Rows = npt.NDArray[np.void]
Totals = npt.NDArray[np.uint64]
FallbackReason = Literal["low_confidence", "device_error", "requested"]

# Kinds of rows.
REQUEST: Final = 1  # a well-formed request, with its first item's details
ITEM: Final = 2  # a further item of the request before it
NOTE: Final = 3  # totals only: a rejected request or a label

# At most this many items of one request get rows; a larger request counts as unsampled.
MAX_ITEMS: Final = 64
# An input row up to this size is copied as it is, and its features are computed when a window closes.
MAX_INPUT_BYTES: Final = 1024

ERROR_KINDS: Final = ("inference", "internal")
FALLBACK_REASONS: Final[tuple[FallbackReason, ...]] = ("low_confidence", "device_error", "requested")

# Indices into the totals.
REQUESTS: Final = 0
UNSAMPLED: Final = 1
REJECTED: Final = 2
LABELS_SEEN: Final = 3
LABELS_RIGHT: Final = 4
OUTSIDE: Final = 5  # requests with a value beyond the contract's bounds
ERRORS: Final = 6
FALLBACKS: Final = ERRORS + len(ERROR_KINDS)
FALLBACK_FAILURES: Final = FALLBACKS + len(FALLBACK_REASONS)
TOTALS: Final = FALLBACK_FAILURES + len(FALLBACK_REASONS)


def error_total(kind: str) -> int:
    """The index of the total that counts errors of `kind` (an `EdgeopsError.kind`)."""
    return ERRORS + ERROR_KINDS.index(kind if kind in ERROR_KINDS else "internal")


def fallback_total(reason: FallbackReason, *, answered: bool) -> int:
    """The index of the total that counts requests which the cloud answered for `reason`, or should have."""
    return (FALLBACKS if answered else FALLBACK_FAILURES) + FALLBACK_REASONS.index(reason)


class RingMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader must know to turn rows into windows, also when the slot is long gone.

    `classes` is empty for a model that is no classifier. `created_ms` is when the ring began.
    """

    bundle: BundleRef
    variant: str
    created_ms: int
    inputs: tuple[TensorSpec, ...]
    features: tuple[Feature, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest, bundle: BundleRef, variant: str, created_ms: int) -> RingMeta:
        """The meta of a ring for one variant of a verified bundle."""
        fields = manifest.fields
        watched = {feature.input for feature in fields.features}
        return cls(
            bundle=bundle,
            variant=variant,
            created_ms=created_ms,
            inputs=tuple(spec for spec in fields.inputs if spec.name in watched),
            features=fields.features,
            classes=fields.classification.classes if fields.classification else (),
        )


@dataclass(frozen=True)
class RowLayout:
    """The bytes of a row. `dtype` has the fields `end_ms`, `latency_ms`, `confidence`, `predicted`, `kind`
    and `totals`; then, if `raw`, one field for each watched input, else `features` (float32, in order).

    `inputs` are (name, offset, size in bytes) of the raw copies of one item's row of each watched input.
    """

    dtype: np.dtype[np.void]
    raw: bool
    inputs: tuple[tuple[str, int, int], ...]
    features_at: int

    @property
    def size_bytes(self) -> int:
        return self.dtype.itemsize


# end_ms, latency_ms, confidence, predicted class (-1: none), kind; the totals follow.
DETAILS_FORMAT: Final = "<Qffii"
TOTALS_AT: Final = 24
PAYLOAD_AT: Final = TOTALS_AT + 8 * TOTALS


def layout_of(inputs: Sequence[TensorSpec], features: Sequence[Feature]) -> RowLayout:
    """The layout for a model's watched inputs. Raw copies when every row has a fixed size and all fit
    `MAX_INPUT_BYTES`, else the features' values. Text is never copied: a row of it has no fixed size.

    Raises `ArtifactError` (subject: the feature or input) when a feature reads outside a row of fixed size,
    or an input that has no rows.
    """
    for spec in inputs:
        if not spec.shape:
            raise ArtifactError(
                f"The input {spec.name!r} is a scalar, and monitoring needs rows.",
                remedy="Build the bundle again without a feature on that input.",
                subject=spec.name,
            )
    sizes = {
        spec.name: math.prod(spec.shape[1:])
        for spec in inputs
        if spec.dtype != "BYTES" and min(spec.shape[1:], default=1) >= 0
    }
    for feature in features:
        elements = sizes.get(feature.input)
        if feature.kind == "element" and elements is not None and not 0 <= feature.index < elements:
            raise ArtifactError(
                f"Feature {feature.name!r} reads element {feature.index} of a row of {elements}.",
                remedy="Build the bundle again with an index inside the input's row.",
                subject=feature.name,
            )
    fields: list[tuple[Any, ...]] = [
        ("end_ms", "<u8"),
        ("latency_ms", "<f4"),
        ("confidence", "<f4"),
        ("predicted", "<i4"),
        ("kind", "<i4"),
        ("totals", "<u8", (TOTALS,)),
    ]
    raw_bytes = sum(DTYPES[spec.dtype].itemsize * sizes.get(spec.name, MAX_INPUT_BYTES) for spec in inputs)
    raw = len(sizes) == len(inputs) and raw_bytes <= MAX_INPUT_BYTES
    copies: list[tuple[str, int, int]] = []
    offset = PAYLOAD_AT
    if raw:
        for number, spec in enumerate(inputs):
            size = DTYPES[spec.dtype].itemsize * sizes[spec.name]
            fields.append((input_field(number), DTYPES[spec.dtype], (sizes[spec.name],)))
            copies.append((spec.name, offset, size))
            offset += size
    else:
        fields.append(("features", "<f4", (len(features),)))
        offset += 4 * len(features)
    padding = -offset % 8
    if padding:
        fields.append(("padding", f"V{padding}"))
    return RowLayout(np.dtype(fields), raw, tuple(copies), PAYLOAD_AT)


def input_field(number: int) -> str:
    """The row field that holds the raw copy of the meta's input of that number."""
    return f"input_{number}"
