"""The package step: puts the bundle together, all but its signature, which the build adds outside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeops.bundle import file_entry, other_files, write_manifest
from edgeops.canonical import canonical_json
from edgeops.errors import ArtifactError
from edgeops.manifest import (
    MEASUREMENTS_FILE,
    SCHEMA_VERSION,
    Classification,
    ColumnSpec,
    FallbackPolicy,
    Language,
    ManifestFields,
    SelfTest,
    TensorSpec,
    Variant,
)
from toolchain.evaluation.prompting import (
    PROMPTS_FILE,
    PROMPTS_FOLDER,
    SYSTEM_FILE,
    TEMPLATE_FILE,
    PromptSettings,
)
from toolchain.evaluation.report import EVALUATION_FILE, EvaluationResult, read_evaluation
from toolchain.evaluation.variant import MODEL_FILES, RUNTIMES, VARIANT_FOLDER
from toolchain.handover.context import StepContext
from toolchain.plan.step import model_step
from toolchain.recipe import Recipe
from toolchain.recipe.variants import VariantSpec
from toolchain.running.machine import machine_facts
from toolchain.steps.reference import PROFILE_FILE, SCORES, TOKENS, VECTORS_FILE, feature

BUNDLE_FOLDER = "bundle"
PROFILE_PATH = f"reference/{PROFILE_FILE}"
VECTORS_PATH = f"selftest/{VECTORS_FILE}"


def run(context: StepContext) -> None:
    """Writes the bundle without `model.sig` to `bundle/`."""
    recipe = msgspec.convert(context.config["recipe"], Recipe)
    bundle = context.out / BUNDLE_FOLDER
    shutil.copytree(context.inputs["document"], bundle)
    reference = context.inputs["reference"]
    _copy(reference / VECTORS_FILE, bundle / VECTORS_PATH)
    if (reference / PROFILE_FILE).exists():
        _copy(reference / PROFILE_FILE, bundle / PROFILE_PATH)
    if "prompts" in context.inputs:
        shutil.copytree(context.inputs["prompts"] / PROMPTS_FOLDER, bundle / PROMPTS_FOLDER)
    variants = tuple(_variant(context, spec, bundle) for spec in recipe.listed)
    (bundle / MEASUREMENTS_FILE).write_bytes(canonical_json(_measurements(context, recipe)))
    write_manifest(bundle, _fields(context, recipe, bundle, variants))


def _variant(context: StepContext, spec: VariantSpec, bundle: Path) -> Variant:
    folder = f"variants/{spec.id}"
    shutil.copytree(context.inputs[model_step(spec)] / VARIANT_FOLDER, bundle / folder)
    paths = sorted(path.relative_to(bundle).as_posix() for path in (bundle / folder).rglob("*"))
    first = f"{folder}/{MODEL_FILES[spec.format]}"
    return Variant(
        id=spec.id,
        format=spec.format,
        precision=spec.precision,
        files=tuple(file_entry(bundle, path) for path in [first, *(p for p in paths if p != first)]),
        runtime=RUNTIMES[spec.format],
        memory_bytes=spec.memory_budget_mb << 20,
        target=spec.target,
        quality={
            name: float(value)
            for name, value in _evaluation(context, spec.id).metrics.items()
            if value is not None and name != "size_bytes"
        },
    )


def _evaluation(context: StepContext, variant: str) -> EvaluationResult:
    return read_evaluation(context.read_json(f"evaluate-{variant}", EVALUATION_FILE))


def _fields(
    context: StepContext, recipe: Recipe, bundle: Path, variants: tuple[Variant, ...]
) -> ManifestFields:
    features = [feature(msgspec.to_builtins(item), recipe.input.name) for item in recipe.features]
    data = context.read_json("data", "data.json")
    inputs, outputs = _interface(recipe, variants, data, context)
    classifies = recipe.task.endswith("classification")
    return ManifestFields(
        schema_version=SCHEMA_VERSION,
        name=recipe.name,
        version=recipe.version,
        task=recipe.task,
        description=recipe.description,
        preprocessing=recipe.preprocessing,
        variants=variants,
        inputs=inputs,
        outputs=outputs,
        files=other_files(bundle, variants),
        classification=(
            Classification(output=recipe.output, classes=tuple(data["classes"])) if classifies else None
        ),
        features=tuple(features),
        fallback=_fallback(context),
        language=_language(context, bundle),
        selftest=SelfTest(path=VECTORS_PATH, atol=recipe.selftest.atol, rtol=recipe.selftest.rtol),
        reference_profile=PROFILE_PATH if (bundle / PROFILE_PATH).exists() else None,
    )


def _interface(
    recipe: Recipe, variants: tuple[Variant, ...], data: Mapping[str, Any], context: StepContext
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What goes in and comes out. A language model takes token ids: making them of text is the engine's."""
    if recipe.generates:
        vocabulary = _evaluation(context, variants[0].id).vocabulary_size
        assert vocabulary is not None
        tokens = TensorSpec(name=TOKENS, dtype="INT64", shape=(-1,), minimum=0, maximum=vocabulary - 1)
        return (tokens,), (TensorSpec(name=SCORES, dtype="FP32", shape=(-1, vocabulary)),)
    contract = recipe.input
    given = TensorSpec(
        name=contract.name,
        dtype=contract.dtype,
        shape=(-1, *contract.shape),
        minimum=contract.minimum,
        maximum=contract.maximum,
        outside=contract.outside,
        columns=tuple(
            ColumnSpec(
                name=column.name,
                minimum=column.minimum,
                maximum=column.maximum,
                max_null_rate=column.max_null_rate,
            )
            for column in contract.columns
        ),
        max_characters=contract.max_characters,
    )
    return (given,), (_output(recipe, data, context),)


def _output(recipe: Recipe, data: Mapping[str, Any], context: StepContext) -> TensorSpec:
    if recipe.task == "feature-extraction":
        size = _evaluation(context, recipe.listed[0].id).dimensions
        assert size is not None
        return TensorSpec(name=recipe.output, dtype="FP32", shape=(-1, size))
    classes = len(data["classes"])
    shape = (-1, -1, classes) if recipe.task == "token-classification" else (-1, classes)
    return TensorSpec(name=recipe.output, dtype="FP32", shape=shape, minimum=0.0, maximum=1.0)


def _language(context: StepContext, bundle: Path) -> Language | None:
    if "prompts" not in context.inputs:
        return None
    prompts = msgspec.convert(context.read_json("prompts", PROMPTS_FILE), PromptSettings)
    if prompts.context_tokens is None:
        raise ArtifactError(
            "The model does not say how many tokens its context holds.",
            remedy="Set max_position_embeddings in its config.json.",
            subject="context_tokens",
        )
    system = f"{PROMPTS_FOLDER}/{SYSTEM_FILE}"
    return Language(
        context_tokens=prompts.context_tokens,
        chat_template=f"{PROMPTS_FOLDER}/{TEMPLATE_FILE}",
        system_prompt=system if (bundle / system).exists() else None,
        stop=prompts.stop,
        bos_token=prompts.bos_token,
        eos_token=prompts.eos_token,
    )


def _fallback(context: StepContext) -> FallbackPolicy | None:
    if "calibrate" not in context.inputs:
        return None
    fallback = context.read_json("calibrate", "fallback.json")
    found = fallback["found"]
    return FallbackPolicy(
        confidence_threshold=found["confidence_threshold"],
        temperature=found["temperature"],
        variant=fallback["variant"],
        calibration=found["calibration"],
    )


def _measurements(context: StepContext, recipe: Recipe) -> Mapping[str, Any]:
    """What was measured, and on what."""
    return {
        "machine": machine_facts(),
        "variants": {
            spec.id: context.read_json(f"evaluate-{spec.id}", MEASUREMENTS_FILE) for spec in recipe.listed
        },
        "gates": context.read_json("gate", MEASUREMENTS_FILE),
    }


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
