"""The recipe: what to build, as typed values. `toolchain/recipe_file.py` reads them from YAML.

A recipe says everything that decides a bundle's content. Two builds of one recipe, with the same code
and tools, give the same bundle digest.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import msgspec

from edgeops.manifest import FeatureKind, Target

SCHEMA_VERSION = "1.0"

Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Seed = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Factory = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

# What a gate can judge. The first group follows from recipe, code and tools; the second is measured,
# so it differs from run to run and stands in measurements.json only.
QUALITY_METRICS = (
    "accuracy",
    "worst_class_accuracy",
    "nll",
    "ece",
    "mean_confidence",
    "parity_max_abs",
    "parity_agreement",
    "size_bytes",
)
MEASURED_METRICS = ("latency_p50_ms", "latency_p99_ms", "memory_bytes")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused: a misspelt gate must not be silently ignored."""


class Data(_Strict, frozen=True, kw_only=True):
    """`factory` returns a `models.dataset.Dataset`; `seed`, `calibration` and `held_out` split its rows
    by `models.dataset.split_rows`. The rest trains."""

    factory: Factory
    seed: Seed
    calibration: Share
    held_out: Share


class Input(_Strict, frozen=True, kw_only=True):
    """The model's one input, float32: its name, the shape of a row, and the bounds of a sound value."""

    name: str
    shape: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1, max_length=8)]
    minimum: float
    maximum: float


class Training(_Strict, frozen=True, kw_only=True):
    """Adam with a one-cycle learning rate (Smith and Topin, arXiv:1708.07120), peak `learning_rate`."""

    epochs: Positive
    batch_size: Positive
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)]


class Teacher(_Strict, frozen=True, kw_only=True):
    """`factory(**options)` returns a torch module from a batch of inputs to logits."""

    factory: Factory
    training: Training
    seed: Seed
    options: dict[str, Any] = {}


class Distillation(_Strict, frozen=True, kw_only=True):
    """Weight `alpha` on the teacher's softened answers, the rest on the labels (Hinton, Vinyals and
    Dean, arXiv:1503.02531, section 2)."""

    temperature: Annotated[float, msgspec.Meta(gt=0, le=100)]
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1)]


class Student(_Strict, frozen=True, kw_only=True):
    """The network that devices get. It is trained once per seed with the teacher and once without, so that
    the gain can be told; the first seed's distilled one ships. `class_share` keeps only a share of a
    class's training rows (default 1, all of them): the calibration and held-out rows stay whole."""

    factory: Factory
    training: Training
    seeds: Annotated[tuple[Seed, ...], msgspec.Meta(min_length=1, max_length=32)]
    distillation: Distillation
    options: dict[str, Any] = {}
    class_share: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]] = {}


class VariantSpec(_Strict, frozen=True, kw_only=True):
    """One variant to make. `memory_budget_mb` (MiB) goes into the manifest as what the engine needs; a
    gate holds the measured memory against it."""

    id: str
    model: Literal["student", "teacher"]
    precision: Literal["fp32", "int8"]
    memory_budget_mb: Positive
    target: Target = "device"


class FeatureSpec(_Strict, frozen=True, kw_only=True):
    """One number per row that monitoring watches (see edgeops/features.py)."""

    name: str
    kind: FeatureKind
    index: Annotated[int, msgspec.Meta(ge=0)] = 0


class SelfTestSpec(_Strict, frozen=True, kw_only=True):
    """How many calibration rows become self-test vectors, and how exactly a device must match them."""

    rows: Annotated[int, msgspec.Meta(ge=1, le=64)]
    atol: Annotated[float, msgspec.Meta(ge=0)]
    rtol: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Fallback(_Strict, frozen=True, kw_only=True):
    """Ask the cloud's `variant` below the smallest confidence threshold at which the answers that the
    device keeps err at most `target_error` of the time, on the calibration rows. At least
    `minimum_accepted` rows must be kept, or the build fails: too few say nothing."""

    variant: str
    target_error: Share
    minimum_accepted: Positive


class Gate(_Strict, frozen=True, kw_only=True):
    """One condition. `metric` of `variant`, on the held-out rows: at least, at most, or both. `slice`
    narrows accuracy to one class. `drop_against` judges how far the metric lies below another
    variant's instead of its value."""

    metric: str
    variant: str
    slice: str | None = None
    drop_against: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def name(self) -> str:
        """The gate in a few words, such as `accuracy[3] of onnx-int8 >= 0.9`."""
        what = self.metric + (f"[{self.slice}]" if self.slice is not None else "") + f" of {self.variant}"
        if self.drop_against is not None:
            what += f" below {self.drop_against}"
        bounds = [f">= {self.at_least:.10g}"] if self.at_least is not None else []
        bounds += [f"<= {self.at_most:.10g}"] if self.at_most is not None else []
        return f"{what} {' and '.join(bounds)}"


class Recipe(_Strict, frozen=True, kw_only=True):
    """The whole recipe. `variants` stand in the order in which devices shall prefer them. `date` is the
    date in the bundle's documents, unless SOURCE_DATE_EPOCH sets another."""

    schema_version: Literal["1.0"]
    name: str
    version: str
    task: Literal["image-classification"]
    description: str
    license: str
    date: datetime.date
    data: Data
    input: Input
    output: str
    preprocessing: str
    teacher: Teacher
    student: Student
    variants: Annotated[tuple[VariantSpec, ...], msgspec.Meta(min_length=1)]
    features: tuple[FeatureSpec, ...]
    selftest: SelfTestSpec
    gates: Annotated[tuple[Gate, ...], msgspec.Meta(min_length=1)]
    fallback: Fallback | None = None
    limitations: str = ""

    @property
    def label(self) -> str:
        """`name-version`, the name of the bundle's folder."""
        return f"{self.name}-{self.version}"
