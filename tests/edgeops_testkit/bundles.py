"""Small real bundles: a softmax classifier of handwritten digits in ONNX, signed, with all that a bundle has.

The same arguments give the same digest. Nothing here needs torch or the toolchain.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeops.bundle import file_entry, other_files, write_manifest
from edgeops.canonical import canonical_json
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
from edgeops.signing.oms import sign_bundle

Array = npt.NDArray[Any]
Quality = Literal["good", "bad"]

DEVICE_VARIANT = "onnx-fp32"
CLOUD_VARIANT = "teacher-onnx-fp32"
CLASSES = tuple(str(digit) for digit in range(10))
FEATURES = (
    Feature(name="mean", input="image", kind="mean"),
    Feature(name="std", input="image", kind="std"),
)
TRAIN_ROWS = 1400
# What the bad model was taught instead: four, seven and eight are a third of what it will see.
_WRONG = {4: 9, 7: 1, 8: 3}


@lru_cache(maxsize=1)
def digits_data() -> tuple[Array, Array, Array, Array]:
    """`(train_images, train_labels, held_out_images, held_out_labels)` of the UCI handwritten digits.

    Images are float32 of shape (rows, 1, 8, 8) in [0, 1], labels int64 of shape (rows,).
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images[:, None, :, :] / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, held_out = order[:TRAIN_ROWS], order[TRAIN_ROWS:]
    return images[train], labels[train], images[held_out], labels[held_out]


def make_bundle(
    folder: Path,
    *,
    name: str = "digits",
    version: str = "1.0.0",
    key: Path | None,
    quality: Quality = "good",
    teacher: bool = True,
) -> Path:
    """Writes a bundle to `folder/<name>-<version>` and returns that; signed if there is a private `key`.

    A `good` model is right on about 97% of held-out digits, a `bad` one on about 70%. Bundles that differ
    in version alone differ in the model file too, and share the self-test and the reference profile.
    """
    bundle = folder / f"{name}-{version}"
    student = _student(quality)
    variants = [_write_variant(bundle, DEVICE_VARIANT, student, version, "device")]
    if teacher:
        variants.append(_write_variant(bundle, CLOUD_VARIANT, _teacher(), "1", "cloud"))
    _write(bundle, "reference/profile.json", _reference(quality))
    _write_selftest(bundle, variants[0])
    _write(bundle, "README.md", f"---\nlicense: cc-by-4.0\n---\n# {name} {version}\n".encode())
    _write(bundle, MEASUREMENTS_FILE, canonical_json({"run_p50_us": {DEVICE_VARIANT: _run_p50_us(bundle)}}))
    write_manifest(
        bundle,
        ManifestFields(
            schema_version="1.0",
            name=name,
            version=version,
            task="classification",
            description="Handwritten digits, 8 by 8 pixels.",
            preprocessing="Pixels divided by 16.",
            variants=tuple(variants),
            inputs=(TensorSpec(name="image", dtype="FP32", shape=(-1, 1, 8, 8), minimum=0.0, maximum=1.0),),
            outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(-1, 10)),),
            classification=Classification(output="probabilities", classes=CLASSES),
            features=FEATURES,
            fallback=FallbackPolicy(confidence_threshold=0.6, variant=CLOUD_VARIANT) if teacher else None,
            selftest=SelfTest(path="selftest/vectors.json", atol=1e-4, rtol=1e-3),
            reference_profile="reference/profile.json",
            files=other_files(bundle, variants),
        ),
    )
    if key is not None:
        sign_bundle(bundle, key)
    return bundle


Layers = tuple[tuple[Array, Array], ...]


@lru_cache(maxsize=2)
def _student(quality: Quality) -> Layers:
    """Multinomial logistic regression by gradient descent with momentum, full batches, from zero."""
    images, labels, _, _ = digits_data()
    if quality == "bad":
        labels = np.array([_WRONG.get(int(label), int(label)) for label in labels])
    x, wanted = images.reshape(len(images), -1).astype(np.float64), np.eye(10)[labels]
    weights, bias = np.zeros((64, 10)), np.zeros(10)
    momentum, momentum_bias = np.zeros_like(weights), np.zeros_like(bias)
    for _ in range(300):
        error = (_softmax(x @ weights + bias) - wanted) / len(x)
        momentum = 0.9 * momentum - 0.5 * (x.T @ error)
        momentum_bias = 0.9 * momentum_bias - 0.5 * error.sum(axis=0)
        weights, bias = weights + momentum, bias + momentum_bias
    return ((_rounded(weights), _rounded(bias)),)


@lru_cache(maxsize=1)
def _teacher() -> Layers:
    """A wide random hidden layer with a ridge regression on top (an extreme learning machine)."""
    images, labels, _, _ = digits_data()
    random = np.random.default_rng(1)
    x = images.reshape(len(images), -1).astype(np.float64)
    hidden, hidden_bias = random.normal(size=(64, 768)) * 0.3, random.normal(size=768) * 0.3
    h = np.maximum(x @ hidden + hidden_bias, 0)
    targets = np.where(np.eye(10)[labels] > 0, 6.0, -6.0)
    out = np.linalg.solve(h.T @ h + 1.0 * np.eye(h.shape[1]), h.T @ targets)
    return ((_rounded(hidden), _rounded(hidden_bias)), (_rounded(out), np.zeros(10, np.float32)))


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


def _rounded(values: Array) -> Array:
    # Sums depend on the machine in their last bits; rounding hides that, so that digests agree.
    return np.round(values, 3).astype(np.float32)


def _predict(layers: Layers, images: Array) -> Array:
    values = images.reshape(len(images), -1)
    for weights, bias in layers[:-1]:
        values = np.maximum(values @ weights + bias, 0)
    weights, bias = layers[-1]
    return np.round(_softmax((values @ weights + bias).astype(np.float64)), 6)


def _write_variant(
    bundle: Path, variant_id: str, layers: Layers, version: str, target: Literal["device", "cloud"]
) -> Variant:
    path = f"variants/{variant_id}/model.onnx"
    _write(bundle, path, _onnx(layers, version))
    _, _, images, labels = digits_data()
    accuracy = float((_predict(layers, images).argmax(axis=1) == labels).mean())
    return Variant(
        id=variant_id,
        format="onnx",
        precision="fp32",
        files=(file_entry(bundle, path),),
        runtime=Runtime(engine="onnxruntime", min_version="1.20"),
        memory_bytes=64 << 20,
        target=target,
        quality={"accuracy": round(accuracy, 4)},
    )


def _onnx(layers: Layers, version: str) -> bytes:
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, weights, value = [helper.make_node("Flatten", ["image"], ["flat"])], [], "flat"
    for index, (matrix, bias) in enumerate(layers):
        weights += [numpy_helper.from_array(matrix, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [f"z{index}"]))
        value = f"z{index}"
        if index + 1 < len(layers):
            nodes.append(helper.make_node("Relu", [value], [f"h{index}"]))
            value = f"h{index}"
    nodes.append(helper.make_node("Softmax", [value], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(
        graph, producer_name="testkit", producer_version=version, opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@lru_cache(maxsize=2)
def _reference(quality: Quality) -> bytes:
    """The reference profile of what it was trained on and answers there."""
    images, _, _, _ = digits_data()
    answers = _predict(_student(quality), images)
    counts = Counter(CLASSES[index] for index in answers.argmax(axis=1))
    columns = feature_columns(FEATURES, {"image": images})
    return reference_profile(columns, dict(sorted(counts.items())), answers.max(axis=1)).to_bytes()


def _write_selftest(bundle: Path, variant: Variant) -> None:
    _, _, images, _ = digits_data()
    chosen = images[:8]
    output = _session(bundle).run(["probabilities"], {"image": chosen})[0]
    vectors = SelfTestVectors(
        inputs={"image": TensorValue.of(chosen)},
        expected={variant.id: {"probabilities": TensorValue.of(np.round(output, 5))}},
    )
    _write(bundle, "selftest/vectors.json", vectors.to_bytes())


def _run_p50_us(bundle: Path) -> float:
    session, one = _session(bundle), digits_data()[2][:1]
    durations = []
    for _ in range(20):
        start = time.perf_counter_ns()
        session.run(None, {"image": one})
        durations.append(time.perf_counter_ns() - start)
    return float(np.median(durations)) / 1000


def _session(bundle: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(bundle / f"variants/{DEVICE_VARIANT}/model.onnx"), options, providers=["CPUExecutionProvider"]
    )


def _write(bundle: Path, path: str, data: bytes) -> None:
    target = bundle / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
