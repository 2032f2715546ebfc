"""The gate step as a build runs it: what it lets pass, and the whole report of what it refuses."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeops.canonical import canonical_json
from edgeops.errors import GateError
from edgeops_testkit.evaluation_steps import read_json, rows_folder, run_step
from edgeops_testkit.reports import classifier, fallback, trained
from toolchain.documents.html import render
from toolchain.recipe.evaluation import Gate

pytestmark = pytest.mark.slow

MEASURED = {"latency_p50_ms": 0.5, "latency_p99_ms": 2.0, "memory_bytes": 30_000_000}


def judged(
    folder: Path,
    *gates: Gate,
    budget_bytes: int = 64 << 20,
    threshold: bool = True,
    measured: dict[str, float] = MEASURED,
) -> Path:
    """Runs the gate step on two variants and a baseline."""
    roles = {"data": rows_folder(folder / "data")}

    def write(role: str, **files: Any) -> None:
        (folder / role).mkdir()
        for name, value in files.items():
            (folder / role / f"{name}.json").write_bytes(canonical_json(value))
        roles[role] = folder / role

    write(
        "model-student",
        training={"source": "python", "parameters": 9, "train_rows": 10, **trained()},
    )
    for variant, accuracy in (("onnx-int8", 0.9), ("teacher-onnx-fp32", 0.99), ("baseline", 0.95)):
        evaluation = classifier(variant, accuracy).to_dict()
        write(f"evaluate-{variant}", evaluation=evaluation, measurements=measured)
    write("calibrate", fallback=fallback(threshold))
    config = {
        "about": {
            "name": "sample",
            "version": "1.0.0",
            "task": "image-classification",
            "description": "A sample.",
            "limitations": "",
            "preferred": "onnx-int8",
            "variants": {
                "onnx-int8": {"target": "device", "model": "student"},
                "teacher-onnx-fp32": {"target": "cloud", "model": "teacher"},
            },
            "class_share": {"student": {"dog": 0.5}},
        },
        "gates": [msgspec.to_builtins(gate) for gate in gates],
        "device_variants": ["onnx-int8"],
        "memory_budget_bytes": {"onnx-int8": budget_bytes, "teacher-onnx-fp32": 64 << 20},
    }
    return run_step("gate", folder / "gate", config, **roles)


def test_sound_variants_pass_and_what_was_measured_stands_apart(tmp_path: Path) -> None:
    gates = (
        Gate(metric="accuracy", at_least=0.8),
        Gate(metric="accuracy", drop_against="teacher-onnx-fp32", at_most=0.1),
        Gate(metric="accuracy", drop_against="baseline", at_most=0.06),
        Gate(metric="latency_p99_ms", at_most=5),
    )
    out = judged(tmp_path, *gates)
    told = read_json(out / "gates.json")["gates"]
    assert len(told) == len(gates) + 2 + 1  # each variant's memory, and the fallback
    assert all(gate["passed"] for gate in told)
    for gate in told:
        assert ("value" in gate) == (gate["kind"] not in ("latency", "memory"))
    assert read_json(out / "measurements.json") == {
        "latency_p99_ms of onnx-int8 <= 5": 2,
        "memory_bytes of onnx-int8 <= 67108864": 30_000_000,
        "memory_bytes of teacher-onnx-fp32 <= 67108864": 30_000_000,
    }


def test_a_failed_gate_says_by_how_much_and_brings_the_whole_report(tmp_path: Path) -> None:
    with pytest.raises(GateError) as failed:
        judged(
            tmp_path,
            Gate(metric="accuracy", at_least=0.93),
            Gate(metric="accuracy", drop_against="baseline", at_most=0.01),
            Gate(metric="nll", at_most=9),
        )
    error = failed.value
    assert error.exit_code == 4
    assert "2 of 6 gates failed" in error.message
    assert "(0.9 found, missed by 0.03)" in error.message
    told = {gate["name"]: gate for gate in error.details["gates"]}
    assert told["accuracy of onnx-int8 below baseline <= 0.01"]["missed_by"] == pytest.approx(0.04)
    report = json.loads(json.dumps(error.details["report"]))
    assert report["variants"]["onnx-int8"]["metrics"]["accuracy"] == 0.9
    assert report["baseline"]["metrics"]["accuracy"] == 0.95
    assert report["measurements"]["variants"]["onnx-int8"] == MEASURED
    assert "2 of 6 gates failed" in render(report)
    assert not (tmp_path / "gate" / "gates.json").exists()


def test_the_time_to_the_first_token_is_judged_and_no_part_of_the_identity(tmp_path: Path) -> None:
    def told(folder: str, first_token_ms: float) -> Path:
        (tmp_path / folder).mkdir()
        gate = Gate(metric="first_token_ms", at_most=30)
        return judged(tmp_path / folder, gate, measured={**MEASURED, "first_token_ms": first_token_ms})

    quick, slower = told("quick", 12.5), told("slower", 29.0)
    assert read_json(quick / "measurements.json")["first_token_ms of onnx-int8 <= 30"] == 12.5
    assert (quick / "gates.json").read_bytes() == (slower / "gates.json").read_bytes()
    assert (quick / "measurements.json").read_bytes() != (slower / "measurements.json").read_bytes()
    with pytest.raises(
        GateError, match=r"first_token_ms of onnx-int8 <= 30 \(31 found, missed by 1\)"
    ) as failed:
        told("late", 31.0)
    assert failed.value.details["gates"][0]["kind"] == "latency"
    with pytest.raises(GateError, match="there is no first_token_ms of onnx-int8"):
        judged(tmp_path, Gate(metric="first_token_ms", at_most=30))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"budget_bytes": 20 << 20}, "memory_bytes of onnx-int8 <= 20971520"),
        ({"threshold": False}, "no threshold keeps the error under 0.05"),
    ],
)
def test_memory_and_fallback_are_judged_without_being_asked(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(GateError, match="1 of 4 gates failed") as failed:
        judged(tmp_path, Gate(metric="accuracy", at_least=0.5), **changes)
    assert why in failed.value.message


def test_remarks_tell_what_a_reader_should_not_have_to_work_out(tmp_path: Path) -> None:
    with pytest.raises(GateError) as failed:
        judged(tmp_path, Gate(metric="accuracy", at_least=0.99))
    remarks = failed.value.details["report"]["remarks"]
    for part in (
        "Distillation of student helps",
        "student saw 10 of 10 training rows (share kept of classes: dog: 0.5)",
        "The weakest class of onnx-int8 is 'dog'",
        "The weakest slice of onnx-int8 is 'site=rome'",
        "The gap between values of site leaves out rare",
        "onnx-int8 fails 1 of 2 behaviours: dark",
    ):
        assert any(part in remark for remark in remarks), part
