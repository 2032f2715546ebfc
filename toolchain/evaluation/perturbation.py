"""Noise for robustness: the same rows as a worse sensor or a hasty writer would send them. The same seed
gives the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeops.serving.text_tensor import text_array
from toolchain.handover.arrays import Array

_LOWEST, _HIGHEST = -3.0e38, 3.0e38  # inside float32


def noisy(inputs: Array, contract: Mapping[str, Any], *, seed: int, std: float) -> Array:
    """float32 rows with Gaussian noise of the standard deviation `std`, in the units of the input, cut at the
    bounds of the recipe's input (`contract`): a sensor gives nothing beyond them. Nulls (NaN) stay."""
    rng = np.random.default_rng(seed)
    values = inputs.astype(np.float64) + rng.normal(0.0, std, size=inputs.shape)
    low, high = _bounds(contract)
    cut: Array = np.clip(values, low, high).astype(np.float32)
    return cut


def mistyped(texts: Array, *, seed: int, rate: float) -> Array:
    """Texts (dtype object) in which each letter or digit was, with the probability `rate`, swapped with the
    next one of its word, dropped, or doubled, one as likely as the other. White space stays, and no word
    is lost, so that labels of words still fit."""
    rng = np.random.default_rng(seed)
    return text_array([_mistype(text, rng, rate) for text in texts])


def _mistype(text: str, rng: np.random.Generator, rate: float) -> str:
    hits, kinds = rng.random(len(text)) < rate, rng.integers(0, 3, len(text))
    result: list[str] = []
    skip = False
    for at, character in enumerate(text):
        if skip:
            skip = False
            continue
        following = text[at + 1] if at + 1 < len(text) else " "
        if not hits[at] or not character.isalnum():
            result.append(character)
        elif kinds[at] == 0 and not following.isspace():
            result += (following, character)
            skip = True
        elif kinds[at] == 1 and not _alone(result, following):
            continue
        else:
            result += (character, character)
    return "".join(result)


def _alone(before: list[str], following: str) -> bool:
    """Whether a character is all that is left of its word."""
    return (not before or before[-1].isspace()) and following.isspace()


def _bounds(contract: Mapping[str, Any]) -> tuple[Any, Any]:
    low = _LOWEST if contract["minimum"] is None else contract["minimum"]
    high = _HIGHEST if contract["maximum"] is None else contract["maximum"]
    columns = contract["columns"]
    if not columns:
        return low, high
    return (
        np.array([low if c["minimum"] is None else max(low, c["minimum"]) for c in columns]),
        np.array([high if c["maximum"] is None else min(high, c["maximum"]) for c in columns]),
    )
