"""The manifest's fields as frozen structs: what a bundle says of itself. `edgeops.manifest` has them all."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

Target = Literal["device", "cloud"]
# https://github.com/kserve/open-inference-protocol, "Tensor Data Types"; BYTES is text.
Dtype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
FeatureKind = Literal["mean", "std", "min", "max", "element", "characters", "words", "non_ascii"]
# Kinds of features on text (dtype BYTES); all others are on numbers.
TEXT_FEATURES = frozenset({"characters", "words", "non_ascii"})


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its path relative to the bundle, with forward slashes; its digest; its size."""

    path: str
    sha256: str
    size_bytes: int


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant runs in: `engine` is `onnxruntime`, `llama.cpp` or `mlx`."""

    engine: str
    min_version: str
    instruction_sets: tuple[str, ...] = ()


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One model file set for one format and precision.

    `target` says where it is meant to run: on devices, or in the hub for fallback. `files[0]` is the
    file that the engine opens. `memory_bytes` is the resident memory that the engine needs for it.
    `quality` holds figures measured in the target engine, on the evaluation set.
    """

    id: str
    format: Literal["onnx", "gguf", "mlx"]
    precision: str
    files: tuple[FileEntry, ...]
    runtime: Runtime
    memory_bytes: int
    target: Target = "device"
    quality: dict[str, float] = {}

    def beside(self, name: str) -> FileEntry | None:
        """The variant's file of that name in the folder of the file that the engine opens."""
        path = str(PurePosixPath(self.files[0].path).with_name(name))
        return next((entry for entry in self.files if entry.path == path), None)


class ColumnSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One column of tabular input: an element of the row's last axis, in the order of the columns.
    `minimum` and `maximum` bound what training data had, inclusively. `max_null_rate` in [0, 1] is the most
    nulls (NaN) that data may have: 0 means that a null is refused."""

    name: str
    minimum: float | None = None
    maximum: float | None = None
    max_null_rate: float = 0.0


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the model's interface, and the data contract that the device holds requests against.

    `dtype` is the protocol's name (`FP32`, `INT64`, `BYTES` for text, …); -1 in `shape` is a free dimension
    (the first is the batch). `minimum` and `maximum` bound the values that training data had, inclusively;
    the device refuses what is not finite, but for NaN in a column that may have nulls. `outside` says what
    becomes of a value beyond its bounds: it is counted, or its request is refused. `columns` names the
    elements of the last axis of tabular data. `max_characters` bounds a text.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    minimum: float | None = None
    maximum: float | None = None
    outside: Literal["count", "refuse"] = "count"
    columns: tuple[ColumnSpec, ...] = ()
    max_characters: int | None = None


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A number per row that monitoring watches: a statistic over one input tensor's row, one `element` of the
    flattened row (`index`), or of text its `characters`, `words` or share of `non_ascii` characters."""

    name: str
    input: str
    kind: FeatureKind
    index: int = 0


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """How to read a classifier: `output` of shape [batch, classes] holds one probability per class (softmax
    is in the graph), `classes` names them in order. Confidence is the largest probability. A classifier of
    words has [batch, words, classes], zeros where a text has no more words; its confidence is the least of
    its words'."""

    output: str
    classes: tuple[str, ...]


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """How to speak with a causal language model: files of the bundle that belong to the weights and were
    evaluated with them. `chat_template` is a Jinja template, `system_prompt` plain text; `bos_token` and
    `eos_token` are the texts of the special tokens that the template may write. An answer ends at a text
    in `stop`, too."""

    context_tokens: int
    chat_template: str
    system_prompt: str | None = None
    stop: tuple[str, ...] = ()
    bos_token: str = ""
    eos_token: str = ""


class FallbackPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When the device asks the cloud: confidence below `confidence_threshold` (in [0, 1]).

    Confidence is the largest of the probabilities p, recalibrated: softmax(log(p) / `temperature`)
    (Guo et al., arXiv:1706.04599, section 4.2). `variant` is the cloud variant that answers; `calibration`
    says how temperature and threshold were found, and which share of requests is expected to fall back."""

    confidence_threshold: float
    variant: str
    temperature: float = 1.0
    calibration: dict[str, Any] = {}


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs and expected outputs, one JSON document (see edgeops/selftest.py), and the tolerance:
    |got - expected| <= atol + rtol * |expected|, element by element, for each device variant."""

    path: str
    atol: float
    rtol: float


class ManifestFields(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that this version knows about a bundle."""

    schema_version: str
    name: str
    version: str
    task: str
    variants: tuple[Variant, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: tuple[FileEntry, ...]
    description: str = ""
    preprocessing: str = ""
    classification: Classification | None = None
    features: tuple[Feature, ...] = ()
    fallback: FallbackPolicy | None = None
    language: Language | None = None
    selftest: SelfTest | None = None
    reference_profile: str | None = None
