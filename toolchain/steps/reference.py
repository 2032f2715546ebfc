"""The reference step: what normal looks like, and how a device proves that it computes what was built."""

from __future__ import annotations

import msgspec
import numpy as np

from edgeops.features import feature_columns
from edgeops.manifest import Feature
from edgeops.profiles import reference_profile
from edgeops.selftest import SelfTestVectors, TensorValue
from toolchain.steps.arrays import load_arrays, load_part
from toolchain.steps.context import StepContext

PROFILE_FILE = "profile.json"
VECTORS_FILE = "vectors.json"


def run(context: StepContext) -> None:
    """Writes `profile.json` and `vectors.json`.

    The profile's features come from the training rows, its classes and confidence from the shipped variant's
    answers to the calibration rows: a model is surer of what it was trained on.
    """
    config = context.config
    name, output = config["input"]["name"], config["output"]
    inputs, _ = load_part(context.inputs["data"], "train")
    features = [feature(item, name) for item in config["features"]]
    outputs = {
        variant: load_arrays(context.inputs[f"evaluate-{variant}"] / "outputs.npz")
        for variant in config["device_variants"]
    }
    answers = outputs[config["variant"]]["calibration"]
    labels = context.read_json("data", "data.json")["classes"]
    counts = np.bincount(answers.argmax(axis=1), minlength=len(labels))
    profile = reference_profile(
        feature_columns(features, {name: inputs}),
        {label: int(count) for label, count in zip(labels, counts, strict=True)},
        answers.max(axis=1),
    )
    (context.out / PROFILE_FILE).write_bytes(profile.to_bytes())
    vectors = SelfTestVectors(
        inputs={name: TensorValue.of(outputs[config["variant"]]["selftest_inputs"])},
        expected={
            variant: {output: TensorValue.of(arrays["selftest_outputs"])}
            for variant, arrays in outputs.items()
        },
    )
    (context.out / VECTORS_FILE).write_bytes(vectors.to_bytes())


def feature(item: dict[str, object], input_name: str) -> Feature:
    """The manifest's feature from the recipe's: recipes have one input, so they do not name it."""
    return msgspec.convert({**item, "input": input_name}, Feature)
