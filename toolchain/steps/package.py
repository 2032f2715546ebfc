"""The package step: puts the bundle together, all but its signature, which the build adds outside."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeops.bundle import file_entry, other_files, write_manifest
from edgeops.canonical import canonical_json
from edgeops.manifest import (
    MEASUREMENTS_FILE,
    SCHEMA_VERSION,
    Classification,
    FallbackPolicy,
    ManifestFields,
    Runtime,
    SelfTest,
    TensorSpec,
    Variant,
)
from toolchain.plan import model_step
from toolchain.recipe import QUALITY_METRICS, Recipe, VariantSpec
from toolchain.steps.context import StepContext
from toolchain.steps.evaluate import MIN_RUNTIME
from toolchain.steps.reference import PROFILE_FILE, VECTORS_FILE, feature

MODEL_FILE = "model.onnx"
BUNDLE_FOLDER = "bundle"
PROFILE_PATH = f"reference/{PROFILE_FILE}"
VECTORS_PATH = f"selftest/{VECTORS_FILE}"


def run(context: StepContext) -> None:
    """Writes the bundle without `model.sig` to `bundle/`."""
    recipe = msgspec.convert(context.config["recipe"], Recipe)
    bundle = context.out / BUNDLE_FOLDER
    shutil.copytree(context.inputs["document"], bundle)
    _copy(context.inputs["reference"] / PROFILE_FILE, bundle / PROFILE_PATH)
    _copy(context.inputs["reference"] / VECTORS_FILE, bundle / VECTORS_PATH)
    variants = tuple(_variant(context, spec, bundle) for spec in recipe.variants)
    (bundle / MEASUREMENTS_FILE).write_bytes(canonical_json(_measurements(context, recipe)))
    write_manifest(bundle, _fields(context, recipe, bundle, variants))


def _variant(context: StepContext, spec: VariantSpec, bundle: Path) -> Variant:
    path = f"variants/{spec.id}/{MODEL_FILE}"
    _copy(context.inputs[model_step(spec)] / MODEL_FILE, bundle / path)
    evaluation = context.read_json(f"evaluate-{spec.id}", "evaluation.json")
    return Variant(
        id=spec.id,
        format="onnx",
        precision=spec.precision,
        files=(file_entry(bundle, path),),
        runtime=Runtime(engine="onnxruntime", min_version=MIN_RUNTIME),
        memory_bytes=spec.memory_budget_mb << 20,
        target=spec.target,
        quality={name: float(evaluation[name]) for name in QUALITY_METRICS if name != "size_bytes"},
    )


def _fields(
    context: StepContext, recipe: Recipe, bundle: Path, variants: tuple[Variant, ...]
) -> ManifestFields:
    classes = context.read_json("data", "data.json")["classes"]
    contract = recipe.input
    features = [feature(msgspec.to_builtins(item), contract.name) for item in recipe.features]
    return ManifestFields(
        schema_version=SCHEMA_VERSION,
        name=recipe.name,
        version=recipe.version,
        task=recipe.task,
        description=recipe.description,
        preprocessing=recipe.preprocessing,
        variants=variants,
        inputs=(
            TensorSpec(
                name=contract.name,
                dtype="FP32",
                shape=(-1, *contract.shape),
                minimum=contract.minimum,
                maximum=contract.maximum,
            ),
        ),
        outputs=(
            TensorSpec(name=recipe.output, dtype="FP32", shape=(-1, len(classes)), minimum=0.0, maximum=1.0),
        ),
        files=other_files(bundle, variants),
        classification=Classification(output=recipe.output, classes=tuple(classes)),
        features=tuple(features),
        fallback=_fallback(context),
        selftest=SelfTest(path=VECTORS_PATH, atol=recipe.selftest.atol, rtol=recipe.selftest.rtol),
        reference_profile=PROFILE_PATH,
    )


def _fallback(context: StepContext) -> FallbackPolicy | None:
    if "calibrate" not in context.inputs:
        return None
    fallback = context.read_json("calibrate", "fallback.json")
    return FallbackPolicy(
        confidence_threshold=fallback["found"]["confidence_threshold"],
        variant=fallback["variant"],
        calibration=fallback["found"]["calibration"],
    )


def _measurements(context: StepContext, recipe: Recipe) -> Mapping[str, Any]:
    """What was measured, and on what. No host or user name: a bundle travels."""
    return {
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count() or 0,
        },
        "variants": {
            spec.id: context.read_json(f"evaluate-{spec.id}", MEASUREMENTS_FILE) for spec in recipe.variants
        },
        "gates": context.read_json("gate", MEASUREMENTS_FILE),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
