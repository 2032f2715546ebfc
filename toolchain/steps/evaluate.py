"""The evaluate step: one variant in the engine that will run it. It runs in a process of its own, since an
engine can abort on a bad file, and since that process's memory is what is measured."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeops.canonical import sha256_file
from edgeops.engines.base import Engine, load_engine
from edgeops.errors import ArtifactError
from edgeops.manifest import MEASUREMENTS_FILE, FileEntry, Runtime, Variant
from edgeops.processes import limit_memory
from toolchain.steps.arrays import Array, load_arrays, load_part, save_arrays
from toolchain.steps.context import StepContext
from toolchain.steps.metrics import parity, quality

MODEL_FILE = "model.onnx"
OUTPUTS_FILE = "outputs.npz"
MIN_RUNTIME = "1.22"
# A graph may ask for any amount of memory when it runs.
MEMORY_LIMIT_BYTES = 2 << 30
WARMUP_RUNS = 50
TIMED_RUNS = 500


def run(context: StepContext) -> None:
    """Writes `evaluation.json` (quality on the held-out rows, parity with the source model, size),
    `outputs.npz` (what the calibration rows and the self-test inputs gave) and `measurements.json`
    (latency and memory on this machine)."""
    limit_memory(MEMORY_LIMIT_BYTES)
    config = context.config
    held_out, labels = load_part(context.inputs["data"], "held_out")
    calibration, _ = load_part(context.inputs["data"], "calibration")
    source = load_arrays(context.inputs["source"] / "source_outputs.npz")["probabilities"]
    classes = context.read_json("data", "data.json")["classes"]
    before = peak_memory_bytes()
    variant = _variant(config, context.inputs["model"])
    engine = load_engine(variant, context.inputs["model"])
    try:
        _check_interface(engine, config)
        name, output = config["input"]["name"], config["output"]
        context.progress(0.2, "held-out rows")
        probabilities = _row_by_row(engine, held_out, name, output)
        context.progress(0.5, "calibration rows")
        calibrated = _row_by_row(engine, calibration, name, output)
        selftest = calibration[: config["selftest_rows"]]
        vectors = engine.run({name: selftest})[output]
        context.progress(0.7, "latency")
        latency = _latency(engine, {name: held_out[:1]})
        memory = peak_memory_bytes() - before
    finally:
        engine.close()
    save_arrays(
        context.out / OUTPUTS_FILE,
        {"calibration": calibrated, "selftest_inputs": selftest, "selftest_outputs": vectors},
    )
    context.write_json(
        "evaluation.json",
        {
            "variant": config["variant"],
            "precision": config["precision"],
            "size_bytes": variant.files[0].size_bytes,
            **quality(probabilities, labels, classes),
            **parity(probabilities, source),
        },
    )
    context.write_json(MEASUREMENTS_FILE, {**latency, "memory_bytes": memory})


def peak_memory_bytes() -> int:
    """The most memory that this process ever had resident."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: Linux hands a parent's peak on to what it forks.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _variant(config: Mapping[str, Any], folder: Path) -> Variant:
    path = folder / MODEL_FILE
    entry = FileEntry(path=MODEL_FILE, sha256=sha256_file(path), size_bytes=path.stat().st_size)
    return Variant(
        id=config["variant"],
        format="onnx",
        precision=config["precision"],
        files=(entry,),
        runtime=Runtime(engine="onnxruntime", min_version=MIN_RUNTIME),
        memory_bytes=0,
    )


def _check_interface(engine: Engine, config: Mapping[str, Any]) -> None:
    inputs = [(spec.name, spec.dtype, spec.shape) for spec in engine.inputs]
    wanted = [(config["input"]["name"], "FP32", (-1, *config["input"]["shape"]))]
    outputs = [(spec.name, spec.dtype) for spec in engine.outputs]
    if inputs != wanted or outputs != [(config["output"], "FP32")]:
        raise ArtifactError(
            f"The graph of {config['variant']} takes {inputs} and gives {outputs}; the recipe says {wanted} "
            f"and {config['output']!r}.",
            remedy="Correct the recipe's input and output, or the network.",
            subject=config["variant"],
        )


def _row_by_row(engine: Engine, inputs: Array, name: str, output: str) -> Array:
    """The answers to one row at a time, as devices see them: dynamic quantization scales a whole batch by
    one factor, so that a row's answer depends on its neighbours."""
    rows = [engine.run({name: inputs[i : i + 1]})[output] for i in range(len(inputs))]
    return np.concatenate(rows)


def _latency(engine: Engine, inputs: dict[str, Array]) -> dict[str, float]:
    """Milliseconds of one run of one row, in this process: no protocol, no queue."""
    for _ in range(WARMUP_RUNS):
        engine.run(inputs)
    times = np.empty(TIMED_RUNS)
    for i in range(TIMED_RUNS):
        start = time.perf_counter_ns()
        engine.run(inputs)
        times[i] = (time.perf_counter_ns() - start) / 1e6
    p50, p99 = np.percentile(times, [50, 99])
    return {"latency_p50_ms": round(float(p50), 6), "latency_p99_ms": round(float(p99), 6)}
