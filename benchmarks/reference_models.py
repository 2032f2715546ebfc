"""The four reference models, each built from an empty cache: wall time, gates, and every variant's size,
quality, latency and memory as the build measured them in the variant's own engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Table
from edgeops.signing.keys import new_key

MODELS = ("digits", "sensors", "intents", "tinychat")
QUICK = ("digits", "sensors")

# The metric that tells most of a model's quality, by what its variants report.
HEADLINES = ("accuracy", "perplexity")


def run(quick: bool) -> Table:
    """Builds the models one after another, and reads their bundles as `edgeops inspect` tells them."""
    rows: list[dict[str, Any]] = []
    notes = []
    slowest_s, passed = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        key, _ = new_key("builder", root)
        for name in QUICK if quick else MODELS:
            start = time.perf_counter()
            built = _edgeops(root, "build", name, "--out", str(root / "out"), "--key", str(key), "--json")
            seconds = time.perf_counter() - start
            bundle = _edgeops(root, "inspect", str(root / built["path"]), "--json")
            slowest_s = max(slowest_s, seconds)
            passed += len(bundle["gates"])
            notes.append(
                f"{name} {bundle['version']}: {len(built['steps_run'])} steps in {seconds:,.0f} s, "
                f"{len(bundle['gates'])} gates passed."
            )
            rows += [
                _row(name, variant, bundle["measurements"]["variants"][variant["id"]])
                for variant in bundle["variants"]
            ]
    return Table(
        key="reference_models",
        title="The reference models, built from an empty cache",
        columns=tuple(rows[0]),
        rows=rows,
        command="python -m benchmarks reference_models",
        aim="each under 6 minutes on 2 cores, all gates passed",
        seen=f"the slowest took {slowest_s:,.0f} s, {passed} gates passed",
        notes=(
            *notes,
            "Quality is on held-out rows in the variant's own engine. Latency is of one item, for tinychat "
            "of one token; memory is what loading and answering added at most to the process.",
        ),
    )


def _row(name: str, variant: dict[str, Any], measured: dict[str, float]) -> dict[str, Any]:
    quality = variant["quality"]
    headline = next(metric for metric in HEADLINES if metric in quality)
    return {
        "model": name,
        "variant": variant["id"],
        "size MB": round(variant["size_bytes"] / 1e6, 3),
        "quality": f"{headline} {quality[headline]:.4g}",
        "top-1 agreement": quality.get("top1_agreement"),
        "p50 ms": round(measured["latency_p50_ms"], 4),
        "p99 ms": round(measured["latency_p99_ms"], 4),
        "memory MB": round(measured["memory_bytes"] / 1e6),
    }


def _edgeops(root: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("edgeops")), *arguments],
        env={**os.environ, "EDGEOPS_HOME": str(root / "home")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
