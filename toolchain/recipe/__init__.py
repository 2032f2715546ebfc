"""The recipe: what to build, as typed values. `toolchain/recipe/file.py` reads them from YAML.

A recipe says everything that decides a bundle's content. Two builds of one recipe, with the same code
and tools, give the same bundle digest.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

import msgspec

from toolchain.recipe.base import Strict, Task
from toolchain.recipe.data import Data, FeatureSpec, Input, SelfTestSpec, Tokenizer
from toolchain.recipe.evaluation import Evaluation, Fallback, Gate, Prompts
from toolchain.recipe.models import ModelSource
from toolchain.recipe.variants import Search, VariantSpec


class Recipe(Strict, frozen=True, kw_only=True):
    """The whole recipe. `variants` stand in the order in which devices shall prefer them; `auto` searches
    (see `Search`). `date` is the date in the bundle's documents, unless SOURCE_DATE_EPOCH sets another.
    Paths are relative to the recipe's file."""

    schema_version: Literal["1.0"]
    name: str
    version: str
    task: Task
    description: str
    license: str
    date: datetime.date
    data: Data
    models: Annotated[dict[str, ModelSource], msgspec.Meta(min_length=1, max_length=16)]
    variants: Literal["auto"] | Annotated[tuple[VariantSpec, ...], msgspec.Meta(min_length=1, max_length=64)]
    selftest: SelfTestSpec
    gates: Annotated[tuple[Gate, ...], msgspec.Meta(min_length=1)]
    input: Input = Input(name="text", dtype="BYTES")
    output: str = "probabilities"
    preprocessing: str = ""
    tokenizer: Tokenizer | None = None
    search: Search | None = None
    features: tuple[FeatureSpec, ...] = ()
    evaluation: Evaluation = Evaluation()
    prompts: Prompts | None = None
    fallback: Fallback | None = None
    limitations: str = ""

    @property
    def label(self) -> str:
        """`name-version`, the name of the bundle's folder."""
        return f"{self.name}-{self.version}"

    @property
    def listed(self) -> tuple[VariantSpec, ...]:
        """The variants. Of a searched recipe only once the search's choice was put in."""
        if self.variants == "auto":
            raise ValueError("the variants of this recipe have to be searched for first")
        return self.variants

    @property
    def generates(self) -> bool:
        """Whether the models are causal language models."""
        return self.task == "text-generation"
