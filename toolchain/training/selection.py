"""Which rows a classifier is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeops.errors import ArtifactError, ConfigError
from toolchain.handover.arrays import Array


def kept_rows(labels: Array, class_share: Mapping[str, float], classes: Sequence[str]) -> Array:
    """Which rows stay (bool, one a row): of each class the first `class_share` of its rows, in their order,
    and of classes that are not named all.

    Raises `ConfigError` on a class that is not one of `classes`, `ArtifactError` if no row is left.
    """
    keep = np.ones(len(labels), dtype=bool)
    for name, share in class_share.items():
        if name not in classes:
            raise ConfigError(
                f"class_share names the class {name!r}, which the data does not have.",
                remedy=f"Use one of {', '.join(classes)}.",
                subject="class_share",
            )
        rows = np.flatnonzero(labels == classes.index(name))
        keep[rows[math.ceil(share * len(rows)) :]] = False
    if not keep.any():
        raise ArtifactError(
            "class_share leaves no rows to train on.",
            remedy="Raise the shares in the recipe.",
            subject="class_share",
        )
    return keep
