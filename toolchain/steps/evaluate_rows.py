"""The evaluate step of classifiers and embeddings: one variant in the engine that will run it. It runs in a
process of its own, since an engine can abort on a bad file, and since that process's memory is what is
measured."""

from __future__ import annotations

import numpy as np

from edgeops.engines.base import load_engine
from edgeops.manifest import MEASUREMENTS_FILE
from edgeops.processes import limit_memory
from toolchain.evaluation.baseline import evaluated
from toolchain.evaluation.breakdown import chosen_attributes
from toolchain.evaluation.measuring import MemoryMeter, call_times_ms, quantiles
from toolchain.evaluation.report import EVALUATION_FILE, OUTPUTS_FILE
from toolchain.evaluation.rows import Asker, Question, as_inputs, evaluate
from toolchain.evaluation.variant import VARIANT_FOLDER, memory_limit_bytes, read_variant, size_bytes
from toolchain.handover.arrays import DATA_FILE, Array, load_arrays, save_arrays
from toolchain.handover.context import StepContext

ANSWERS_FILE = "answers.npz"
# Rows that are timed in turn: a text's time depends on its length. And as many that take the most memory.
TIMED_ROWS = 64


def run(context: StepContext) -> None:
    """Writes `evaluation.json` (see `EvaluationResult`), `outputs.npz` (what the calibration rows and the
    self-test inputs gave) and `measurements.json` (latency of one row and memory, on this machine)."""
    data = context.read_json("data", "data.json")
    config = evaluated(context, tuple(data["classes"]))
    folder = context.inputs["model"] / VARIANT_FOLDER
    variant = read_variant(
        folder, variant_id=config["variant"], format=config["format"], precision=config["precision"]
    )
    arrays = load_arrays(context.inputs["data"] / DATA_FILE)
    source = load_arrays(context.inputs["answers"] / ANSWERS_FILE)["held_out"]
    question = Question(
        config=config,
        classes=tuple(data["classes"]),
        inputs=as_inputs(arrays["held_out_inputs"]),
        labels=arrays["held_out_labels"],
        source=source,
        attributes=chosen_attributes(arrays, [*config["slices"], *config["groups"]]),
    )
    calibration = arrays["calibration_inputs"]
    held = sum(array.nbytes for array in arrays.values()) + source.nbytes
    limit_memory(memory_limit_bytes(variant, held))
    memory = MemoryMeter()
    engine = load_engine(variant, folder)
    try:
        asker = Asker(engine, config, processors=context.processors)
        context.progress(0.1, "latency and memory")
        for row in _one_by_one(_largest(question.inputs)):
            asker.ask(row)
        timed = _one_by_one(question.inputs[:TIMED_ROWS])
        latency = quantiles(call_times_ms(lambda number: asker.ask(timed[number % len(timed)])))
        peak_bytes = memory.peak_bytes()  # before several rows are under way at once
        context.progress(0.2, "held-out rows")
        answers = asker.ask_rows(question.inputs)
        context.progress(0.5, "calibration rows")
        calibrated = asker.ask_rows(as_inputs(calibration))
        selftest = calibration[: config["selftest_rows"]]
        vectors = asker.ask(as_inputs(selftest))
        context.progress(0.7, "cases and noise")
        evaluation = evaluate(asker, question, answers, size_bytes(variant))
    finally:
        engine.close()
    save_arrays(
        context.out / OUTPUTS_FILE,
        {"calibration": calibrated, "selftest_inputs": selftest, "selftest_outputs": vectors},
    )
    context.write_json(EVALUATION_FILE, evaluation.to_dict())
    context.write_json(MEASUREMENTS_FILE, {**latency, "memory_bytes": peak_bytes})


def _largest(inputs: Array) -> Array:
    """The longest texts. Other rows are all of one size."""
    if inputs.dtype != object:
        return inputs[:1]
    return inputs[np.argsort([-len(text) for text in inputs], kind="stable")[:TIMED_ROWS]]


def _one_by_one(inputs: Array) -> list[Array]:
    return [inputs[i : i + 1] for i in range(len(inputs))]
