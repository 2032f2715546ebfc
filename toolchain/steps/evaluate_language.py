"""The evaluate step of causal language models: one variant in the engine that will run it, in a process of
its own (see evaluate_rows)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from edgeops.engines.base import LanguageEngine, load_language_engine
from edgeops.errors import ArtifactError
from edgeops.manifest import MEASUREMENTS_FILE
from edgeops.processes import limit_memory
from toolchain.evaluation.baseline import evaluated
from toolchain.evaluation.gates import LEAST_TOKENIZER_AGREEMENT
from toolchain.evaluation.language import compare, tokenizer_agreement
from toolchain.evaluation.measuring import MemoryMeter, generation_times
from toolchain.evaluation.prompting import (
    PROMPTS_FILE,
    PromptSettings,
    answer_case,
    read_template,
    share_passed,
)
from toolchain.evaluation.report import EVALUATION_FILE, OUTPUTS_FILE, EvaluationResult, PromptResult
from toolchain.evaluation.variant import VARIANT_FOLDER, memory_limit_bytes, read_variant, size_bytes
from toolchain.handover.arrays import Array, load_arrays, load_documents, save_arrays
from toolchain.handover.context import StepContext
from toolchain.recipe.evaluation import BASELINE, PromptCase

ANSWERS_FILE = "answers.npz"
SELFTEST_TOKENS = 32


def run(context: StepContext) -> None:
    """Writes `evaluation.json` (see `EvaluationResult`), `outputs.npz` (self-test vectors: tokens, and the
    logits of what follows the last one) and `measurements.json` (on this machine: latency of a generated
    token, of the first one, tokens a second, memory)."""
    config = evaluated(context, ())
    folder = context.inputs["model"] / VARIANT_FOLDER
    variant = read_variant(
        folder, variant_id=config["variant"], format=config["format"], precision=config["precision"]
    )
    answers = load_arrays(context.inputs["answers"] / ANSWERS_FILE)
    tokens, source = answers["tokens"], answers["held_out"]
    documents = load_documents(context.inputs["data"], "held_out")
    limit_memory(memory_limit_bytes(variant, tokens.nbytes + source.nbytes))
    memory = MemoryMeter()
    engine = load_language_engine(variant, folder)
    try:
        context.progress(0.05, "latency")
        times = generation_times(engine, tokens)
        selftest = tokens[: config["selftest_rows"], :SELFTEST_TOKENS]
        vectors = np.stack([engine.logits(row.tolist())[-1] for row in selftest])
        peak_bytes = memory.peak_bytes()
        context.progress(0.2, "held-out tokens")
        metrics, of_source = compare(tokens, source, engine.logits)
        metrics["tokenizer_agreement"] = _agreement(engine, config, documents, tokens)
        context.progress(0.8, "prompts")
        prompts = _prompts(context, engine, config)
        vocabulary = engine.vocabulary_size
    finally:
        engine.close()
    if prompts:
        metrics["prompts_passed"] = share_passed(prompts)
    evaluation = EvaluationResult(
        variant=config["variant"],
        format=config["format"],
        precision=config["precision"],
        size_bytes=size_bytes(variant),
        metrics={**metrics, "size_bytes": float(size_bytes(variant))},
        rows=len(documents),
        tokens=int(tokens.size),
        vocabulary_size=vocabulary,
        source=of_source,
        prompts=prompts,
    )
    save_arrays(context.out / OUTPUTS_FILE, {"selftest_inputs": selftest, "selftest_outputs": vectors})
    context.write_json(EVALUATION_FILE, evaluation.to_dict())
    context.write_json(MEASUREMENTS_FILE, {**times, "memory_bytes": peak_bytes})


def _agreement(
    engine: LanguageEngine, config: Mapping[str, Any], documents: list[str], tokens: Array
) -> float | None:
    agreement = tokenizer_agreement(engine, documents, tokens)
    if config["variant"] == BASELINE and (agreement is None or agreement < LEAST_TOKENIZER_AGREEMENT):
        raise ArtifactError(
            f"The baseline reads only {agreement or 0:.1%} of the held-out text as the same tokens, so the "
            "two cannot be compared token by token.",
            remedy="Leave the baseline out, or give one with the same tokenizer.",
            subject=BASELINE,
        )
    return agreement


def _prompts(
    context: StepContext, engine: LanguageEngine, config: Mapping[str, Any]
) -> tuple[PromptResult, ...]:
    if "prompts" not in context.inputs:
        return ()
    cases = msgspec.convert(config["prompts"]["cases"], tuple[PromptCase, ...])
    settings = msgspec.convert(context.read_json("prompts", PROMPTS_FILE), PromptSettings)
    # Read whether or not there are cases: a template that cannot be used must not ship.
    template = read_template(context.inputs["prompts"], settings)
    return tuple(answer_case(engine, template, case, settings.stop) for case in cases)
