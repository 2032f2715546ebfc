"""Runs one step as a build does, in a process of its own, and makes what evaluation steps are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeops.canonical import canonical_json
from toolchain.handover.arrays import Array, save_arrays
from toolchain.running.worker import Answer, Request

CLASSES = ("circle", "square", "line")
FEATURES = 4


def run_step(
    module: str,
    out: Path,
    config: Mapping[str, Any],
    *,
    records: Mapping[str, Mapping[str, Any]] | None = None,
    processors: int = 1,
    **inputs: Path,
) -> Path:
    """Runs `toolchain.steps.<module>` and returns `out`. Raises what the step raised; a step whose process
    died raises `EOFError`."""
    out.mkdir(parents=True)
    checkpoints = out.with_name(f"{out.name}.checkpoints")
    checkpoints.mkdir()
    request = Request(
        module=f"toolchain.steps.{module}",
        config=dict(config),
        inputs={role: str(path) for role, path in inputs.items()},
        out=str(out),
        checkpoints=str(checkpoints),
        processors=processors,
        records={name: dict(record) for name, record in (records or {}).items()},
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "toolchain.running.worker", str(os.getpid())],
        input=msgspec.json.encode(request) + b"\n",
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=120,
    )
    answers = [msgspec.json.decode(line, type=Answer) for line in done.stdout.splitlines()]
    if not answers or not (answers[-1].done or answers[-1].error):
        raise EOFError(done.stderr.decode(errors="replace"))
    failure = answers[-1].error
    if failure is None:
        return out
    if not failure.type:
        raise RuntimeError(failure.message + done.stderr.decode(errors="replace"))
    raise failure.to_error()


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def rows_folder(folder: Path, *, held_out: int = 120, calibration: int = 60, seed: int = 0) -> Path:
    """What the data step leaves: rows of `FEATURES` normal numbers, labelled by `write_linear`'s own answers,
    a tenth of them wrongly, and the attribute `site`."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for part, rows in (("train", 10), ("calibration", calibration), ("held_out", held_out)):
        inputs = rng.normal(size=(rows, FEATURES)).astype(np.float32)
        labels = linear_answers(inputs).argmax(axis=1).astype(np.int64)
        wrong = rng.random(rows) < 0.1
        labels[wrong] = (labels[wrong] + 1) % len(CLASSES)
        arrays |= {f"{part}_inputs": inputs, f"{part}_labels": labels}
        arrays[f"{part}_attribute_site"] = np.where(np.arange(rows) % 3 == 0, "rome", "oslo")
    save_arrays(folder / "data.npz", arrays)
    (folder / "data.json").write_bytes(
        canonical_json(
            {
                "classes": list(CLASSES),
                "source": "made here",
                "license": "CC0-1.0",
                "rows": {"train": 10, "calibration": calibration, "held_out": held_out},
                "attributes": ["site"],
                "sha256": "0" * 64,
            }
        )
    )
    return folder


def linear_answers(inputs: Array, *, seed: int = 0) -> Array:
    """What `edgeops_testkit.graphs.write_linear` computes, by NumPy."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(FEATURES, len(CLASSES))).astype(np.float32)
    bias = rng.normal(size=len(CLASSES)).astype(np.float32)
    scores = np.exp(inputs @ weights + bias)
    answers: Array = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return answers


def rows_config(**changes: Any) -> dict[str, Any]:
    """The config of `evaluate_rows` for such rows."""
    return {
        "variant": "onnx-int8",
        "format": "onnx",
        "precision": "int8",
        "task": "tabular-classification",
        "input": {
            "name": "pixels",
            "dtype": "FP32",
            "shape": [FEATURES],
            "minimum": None,
            "maximum": None,
            "columns": [],
            "max_characters": None,
        },
        "output": "probabilities",
        "selftest_rows": 4,
        "slices": ["site"],
        "groups": [],
        "behaviours": [],
        "robustness": None,
        "prompts": None,
        **changes,
    }
