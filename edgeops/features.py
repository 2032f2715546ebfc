"""The features that monitoring watches, computed the same way in the toolchain and on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeops.errors import BadRequestError
from edgeops.manifest import Feature

_STATISTICS: Mapping[str, Callable[..., Any]] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}


def feature_columns(
    features: Sequence[Feature], inputs: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.float32]]:
    """One float32 column per feature, of shape (rows,), from input tensors of shape (rows, …).

    `mean`, `std` (population), `min` and `max` go over a row's elements; `element` picks one of the
    flattened row. Values that are not finite stay so: the profile counts them as invalid.
    Raises `BadRequestError` when an input is missing or an index lies outside its row.
    """
    columns: dict[str, npt.NDArray[np.float32]] = {}
    for feature in features:
        tensor = inputs.get(feature.input)
        if tensor is None:
            raise BadRequestError(f"The input {feature.input!r} is missing.", subject=feature.input)
        rows = tensor.reshape(tensor.shape[0], -1)
        columns[feature.name] = _column(feature, rows).astype(np.float32, copy=False)
    return columns


def _column(feature: Feature, rows: npt.NDArray[np.generic]) -> npt.NDArray[np.floating]:
    if feature.kind == "element":
        if not 0 <= feature.index < rows.shape[1]:
            raise BadRequestError(
                f"Feature {feature.name!r} reads element {feature.index} of a row of {rows.shape[1]}.",
                subject=feature.name,
            )
        element: npt.NDArray[np.floating] = rows[:, feature.index].astype(np.float32)
        return element
    if rows.shape[1] == 0:
        return np.full(rows.shape[0], np.nan, dtype=np.float32)
    values = rows.astype(np.float32, copy=False)
    # A row with infinities gives NaN, which the profile counts: nothing to warn of.
    with np.errstate(invalid="ignore"):
        result: npt.NDArray[np.floating] = _STATISTICS[feature.kind](values, axis=1)
    return result
