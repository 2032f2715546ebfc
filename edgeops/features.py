"""The features that monitoring watches, computed the same way in the toolchain and on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeops.errors import BadRequestError
from edgeops.manifest import TEXT_FEATURES, Feature

Column = npt.NDArray[np.floating]


def feature_columns(
    features: Sequence[Feature], inputs: Mapping[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.float32]]:
    """One float32 column per feature, of shape (rows,), from input tensors of shape (rows, …).

    Of numbers: `mean`, `std` (population), `min` and `max` go over a row's elements, nulls (NaN) left out;
    `element` picks one of the flattened row. What is not finite then, such as an element that is null or a
    row of nothing but nulls, stays so: the profile counts it as invalid.

    Of text, over all texts of a row together: `characters` (Unicode code points), `words` (separated by white
    space), and `non_ascii` (the share of characters beyond ASCII, NaN of an empty text).

    Raises `BadRequestError` when an input is missing, of the other kind, or an index lies outside its row.
    """
    columns: dict[str, npt.NDArray[np.float32]] = {}
    for feature in features:
        tensor = inputs.get(feature.input)
        if tensor is None:
            raise BadRequestError(f"The input {feature.input!r} is missing.", subject=feature.input)
        if (tensor.dtype == object) != (feature.kind in TEXT_FEATURES):
            raise BadRequestError(
                f"Feature {feature.name!r} ({feature.kind}) cannot be had of {tensor.dtype.name}.",
                subject=feature.name,
            )
        rows = tensor.reshape(tensor.shape[0], -1)
        columns[feature.name] = _column(feature, rows).astype(np.float32, copy=False)
    return columns


def _column(feature: Feature, rows: npt.NDArray[np.generic]) -> Column:
    if feature.kind in TEXT_FEATURES:
        return np.array([_TEXTS[feature.kind](list(row)) for row in rows], np.float32)
    if feature.kind == "element":
        if not 0 <= feature.index < rows.shape[1]:
            raise BadRequestError(
                f"Feature {feature.name!r} reads element {feature.index} of a row of {rows.shape[1]}.",
                subject=feature.name,
            )
        element: Column = rows[:, feature.index].astype(np.float32)
        return element
    if rows.shape[1] == 0:
        return np.full(rows.shape[0], np.nan, dtype=np.float32)
    values = rows.astype(np.float32, copy=False)
    null = np.isnan(values)
    # A row with infinities gives NaN, which the profile counts: nothing to warn of.
    with np.errstate(invalid="ignore", divide="ignore"):
        if null.any():
            return _KNOWN[feature.kind](values, null)
        result: Column = _STATISTICS[feature.kind](values, axis=1)
    return result


_STATISTICS: Mapping[str, Callable[..., Column]] = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
}


def _known_mean(values: Column, null: npt.NDArray[np.bool]) -> Column:
    total: Column = np.where(null, np.float32(0), values).sum(axis=1)
    mean: Column = total / (~null).sum(axis=1, dtype=np.float32)
    return mean


def _known_std(values: Column, null: npt.NDArray[np.bool]) -> Column:
    centred = values - _known_mean(values, null)[:, None]
    deviation: Column = np.sqrt(_known_mean(centred * centred, null))
    return deviation


# Statistics of what is known of each row; NaN of a row of nothing but nulls.
_KNOWN: Mapping[str, Callable[[Column, npt.NDArray[np.bool]], Column]] = {
    "mean": _known_mean,
    "std": _known_std,
    "min": lambda values, null: np.fmin.reduce(values, axis=1),
    "max": lambda values, null: np.fmax.reduce(values, axis=1),
}


def _non_ascii(texts: Sequence[str]) -> float:
    total = sum(map(len, texts))
    # What is beyond ASCII (half a surrogate pair, too) is left out.
    plain = sum(len(text) if text.isascii() else len(text.encode("ascii", "ignore")) for text in texts)
    return (total - plain) / total if total else float("nan")


_TEXTS: Mapping[str, Callable[[Sequence[str]], float]] = {
    "characters": lambda texts: float(sum(map(len, texts))),
    "words": lambda texts: float(sum(len(text.split()) for text in texts)),
    "non_ascii": _non_ascii,
}
