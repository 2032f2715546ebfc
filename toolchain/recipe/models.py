"""The models of a recipe: five kinds of source, and how those that are trained here learn."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from toolchain.recipe.base import Factory, Positive, RecipePath, Seed, Strict

Seeds = Annotated[tuple[Seed, ...], msgspec.Meta(min_length=1, max_length=32)]


class Training(Strict, frozen=True, kw_only=True):
    """Adam with a one-cycle learning rate (Smith and Topin, arXiv:1708.07120), peak `learning_rate`.

    `epochs` over the training rows, or for a language model `steps` of `batch_size` windows of
    `context_tokens`. `device: auto` takes the GPUs there are (several through accelerate); the digest is
    then that machine's, since kernels differ. On `cpu` it is the same everywhere."""

    batch_size: Positive
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)]
    epochs: Positive | None = None
    steps: Positive | None = None
    context_tokens: Positive | None = None
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    device: Literal["cpu", "auto"] = "cpu"


class Hidden(Strict, frozen=True, kw_only=True):
    """Hidden-state matching: mean squared error between pairs (student layer, teacher layer), the student's
    through a learned projection where the widths differ (Romero et al., arXiv:1412.6550), times `weight`."""

    weight: Annotated[float, msgspec.Meta(gt=0)]
    layers: Annotated[tuple[tuple[str, str], ...], msgspec.Meta(min_length=1, max_length=64)]


class SequenceLevel(Strict, frozen=True, kw_only=True):
    """Sequence-level distillation (Kim and Rush, arXiv:1606.07947): the teacher continues `samples` prompts
    of `prompt_tokens` from the training text to `context_tokens`, and the student learns from these too."""

    samples: Positive
    prompt_tokens: Positive
    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0


class Distillation(Strict, frozen=True, kw_only=True):
    """Weight `alpha` on the answers of the model `teacher`, softened by `temperature`, the rest on the labels
    (Hinton, Vinyals and Dean, arXiv:1503.02531, section 2); for a language model the same token by token."""

    teacher: str
    temperature: Annotated[float, msgspec.Meta(gt=0, le=100)]
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1)]
    hidden: Hidden | None = None
    sequence: SequenceLevel | None = None


class _Trained(Strict, frozen=True, kw_only=True):
    """`factory(**options)` makes the model. With `training` it is trained here, once per seed; with
    `distillation` each seed trains with the teacher and alone, so that the gain can be told. The run that is
    best on the calibration rows ships. `class_share` keeps only a share of a class's training rows (default
    1, all of them)."""

    options: dict[str, Any] = {}
    training: Training | None = None
    seeds: Seeds = (0,)
    distillation: Distillation | None = None
    class_share: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]] = {}


class PythonModel(_Trained, frozen=True, kw_only=True, tag_field="source", tag="python"):
    """A torch module from `factory`: a batch of inputs to logits. Without `training` it comes trained; its
    weights may lie in `weights`, a safetensors file beside the recipe."""

    factory: Factory
    weights: RecipePath | None = None


class HuggingFaceModel(_Trained, frozen=True, kw_only=True, tag_field="source", tag="huggingface"):
    """A Hugging Face model: a `folder` beside the recipe (config.json, *.safetensors, tokenizer.json), or a
    `factory` that returns an untrained `transformers.PreTrainedModel`, given also `tokenizer`, the recipe's
    trained one, and for classifiers `classes`."""

    folder: RecipePath | None = None
    factory: Factory | None = None


class SklearnModel(Strict, frozen=True, kw_only=True, tag_field="source", tag="sklearn"):
    """A scikit-learn classification pipeline: `factory(**options)` returns an unfitted one, which is fitted
    on the training rows, or `file` is a fitted one that skops saved. Pickles are refused."""

    factory: Factory | None = None
    options: dict[str, Any] = {}
    file: RecipePath | None = None
    trusted_types: tuple[str, ...] = ()


class OnnxModel(Strict, frozen=True, kw_only=True, tag_field="source", tag="onnx"):
    """An ONNX `file` beside the recipe whose one output is a probability for each class (for feature
    extraction: a vector). Weights that it keeps in another file of its folder are named in
    `external_data`. A text model needs its `tokenizer.json`, named in `tokenizer`."""

    file: RecipePath
    external_data: RecipePath | None = None
    tokenizer: RecipePath | None = None


class GgufModel(Strict, frozen=True, kw_only=True, tag_field="source", tag="gguf"):
    """A GGUF `file` beside the recipe, F32, F16 or BF16: quantized ones cannot be quantized well again."""

    file: RecipePath


ModelSource = PythonModel | HuggingFaceModel | SklearnModel | OnnxModel | GgufModel
