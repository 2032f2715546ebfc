"""The reference profile: how the training data was distributed. It ships in the signed bundle, and
drift is judged against it. It is exact (a grid of quantiles), since the data is at hand when it is made
and sketch bytes differ from run to run.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from edgeops.canonical import canonical_json
from edgeops.errors import ArtifactError

PROFILE_SCHEMA = "1.0"
GRID_POINTS = 1025


class ReferenceFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature's reference: finite count, others, mean, population variance, and `quantiles`, the
    inverse empirical distribution at `GRID_POINTS` evenly spaced ranks from 0 to 1 (both included)."""

    count: int
    invalid: int
    mean: float
    variance: float
    quantiles: tuple[float, ...]


class ReferenceProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Features by name; predicted classes of the shipped model on the same data, and its confidence
    (a feature like the others), so that outputs can be judged as inputs are."""

    schema_version: str
    rows: int
    features: dict[str, ReferenceFeature]
    classes: dict[str, int]
    confidence: ReferenceFeature | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(msgspec.to_builtins(self))

    @classmethod
    def parse(cls, data: bytes) -> ReferenceProfile:
        """The profile in `data`, or `ArtifactError`."""
        try:
            profile = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(f"The reference profile does not fit its schema: {error}.") from error
        if profile.schema_version.split(".")[0] != PROFILE_SCHEMA.split(".")[0]:
            raise ArtifactError(f"The reference profile has schema version {profile.schema_version!r}.")
        return profile


def reference_feature(values: npt.NDArray[np.floating]) -> ReferenceFeature:
    """The exact reference of a column of values, shape (rows,). At least one must be finite."""
    finite = np.sort(values[np.isfinite(values)].astype(np.float64))
    if finite.size == 0:
        raise ArtifactError("A feature has no finite value in the reference data.")
    ranks = np.linspace(0.0, 1.0, GRID_POINTS)
    # Rounded to float32's precision: beyond that the digits only carry the machine's rounding.
    grid = np.quantile(finite, ranks, method="inverted_cdf").astype(np.float32)
    return ReferenceFeature(
        count=int(finite.size),
        invalid=int(values.size - finite.size),
        mean=float(np.float32(finite.mean())),
        variance=float(np.float32(finite.var())),
        quantiles=tuple(float(value) for value in grid),
    )


def reference_profile(
    columns: Mapping[str, npt.NDArray[np.floating]],
    classes: Mapping[str, int],
    confidence: npt.NDArray[np.floating] | None,
) -> ReferenceProfile:
    """The reference profile of feature columns (all of one length) and of the model's answers on them."""
    lengths = {column.size for column in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"feature columns differ in length: {sorted(lengths)}")
    return ReferenceProfile(
        schema_version=PROFILE_SCHEMA,
        rows=lengths.pop() if lengths else 0,
        features={name: reference_feature(column) for name, column in columns.items()},
        classes=dict(classes),
        confidence=None if confidence is None else reference_feature(confidence),
    )
