"""What every part of a recipe is made of."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

SCHEMA_VERSION = "1.0"

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
FACTORY_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
Factory = Annotated[str, msgspec.Meta(pattern=FACTORY_PATTERN)]
RecipePath = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]

# The names are the Hugging Face Hub's pipeline tags, which model cards and registries share.
Task = Literal[
    "image-classification",
    "tabular-classification",
    "text-classification",
    "token-classification",
    "feature-extraction",
    "text-generation",
]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused: a misspelt gate must not be silently ignored."""
