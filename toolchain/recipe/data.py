"""The data of a recipe, and the contract that it and every request must fit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from edgeops.manifest import FeatureKind
from toolchain.recipe.base import Factory, Positive, Rate, RecipePath, Seed, Share, Strict


class Data(Strict, frozen=True, kw_only=True):
    """Where the rows come from: `factory(**options)` returns a `models.dataset.Dataset` (a `Corpus` for text
    generation), or `file`, relative to the recipe, holds them (see docs/recipe.md). `seed`, `calibration`
    and `held_out` split the rows by `models.dataset.split_rows`; the rest trains. `label` is the name of a
    file's label column, `classes` the order in which a file's labels are numbered (absent: as the file has
    them, or by their code points)."""

    seed: Seed
    calibration: Share
    held_out: Share
    factory: Factory | None = None
    options: dict[str, Any] = {}
    file: RecipePath | None = None
    label: str = "label"
    classes: tuple[str, ...] = ()
    license: str | None = None
    source: str | None = None


class Column(Strict, frozen=True, kw_only=True):
    """One column of tabular data: bounds of a sound value, and the most nulls (as a share of rows)."""

    name: str
    minimum: float | None = None
    maximum: float | None = None
    max_null_rate: Rate = 0.0


class Input(Strict, frozen=True, kw_only=True):
    """The model's one input as clients send it, and the data contract. It is checked on the data before any
    work starts, travels in the manifest, and is enforced on the device.

    `dtype` is FP32 with the `shape` of a row, or BYTES for text. `minimum` and `maximum` bound a sound value;
    `columns` does so for each element of a tabular row, in order. What `outside` values meet on the device:
    they are counted, or their request is refused."""

    name: str
    dtype: Literal["FP32", "BYTES"] = "FP32"
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(max_length=8)] = ()
    minimum: float | None = None
    maximum: float | None = None
    outside: Literal["count", "refuse"] = "count"
    columns: tuple[Column, ...] = ()
    max_characters: Positive | None = None


class Tokenizer(Strict, frozen=True, kw_only=True):
    """The tokenizer that is trained on the training texts: byte-level BPE. Texts are cut at `max_tokens`."""

    vocabulary_size: Annotated[int, msgspec.Meta(ge=300, le=200_000)]
    max_tokens: Positive


class FeatureSpec(Strict, frozen=True, kw_only=True):
    """One number per row that monitoring watches (see edgeops/features.py)."""

    name: str
    kind: FeatureKind
    index: Annotated[int, msgspec.Meta(ge=0)] = 0


class SelfTestSpec(Strict, frozen=True, kw_only=True):
    """How many calibration rows become self-test vectors, and how exactly a device must match them."""

    rows: Annotated[int, msgspec.Meta(ge=1, le=64)]
    atol: Annotated[float, msgspec.Meta(ge=0)]
    rtol: Annotated[float, msgspec.Meta(ge=0)] = 0.0
