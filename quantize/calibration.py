"""Ranges of activations from calibration rows: what static quantization spreads its 256 levels over.

Three methods. `minmax`: all that was seen. `percentile`: without the rarest values at both ends. `entropy`:
the clipping at which 128 levels tell least apart from the values themselves, by Kullback-Leibler divergence
(S. Migacz, "8-bit inference with TensorRT", GTC 2017). ONNX Runtime's own calibrators hold the activations of
all rows in memory, and its entropy method has, by default, one candidate to choose from; these here hold one
batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeops.engines.refusals import one_line
from edgeops.errors import ArtifactError, ConfigError

Array = npt.NDArray[Any]
Batch = Mapping[str, Array]
METHODS = ("minmax", "entropy", "percentile")

DEFAULT_PERCENTILE = 99.99
_BINS = 2048
_LEVELS = 128
# Candidates for the entropy method: every so many bins.
_STEP = 8


@dataclass(frozen=True)
class Range:
    """An activation's smallest and largest value; zero lies within."""

    low: float
    high: float


def activation_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Sequence[Batch],
    *,
    method: str,
    percentile: float = DEFAULT_PERCENTILE,
) -> dict[str, Range]:
    """The range of each of `tensors` (inputs or intermediate values of float32) over all batches of `data`.
    `percentile`, in (50, 100], is the share of values that the method of that name keeps.

    Runs the model in ONNX Runtime on one thread, once for `minmax` and twice for the others. Raises
    `ConfigError` on no data or an unknown method, `ArtifactError` when the data does not fit the model or
    gives an activation that is not finite.
    """
    if method not in METHODS or not 50 < percentile <= 100:
        raise ConfigError(
            f"There is no calibration by {method!r} at percentile {percentile}.",
            remedy=f"Choose a method from {', '.join(METHODS)}, and a percentile above 50, up to 100.",
            subject="calibration",
        )
    if not data:
        raise ConfigError("Calibration needs at least one row of data.", subject="calibration")
    session = _session(model, tensors)
    ranges = {name: Range(0.0, 0.0) for name in tensors}
    for values in _runs(session, tensors, data):
        for name, array in values.items():
            seen, kept = ranges[name], array[np.isfinite(array)]
            if kept.size != array.size:
                raise ArtifactError(
                    f"The activation {name!r} is not finite on the calibration data.",
                    remedy="Correct the data, or leave the static variant out of the recipe.",
                    subject=name,
                )
            if kept.size:
                low, high = float(kept.min()), float(kept.max())
                ranges[name] = Range(min(seen.low, low), max(seen.high, high))
    if method == "minmax":
        return ranges
    histograms = {name: np.zeros(_BINS, np.int64) for name in tensors}
    for values in _runs(session, tensors, data):
        for name, array in values.items():
            histograms[name] += _histogram(array, ranges[name], magnitudes=method == "entropy")
    if method == "percentile":
        return {name: _cut(histograms[name], ranges[name], percentile) for name in tensors}
    return {name: _clip(histograms[name], ranges[name]) for name in tensors}


def _session(model: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {value.name for value in (*probe.graph.input, *probe.graph.output)}
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _runs(session: Any, tensors: Sequence[str], data: Sequence[Batch]) -> Iterator[dict[str, Array]]:
    given = {node.name for node in session.get_inputs()}
    computed = [name for name in tensors if name not in given]
    for batch in data:
        try:
            results = session.run(computed, dict(batch)) if computed else []
        except Exception as error:
            # ONNX Runtime's exceptions have no base class of their own.
            raise ArtifactError(
                f"The model cannot take the calibration data ({one_line(error)}).",
                remedy="Correct the recipe's inputs, or the data.",
                subject="calibration",
            ) from error
        yield {
            **{name: np.asarray(batch[name]) for name in tensors if name in given},
            **dict(zip(computed, results, strict=True)),
        }


def _histogram(array: Array, seen: Range, *, magnitudes: bool) -> npt.NDArray[np.int64]:
    if magnitudes:
        edges = (0.0, max(-seen.low, seen.high))
        array = np.abs(array)
    else:
        edges = (seen.low, seen.high)
    if edges[0] == edges[1]:
        edges = (edges[0], edges[0] + 1.0)
    # In 64 bits: those of a narrow range in 32 leave no room for this many bins.
    return np.histogram(array.astype(np.float64), _BINS, range=edges)[0].astype(np.int64)


def _cut(histogram: npt.NDArray[np.int64], seen: Range, percentile: float) -> Range:
    share = np.cumsum(histogram) / histogram.sum()
    cut = (100.0 - percentile) / 200.0
    width = (seen.high - seen.low) / _BINS
    first = int(np.searchsorted(share, cut, side="right"))
    last = int(np.searchsorted(share, 1.0 - cut, side="left"))
    low, high = seen.low + first * width, seen.low + (last + 1) * width
    return Range(min(low, 0.0), max(min(high, seen.high), 0.0))


def _clip(histogram: npt.NDArray[np.int64], seen: Range) -> Range:
    bound = max(-seen.low, seen.high)
    # Zeros are exact at any clipping, and after a ReLU there are so many that they alone would decide.
    histogram = np.concatenate((histogram[1:2], histogram[1:]))
    divergences = {end: _divergence(histogram, end) for end in range(_LEVELS, _BINS + 1, _STEP)}
    best = min(divergences, key=lambda end: (divergences[end], -end))
    threshold = bound * best / _BINS
    return Range(max(seen.low, -threshold), min(seen.high, threshold))


def _divergence(histogram: npt.NDArray[np.int64], end: int) -> float:
    """KL(p‖q) of magnitudes clipped at bin `end` (p) and the same rounded to `_LEVELS` levels (q)."""
    kept = histogram[:end].astype(np.float64)
    clipped = kept.copy()
    clipped[-1] += histogram[end:].sum()
    starts = np.arange(_LEVELS) * end // _LEVELS
    filled = kept > 0
    mass = np.add.reduceat(kept, starts)
    bins = np.add.reduceat(filled.astype(np.float64), starts)
    level = np.repeat(np.arange(_LEVELS), np.diff(np.append(starts, end)))
    spread = np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)
    if clipped.sum() == 0 or np.any((clipped > 0) & (spread == 0)):
        return float("inf") if clipped.sum() else 0.0
    p, q = clipped / clipped.sum(), spread / spread.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))
