"""How a recipe's variants are judged: cases, robustness, groups, prompts, gates, and when to fall back."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from toolchain.recipe.base import Positive, Rate, RecipePath, Seed, Share, Strict, Task

# What gates can judge. The first groups follow from recipe, code and tools; the last is measured, so it
# differs from run to run and stands in measurements.json only.
CLASSIFIER_METRICS = ("accuracy", "worst_class_accuracy", "nll", "ece", "mean_confidence", "macro_f1")
EMBEDDING_METRICS = ("neighbour_accuracy", "cosine_min")
LANGUAGE_METRICS = ("kl_mean", "top1_agreement", "perplexity", "tokenizer_agreement", "prompts_passed")
COMMON_METRICS = (
    "parity_max_abs",
    "parity_agreement",
    "behaviours_passed",
    "robust_accuracy",
    "group_gap",
    "size_bytes",
)
QUALITY_METRICS = (*CLASSIFIER_METRICS, *EMBEDDING_METRICS, *LANGUAGE_METRICS, *COMMON_METRICS)
MEASURED_METRICS = ("latency_p50_ms", "latency_p99_ms", "memory_bytes", "first_token_ms", "tokens_per_s")
# Those of them that only what generates text has.
_OF_GENERATION = ("first_token_ms", "tokens_per_s")

# What a search can look for: more is better, and the model itself, before it was exported, has a figure to
# hold variants against. Of an agreement with the model itself that is 1.
OWN_QUALITY = ("accuracy", "worst_class_accuracy", "macro_f1", "neighbour_accuracy")
AGREEMENT = ("parity_agreement", "cosine_min", "top1_agreement")
# Those that lie between 0 and 1.
RATES = frozenset(
    {
        *OWN_QUALITY,
        "parity_agreement",
        "top1_agreement",
        "tokenizer_agreement",
        "ece",
        "mean_confidence",
        "prompts_passed",
        "behaviours_passed",
        "robust_accuracy",
        "group_gap",
    }
)
# Those that are told for slices of the held-out rows, too, and those of them that one class has.
SLICED = (*CLASSIFIER_METRICS, "neighbour_accuracy", "parity_max_abs", "parity_agreement")
SLICED_BY_CLASS = tuple(name for name in SLICED if name not in ("worst_class_accuracy", "macro_f1"))

BASELINE = "baseline"


def metrics_of(task: Task) -> tuple[str, ...]:
    """The metrics that variants of the task have."""
    if task == "text-generation":
        return (*LANGUAGE_METRICS, "parity_max_abs", "size_bytes", *MEASURED_METRICS)
    own = EMBEDDING_METRICS if task == "feature-extraction" else CLASSIFIER_METRICS
    measured = tuple(metric for metric in MEASURED_METRICS if metric not in _OF_GENERATION)
    return (*own, *COMMON_METRICS, *measured)


class Behaviour(Strict, frozen=True, kw_only=True):
    """A case that must hold (Ribeiro et al., arXiv:2005.04118): this `input` (nested numbers, a mapping of
    columns, or a text) gives the class `expect`, with at least `min_confidence`."""

    name: str
    input: Any
    expect: str
    min_confidence: Rate = 0.0


class Robustness(Strict, frozen=True, kw_only=True):
    """Noise for `robust_accuracy`: Gaussian of `noise_std` (in units of the input) on numbers, a `typo_rate`
    (share of characters swapped, dropped or doubled) on text."""

    seed: Seed
    noise_std: Annotated[float, msgspec.Meta(gt=0)] | None = None
    typo_rate: Share | None = None


class PromptCase(Strict, frozen=True, kw_only=True):
    """A conversation's one question, `user`, and the properties that the greedy answer must have."""

    name: str
    user: str
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    contains: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    matches: str | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    json: bool = False
    ends: bool = False


class Prompts(Strict, frozen=True, kw_only=True):
    """Files that travel with a language model, and how they are tried: the `chat_template` (Jinja; absent:
    the model's own), the `system` prompt, strings that `stop` an answer, and `cases`."""

    chat_template: RecipePath | None = None
    system: RecipePath | None = None
    stop: tuple[str, ...] = ()
    cases: tuple[PromptCase, ...] = ()


class Evaluation(Strict, frozen=True, kw_only=True):
    """`slices` names attributes of the rows (see `Dataset.attributes`): quality is told for each value.
    `baseline` is the bundle of an earlier version, a folder beside the recipe (or --baseline): its preferred
    variant is evaluated on the same rows."""

    slices: tuple[str, ...] = ()
    behaviours: tuple[Behaviour, ...] = ()
    robustness: Robustness | None = None
    baseline: RecipePath | None = None
    held_out_tokens: Positive = 4096


class Fallback(Strict, frozen=True, kw_only=True):
    """Ask the cloud's `variant` below a confidence threshold above which the device's own answers err at most
    `target_error` of the time: with the probability `confidence_level`, by the calibration rows, of which
    at least `minimum_accepted` must be kept, or the build fails (see toolchain/evaluation/threshold.py)."""

    variant: str
    target_error: Share
    minimum_accepted: Positive
    confidence_level: Share = 0.9


class Gate(Strict, frozen=True, kw_only=True):
    """One condition: `metric` of `variant` (absent: of each device variant) on the held-out rows is at least,
    at most, or both. `slice` narrows a quality metric to one class, or to `attribute=value`; `group` names
    the attribute over whose values `group_gap` is taken. `drop_against` judges how far the metric lies below
    another variant's (such as a teacher's), or the `baseline`'s, instead of its value."""

    metric: str
    variant: str | None = None
    slice: str | None = None
    group: str | None = None
    drop_against: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def name(self) -> str:
        """The gate in a few words, such as `accuracy[3] of onnx-int8 >= 0.9`."""
        narrowed = self.slice if self.slice is not None else self.group
        what = self.metric + (f"[{narrowed}]" if narrowed is not None else "")
        what += f" of {self.variant}" if self.variant is not None else ""
        if self.drop_against is not None:
            what += f" below {self.drop_against}"
        bounds = [f">= {self.at_least:.10g}"] if self.at_least is not None else []
        bounds += [f"<= {self.at_most:.10g}"] if self.at_most is not None else []
        return f"{what} {' and '.join(bounds)}"
