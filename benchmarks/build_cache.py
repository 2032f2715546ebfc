"""`edgeops build` from an empty cache, and again with nothing changed: wall time of the whole process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Table
from edgeops.signing.keys import new_key


def run(quick: bool) -> Table:
    """Builds digits 1.0.0 once from an empty cache, then again and again with nothing changed."""
    runs = 5 if quick else 15
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        key, _ = new_key("builder", root)
        cold_s, first = _build(root, key)
        warm = [_build(root, key) for _ in range(runs)]
        empty = [_start_only(root) for _ in range(runs)]
    warm_s = statistics.median(seconds for seconds, _ in warm)
    ran = sum(len(line["steps_run"]) for _, line in warm)
    if ran or any(line["digest"] != first["digest"] for _, line in warm):
        raise RuntimeError(f"with nothing changed {ran} steps ran, or the digest changed")
    return Table(
        key="build_cache",
        title="`edgeops build` again with nothing changed (digits, whole process)",
        columns=("build", "seconds", "steps run"),
        rows=tuple(
            {"build": what, "seconds": round(seconds, 3), "steps run": steps}
            for what, seconds, steps in (
                ("from an empty cache", cold_s, len(first["steps_run"])),
                ("nothing changed (median)", warm_s, ran),
                ("edgeops --version, for scale (median)", statistics.median(empty), 0),
            )
        ),
        command="python -m benchmarks build_cache",
        aim="under 1 s with nothing changed",
        seen=f"{warm_s:.2f} s, {cold_s / warm_s:.0f} times faster than from an empty cache",
        notes=(
            "The second build checks the digest of every cached file and the signature of the bundle.",
            "The first one is a single run.",
        ),
    )


def _build(root: Path, key: Path) -> tuple[float, dict[str, list[str]]]:
    command = ["build", "digits", "--out", str(root / "out"), "--key", str(key), "--json"]
    seconds, stdout = _timed(root, command)
    return seconds, json.loads(stdout.splitlines()[-1])


def _start_only(root: Path) -> float:
    return _timed(root, ["--version"])[0]


def _timed(root: Path, arguments: list[str]) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("edgeops")), *arguments],
        env={**os.environ, "EDGEOPS_HOME": str(root / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - start, done.stdout
