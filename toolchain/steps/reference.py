"""The reference step: what normal looks like, and how a device proves that it computes what was built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from edgeops.confidence import confidences
from edgeops.features import feature_columns
from edgeops.manifest import Feature
from edgeops.profiles import reference_profile
from edgeops.selftest import SelfTestVectors, TensorValue
from edgeops.serving.text_tensor import text_array
from toolchain.handover.arrays import Array, load_arrays, load_part
from toolchain.handover.context import StepContext

PROFILE_FILE = "profile.json"
VECTORS_FILE = "vectors.json"
# The names of a language model's self-test: token ids in, the scores of what follows the last one out.
TOKENS, SCORES = "tokens", "logits"


def run(context: StepContext) -> None:
    """Writes `vectors.json`, and for models that classify `profile.json`.

    The profile's features come from the training rows, its classes and confidence from the shipped variant's
    answers to the calibration rows: a model is surer of what it was trained on.
    """
    config = context.config
    language = config["task"] == "text-generation"
    name, output = (TOKENS, SCORES) if language else (config["input"]["name"], config["output"])
    outputs = {
        variant: load_arrays(context.inputs[f"evaluate-{variant}"] / "outputs.npz")
        for variant in config["device_variants"]
    }
    shipped = outputs[config["variant"]]
    vectors = SelfTestVectors(
        inputs={name: TensorValue.of(_as_served(shipped["selftest_inputs"]))},
        expected={
            variant: {output: TensorValue.of(arrays["selftest_outputs"])}
            for variant, arrays in outputs.items()
        },
    )
    (context.out / VECTORS_FILE).write_bytes(vectors.to_bytes())
    if not language:
        _write_profile(context, config, shipped["calibration"])


def _write_profile(context: StepContext, config: Mapping[str, Any], answers: Array) -> None:
    name = config["input"]["name"]
    inputs, _ = load_part(context.inputs["data"], "train")
    features = [feature(item, name) for item in config["features"]]
    columns = feature_columns(features, {name: _as_served(inputs)})
    classifies = config["task"].endswith("classification")
    labels = context.read_json("data", "data.json")["classes"] if classifies else []
    rows = answers.reshape(-1, answers.shape[-1])
    # Past a short text's last word there is no answer, and a word that was cut off has zeros.
    rows = rows[np.isfinite(rows).all(axis=1) & rows.any(axis=1)]
    counts = np.bincount(rows.argmax(axis=1), minlength=len(labels))[: len(labels)]
    profile = reference_profile(
        columns,
        {label: int(count) for label, count in zip(labels, counts, strict=True)},
        confidences(rows, _temperature(context)) if classifies else None,
    )
    (context.out / PROFILE_FILE).write_bytes(profile.to_bytes())


def _as_served(inputs: Array) -> Array:
    """Text as engines and features take it: files hold it in an array of fixed width, as pickles are out."""
    return text_array(inputs.tolist()) if inputs.dtype.kind == "U" else inputs


def _temperature(context: StepContext) -> float:
    """What the device's confidence is calibrated by. 1 if no threshold was found: the gates refuse that."""
    if "calibrate" not in context.inputs:
        return 1.0
    found = context.read_json("calibrate", "fallback.json")["found"]
    return 1.0 if found is None else float(found["temperature"])


def feature(item: dict[str, object], input_name: str) -> Feature:
    """The manifest's feature from the recipe's: recipes have one input, so they do not name it."""
    return msgspec.convert({**item, "input": input_name}, Feature)
