"""Self-test vectors: a few inputs with the outputs that each device variant gave when it was built.

A device runs them in its own engine before a bundle may serve: the same file on another CPU, or in
another version of the engine, must still give the same answers within the manifest's tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeops.canonical import canonical_json
from edgeops.errors import ArtifactError
from edgeops.manifest import SelfTest

Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]


TEXT_DTYPE = "str"


class TensorValue(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor by value: numpy dtype name (`str` for text), shape, elements in row-major order. A null among
    floats stands for NaN, which JSON has no word for."""

    dtype: str
    shape: tuple[int, ...]
    data: list[float | str | None]

    @classmethod
    def of(cls, array: Array) -> TensorValue:
        """The value of a tensor of numbers (infinities have no value) or of `str` (dtype object)."""
        flat = array.ravel()
        if array.dtype == object:
            return cls(dtype=TEXT_DTYPE, shape=array.shape, data=list(flat))
        data: list[float | str | None] = [None if value != value else float(value) for value in flat]
        return cls(dtype=array.dtype.name, shape=array.shape, data=data)

    def array(self) -> Array:
        """The tensor. Raises `TypeError` or `ValueError` if dtype, shape and elements do not fit."""
        text = self.dtype == TEXT_DTYPE
        dtype = np.dtype(object if text else self.dtype)
        if not text and dtype.kind not in "biuf":
            raise TypeError(f"{self.dtype} is no dtype of numbers")
        for value in self.data:
            if isinstance(value, str) != text or (value is None and dtype.kind != "f"):
                raise TypeError(f"{value!r} is not an element of {self.dtype}")
        return np.asarray(self.data, dtype=dtype).reshape(self.shape)


class SelfTestVectors(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs by name, and per variant id the outputs by name."""

    inputs: dict[str, TensorValue]
    expected: dict[str, dict[str, TensorValue]]

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(msgspec.to_builtins(self))

    @classmethod
    def parse(cls, data: bytes) -> SelfTestVectors:
        """The vectors in `data`, or `ArtifactError`."""
        try:
            vectors = msgspec.json.decode(data, type=cls)
            for tensors in (vectors.inputs, *vectors.expected.values()):
                for tensor in tensors.values():
                    tensor.array()
            return vectors
        except (msgspec.DecodeError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(f"The self-test vectors do not fit their schema: {error}.") from error


def run_selftest(vectors: SelfTestVectors, variant_id: str, policy: SelfTest, run: Runner) -> float:
    """Runs the vectors and returns the largest absolute difference seen.

    Raises `ArtifactError` (subject: the variant) when vectors for it are missing, an output is missing,
    has another shape, is not finite, or differs by more than `atol + rtol * |expected|`; texts must be equal.
    """
    expected = vectors.expected.get(variant_id)
    if not expected:
        raise _failed(variant_id, "there are no expected outputs for it")
    got = run({name: value.array() for name, value in vectors.inputs.items()})
    worst = 0.0
    for name, value in expected.items():
        want = value.array()
        have = got.get(name)
        if have is None or have.shape != want.shape or (have.dtype == object) != (want.dtype == object):
            raise _failed(variant_id, f"output {name!r} is missing or has another shape or kind")
        if want.dtype == object:
            if not np.array_equal(have, want):
                raise _failed(variant_id, f"output {name!r} has other texts")
            continue
        if not np.all(np.isfinite(have)):
            raise _failed(variant_id, f"output {name!r} is not finite")
        difference = np.abs(have.astype(np.float64) - want.astype(np.float64))
        worst = max(worst, float(difference.max(initial=0.0)))
        if np.any(difference > policy.atol + policy.rtol * np.abs(want)):
            raise _failed(variant_id, f"output {name!r} differs by up to {worst:.3g}")
    return worst


def _failed(variant_id: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"The self-test of variant {variant_id!r} failed: {why}.",
        remedy="This device's engine does not reproduce the build; choose another variant or engine version.",
        subject=variant_id,
    )
