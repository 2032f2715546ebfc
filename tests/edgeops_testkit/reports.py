"""Evaluation reports made by hand, as the gate and document steps collect them."""

from __future__ import annotations

from typing import Any

import msgspec

from toolchain.evaluation.gates import Candidate, judge
from toolchain.evaluation.report import (
    BehaviourResult,
    Bin,
    EvaluationResult,
    Group,
    PromptResult,
)
from toolchain.recipe.evaluation import Gate

HOSTILE = "<script>alert('x')</script>|`*[a](http://evil.example)"


def classifier(variant: str = "onnx-int8", accuracy: float = 0.9, size_bytes: int = 6000) -> EvaluationResult:
    """A classifier of three classes, on 100 rows."""
    matrix = ((30, 2, 1), (4, 28, 1), (0, 2, 32))
    return EvaluationResult(
        variant=variant,
        format="onnx",
        precision="fp32" if "fp32" in variant else "int8",
        size_bytes=size_bytes,
        rows=100,
        items=100,
        classes=("cat", "dog", HOSTILE),
        metrics={
            "accuracy": accuracy,
            "macro_f1": accuracy,
            "worst_class_accuracy": 0.85,
            "nll": 0.3,
            "ece": 0.02,
            "mean_confidence": 0.91,
            "parity_max_abs": 1e-6,
            "parity_agreement": 1.0,
            "robust_accuracy": 0.8,
            "group_gap": 0.05,
            "behaviours_passed": 0.5,
            "size_bytes": float(size_bytes),
        },
        source={"accuracy": accuracy},
        slices={
            "class=cat": {"rows": 33, "accuracy": 0.91},
            "class=dog": {"rows": 33, "accuracy": 0.85},
            f"class={HOSTILE}": {"rows": 34, "accuracy": 0.94},
            "site=oslo": {"rows": 60, "accuracy": 0.92},
            "site=rome": {"rows": 40, "accuracy": 0.87},
            "site=rare": {"rows": 0, "accuracy": None},
        },
        groups={
            "site": Group(
                gap=0.05,
                values={"oslo": 0.92, "rome": 0.87, "rare": None},
                rows={"oslo": 60, "rome": 40, "rare": 2},
                excluded=("rare",),
            )
        },
        behaviours=(
            BehaviourResult(name=HOSTILE, passed=True, expected="cat", got="cat", confidence=0.9),
            BehaviourResult(name="dark", passed=False, expected="cat", got="dog", confidence=0.6),
        ),
        robustness={"seed": 7, "noise_std": 0.5, "accuracy": 0.8, "same_answer": 0.85},
        confusion=matrix,
        reliability=tuple(
            Bin(
                start=n / 10,
                end=(n + 1) / 10,
                rows=10 * (n > 3),
                confidence=n / 10 + 0.05 if n > 3 else None,
                accuracy=n / 10 if n > 3 else None,
            )
            for n in range(10)
        ),
    )


def language(variant: str = "gguf-q4_k_m", size_bytes: int = 4_000_000) -> EvaluationResult:
    """A language model, on 512 tokens."""
    return EvaluationResult(
        variant=variant,
        format="gguf",
        precision=variant.removeprefix("gguf-"),
        size_bytes=size_bytes,
        rows=20,
        tokens=512,
        vocabulary_size=512,
        metrics={
            "top1_agreement": 0.97 if "q4" in variant else 1.0,
            "kl_mean": 0.01,
            "perplexity": 31.5,
            "parity_max_abs": 0.2,
            "tokenizer_agreement": 1.0,
            "prompts_passed": 0.5,
            "size_bytes": float(size_bytes),
        },
        source={"perplexity": 31.0},
        prompts=(
            PromptResult(name="greets", passed=True, answer="Hello!\n\n| a | b |", tokens=5),
            PromptResult(name="json", passed=False, answer=HOSTILE, failed=("is JSON",), tokens=9),
        ),
    )


def trained() -> dict[str, Any]:
    """What is told of a distilled model: which run ships, and what distilling gained over three seeds."""
    shipped = {"seed": 2, "kind": "distilled", "calibration_accuracy": 0.93}
    return {"shipped": shipped, "distillation": gain()}


def gain() -> dict[str, Any]:
    """What distilling gained, over three seeds."""
    runs = [{"seed": n, "alone": 0.9 + n / 100, "distilled": 0.92 + n / 100} for n in (1, 2, 3)]
    return {
        "metric": "accuracy",
        "runs": runs,
        "mean_alone": 0.92,
        "mean_distilled": 0.94,
        "mean_gain": 0.02,
        "gain_stdev": 0.001,
        "verdict": "helps",
    }


def fallback(found: bool = True) -> dict[str, Any]:
    """What the calibrate step writes."""
    calibration = {
        "method": "a method",
        "rows_fitted": 25,
        "rows_tested": 75,
        "rows_kept": 60,
        "target_error": 0.05,
        "confidence_level": 0.9,
        "accepted_error": 0.0,
        "error_bound": 0.037,
        "fallback_share": 0.2,
        "error_without": 0.1,
        "ece_before": 0.04,
        "ece_after": 0.02,
    }
    curve = [
        {"threshold": n / 10, "coverage": 1 - n / 10, "error": 0.1 - n / 100, "error_bound": 0.15 - n / 100}
        for n in range(10)
    ]
    return {
        "variant": "teacher-onnx-fp32",
        "target_error": 0.05,
        "minimum_accepted": 10,
        "confidence_level": 0.9,
        "judged": "onnx-int8",
        "curve": curve,
        "reason": None if found else "no threshold keeps the error under 0.05 on the rows that test it",
        "found": (
            {"confidence_threshold": 0.7, "temperature": 1.2, "calibration": calibration} if found else None
        ),
    }


def report(task: str = "image-classification", *, failed: bool = False) -> dict[str, Any]:
    """A whole report. A failed one has what was measured, and the outcome of a gate that was missed."""
    generates = task == "text-generation"
    made = (
        [language(), language("gguf-f16", 13_000_000)]
        if generates
        else [
            classifier(),
            classifier("onnx-fp32", 0.91, 11_000),
            classifier("teacher-onnx-fp32", 0.99, 155_000),
        ]
    )
    measured = {"latency_p50_ms": 0.5, "latency_p99_ms": 2.0, "memory_bytes": 3e7}
    first, metric = made[0].variant, "top1_agreement" if generates else "accuracy"
    gates = [
        Gate(metric=metric, variant=first, at_least=0.999 if failed else 0.5),
        Gate(metric="latency_p50_ms", variant=first, at_most=10),
        Gate(metric="size_bytes", variant=first, at_most=1 << 30),
    ]
    if not generates:
        gates += [
            Gate(metric="accuracy", variant=first, slice="dog", at_least=0.5),
            Gate(metric="group_gap", variant=first, group="site", at_most=0.2),
            Gate(metric="accuracy", variant=first, drop_against="onnx-fp32", at_most=0.2),
        ]
    known = {one.variant: Candidate(evaluation=one, measurements=measured) for one in made}
    outcomes = [judge(gate, known) for gate in gates]
    value: dict[str, Any] = {
        "schema_version": "1.0",
        "name": "sample",
        "version": "1.0.0",
        "task": task,
        "description": f"A sample. {HOSTILE}",
        "limitations": "Only made for tests.",
        "preferred": first,
        "data": {"source": f"made here {HOSTILE}", "license": "CC0-1.0", "sha256": "0" * 64},
        "rows": {"train": 500, "calibration": 100, "held_out": 100},
        "gates": [msgspec.to_builtins(one) if failed else one.lasting() for one in outcomes],
        "order": [one.variant for one in made],
        "variants": {
            one.variant: {
                **one.to_dict(),
                "target": "cloud" if "teacher" in one.variant else "device",
                "model": "teacher" if "teacher" in one.variant else "student",
            }
            for one in made
        },
        "baseline": None if generates else classifier("baseline", 0.88, 5000).to_dict(),
        "training": {
            "student": {"source": "python", "parameters": 2410, "train_rows": 500, **trained()},
            "teacher": {"source": "python", "parameters": 38282, "train_rows": 500},
        },
        "fallback": None if generates else fallback(),
        "remarks": [f"A remark. {HOSTILE}"],
        "quantization": {
            first: {"arguments": {"scheme": "dynamic", "op_types": ["MatMul"]}, "before": {}, "after": {}}
        },
    }
    if failed:
        value["measurements"] = {"variants": {one.variant: measured for one in made}}
        del value["quantization"]
    return value
