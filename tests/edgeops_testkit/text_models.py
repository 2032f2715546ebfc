"""Small real text models: a BPE tokenizer and an ONNX graph each, and a signed bundle of a classifier.

The same arguments give the same digest. Nothing here needs torch or the toolchain.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from edgeops.bundle import file_entry, other_files, write_manifest
from edgeops.confidence import confidences
from edgeops.engines.base import load_engine
from edgeops.features import feature_columns
from edgeops.manifest import (
    MEASUREMENTS_FILE,
    Classification,
    FallbackPolicy,
    Feature,
    ManifestFields,
    Runtime,
    SelfTest,
    TensorSpec,
    Variant,
)
from edgeops.profiles import reference_profile
from edgeops.selftest import SelfTestVectors, TensorValue
from edgeops.serving.host import Array
from edgeops.serving.text_tensor import text_array
from edgeops.signing.oms import sign_bundle

Head = Literal["sequence", "word", "embedding"]

CLASSES = ("light", "music", "weather")
MAX_TOKENS = 32
MAX_CHARACTERS = 200
DEVICE_VARIANT = "onnx-fp32"
CLOUD_VARIANT = "teacher-onnx-fp32"
FEATURES = (
    Feature(name="characters", input="text", kind="characters"),
    Feature(name="words", input="text", kind="words"),
    Feature(name="non_ascii", input="text", kind="non_ascii"),
)
TEXTS: tuple[tuple[str, str], ...] = (
    ("turn on the light in the kitchen", "light"),
    ("switch the lamp off", "light"),
    ("make it brighter in the hall", "light"),
    ("dim the lamp a little", "light"),
    ("play some jazz", "music"),
    ("skip this song please", "music"),
    ("turn the volume up", "music"),
    ("play the next song of the album", "music"),
    ("will it rain tomorrow", "weather"),
    ("how cold is it in Zürich", "weather"),
    ("is there snow in the mountains", "weather"),
    ("what will the weather be like tonight", "weather"),
)


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """Byte-level BPE of 400 tokens, `[CLS]` in front, cut at `MAX_TOKENS`."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["[PAD]", "[CLS]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text for text, _ in TEXTS] * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    made.enable_truncation(MAX_TOKENS)
    return made


def write_text_variant(
    bundle: Path,
    variant_id: str = DEVICE_VARIANT,
    *,
    head: Head = "sequence",
    sharpness: float = 4.0,
    target: Literal["device", "cloud"] = "device",
    config: dict[str, Any] | None = None,
) -> Variant:
    """Writes a text model to `bundle/variants/<id>/` and describes it. `sharpness` scales the logits: a sharp
    model is sure of itself."""
    folder = f"variants/{variant_id}"
    files = {
        "model.onnx": _graph(head, sharpness),
        "tokenizer.json": tokenizer().to_str().encode(),
        "config.json": json.dumps(config or {"max_tokens": MAX_TOKENS}).encode(),
    }
    (bundle / folder).mkdir(parents=True)
    for name, data in files.items():
        (bundle / folder / name).write_bytes(data)
    return Variant(
        id=variant_id,
        format="onnx",
        precision="fp32",
        files=tuple(file_entry(bundle, f"{folder}/{name}") for name in files),
        runtime=Runtime(engine="onnxruntime", min_version="1.20"),
        memory_bytes=64 << 20,
        target=target,
    )


def make_text_bundle(
    folder: Path,
    *,
    key: Path | None,
    version: str = "1.0.0",
    teacher: bool = True,
    temperature: float = 1.0,
    threshold: float = 0.6,
) -> Path:
    """Writes a bundle of a classifier of commands to `folder/commands-<version>` and returns that."""
    bundle = folder / f"commands-{version}"
    variants = [write_text_variant(bundle)]
    if teacher:
        variants.append(write_text_variant(bundle, CLOUD_VARIANT, sharpness=20.0, target="cloud"))
    texts = text_array([text for text, _ in TEXTS])
    answers = load_engine(variants[0], bundle).run({"text": texts})["probabilities"]
    counts = Counter(CLASSES[index] for index in answers.argmax(axis=1))
    profile = reference_profile(
        feature_columns(FEATURES, {"text": texts}),
        dict(sorted(counts.items())),
        confidences(answers, temperature),
    )
    _write(bundle, "reference/profile.json", profile.to_bytes())
    vectors = SelfTestVectors(
        inputs={"text": TensorValue.of(texts[:4])},
        expected={DEVICE_VARIANT: {"probabilities": TensorValue.of(np.round(answers[:4], 5))}},
    )
    _write(bundle, "selftest/vectors.json", vectors.to_bytes())
    _write(bundle, MEASUREMENTS_FILE, b"{}")
    write_manifest(
        bundle,
        ManifestFields(
            schema_version="1.0",
            name="commands",
            version=version,
            task="text-classification",
            variants=tuple(variants),
            inputs=(TensorSpec(name="text", dtype="BYTES", shape=(-1,), max_characters=MAX_CHARACTERS),),
            outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(-1, len(CLASSES))),),
            classification=Classification(output="probabilities", classes=CLASSES),
            features=FEATURES,
            fallback=FallbackPolicy(
                confidence_threshold=threshold, variant=CLOUD_VARIANT, temperature=temperature
            )
            if teacher
            else None,
            selftest=SelfTest(path="selftest/vectors.json", atol=1e-4, rtol=1e-3),
            reference_profile="reference/profile.json",
            files=other_files(bundle, variants),
        ),
    )
    if key is not None:
        sign_bundle(bundle, key)
    return bundle


def array_of(dtype: np.dtype[Any], numbers: Sequence[Any]) -> Array:
    """An array of these numbers in `dtype`; of text their digits."""
    array = np.asarray(numbers)
    if dtype != np.dtype(object):
        return array.astype(dtype)
    return text_array([str(value) for value in array.ravel()], array.shape)


def weights(head: Head = "sequence") -> Array:
    """The table of a model, float32 of shape (vocabulary, classes): smoothed log-odds of each token for each
    class. Of words a table in which no two tokens are alike, so that a test sees which was looked up."""
    if head == "word":
        random = np.random.default_rng(0)
        return random.normal(size=(tokenizer().get_vocab_size(), len(CLASSES))).round(4).astype(np.float32)
    counts = np.ones((tokenizer().get_vocab_size(), len(CLASSES)))
    for text, label in TEXTS:
        for token in tokenizer().encode(text).ids:
            counts[token, CLASSES.index(label)] += 1
    shares = np.log(counts / counts.sum(axis=1, keepdims=True))
    return np.round(shares - shares.mean(axis=1, keepdims=True), 4).astype(np.float32)


def _graph(head: Head, sharpness: float) -> bytes:
    """`sequence`: softmax of the mean of the tokens' logits; `word`: softmax of each token's; `embedding`:
    the mean alone."""
    table = numpy_helper.from_array(weights(head) * np.float32(sharpness), "table")
    ids, mask = (helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"]) for n in _NAMES)
    nodes, constants, inputs = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])], [table], [ids]
    shape: list[str | int] = ["batch", len(CLASSES)]
    if head == "word":
        nodes.append(helper.make_node("Softmax", ["rows"], ["probabilities"], axis=-1))
        shape = ["batch", "tokens", len(CLASSES)]
    else:
        last = "logits" if head == "sequence" else "probabilities"
        constants += [
            numpy_helper.from_array(np.array([2]), "last_axis"),
            numpy_helper.from_array(np.array([1]), "tokens_axis"),
        ]
        inputs.append(mask)
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["flags"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["flags", "last_axis"], ["weights"]),
            helper.make_node("Mul", ["rows", "weights"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "tokens_axis"], ["total"], keepdims=0),
            helper.make_node("ReduceSum", ["weights", "tokens_axis"], ["count"], keepdims=0),
            helper.make_node("Div", ["total", "count"], [last]),
        ]
        if head == "sequence":
            nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "commands", inputs, [output], constants)
    model = helper.make_model(
        graph, producer_name="testkit", opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


_NAMES = ("input_ids", "attention_mask")


def _write(bundle: Path, path: str, data: bytes) -> None:
    target = bundle / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
