"""Telemetry rings for a small imagined model: one watched input `x` of four numbers, three classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent.core.rows import RingMeta
from device_agent.telemetry.recorder import RingWriter
from device_agent.telemetry.spool import Spool
from edgeops.manifest import Feature, TensorSpec
from edgeops.messages import BundleRef, Window, decode

CLASSES = ("red", "green", "blue")
BUNDLE = BundleRef(name="colours", version="1.0.0", digest="c" * 64)
META = RingMeta(
    bundle=BUNDLE,
    variant="onnx-fp32",
    created_ms=0,
    inputs=(TensorSpec(name="x", dtype="FP32", shape=(-1, 4)),),
    features=(
        Feature(name="mean", input="x", kind="mean"),
        Feature(name="third", input="x", kind="element", index=2),
    ),
    classes=CLASSES,
)
# Enough for the smallest ring there may be, and few enough to fill it in a test.
SMALL_RING_BYTES = 32 << 10


def new_ring(path: Path, size_bytes: int = SMALL_RING_BYTES, meta: RingMeta = META) -> RingWriter:
    """A new ring at `path`, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return RingWriter(path, size_bytes, meta)


def inputs_of(value: float, items: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """Rows of (value, value + 1, value + 2, value + 3)."""
    row = np.arange(4, dtype=np.float32) + np.float32(value)
    return {"x": np.tile(row, (items, 1))}


def windows_in(spool: Spool) -> list[Window]:
    """All windows that wait in a spool, oldest first."""
    entries = spool.pending(1_000_000)
    return [decode(entry.payload, Window) for entry in entries if entry.channel == "windows"]
