"""`python -m benchmarks`: runs every bench and writes the tables. `--quick` takes smaller samples."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import Table

BENCHES = ("predict", "ingest", "build_cache", "reference_models", "onnx_transformer", "gguf_quantizer")
FOLDER = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which benches (default: all of {', '.join(BENCHES)})")
    parser.add_argument("--quick", action="store_true", help="smaller samples, to see that a bench works")
    args = parser.parse_args()
    names = args.names or [name for name in BENCHES if _can_run(name)]
    unknown = set(names) - set(BENCHES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    results = _stored()
    for name in names:
        print(f"{name} ...", flush=True)
        table: Table = importlib.import_module(f"benchmarks.{name}").run(args.quick)
        results["benches"][table.key] = {
            "title": table.title,
            "columns": list(table.columns),
            "rows": [dict(row) for row in table.rows],
            "command": table.command,
            "aim": table.aim,
            "seen": table.seen,
            "notes": list(table.notes),
            "quick": args.quick,
            "at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
        }
        print(f"  {table.seen}")
    (FOLDER / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (FOLDER / "README.md").write_text(_markdown(results))


def _can_run(name: str) -> bool:
    """Whether what the bench compares with is here. One that is asked for by name fails without it; among all
    of them it is left out, and its last table stays."""
    missing = getattr(importlib.import_module(f"benchmarks.{name}"), "missing", None)
    if missing is None or (what := missing()) is None:
        return True
    print(f"{name}: left out, its last table stays. {what}", flush=True)
    return False


def _stored() -> dict[str, Any]:
    path = FOLDER / "results.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"benches": {}}
    return stored


def _machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _markdown(results: dict[str, Any]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; the figures are in `results.json` too. Runs are paired and figures are",
        "medians unless a column says otherwise. Compare within one table only: machines differ.",
    ]
    for bench in results["benches"].values():
        machine = bench["machine"]
        lines += ["", f"## {bench['title']}", "", f"`{bench['command']}`", ""]
        lines += ["| " + " | ".join(bench["columns"]) + " |", "|" + " --- |" * len(bench["columns"])]
        lines += [
            "| " + " | ".join(_cell(row.get(c)) for c in bench["columns"]) + " |" for row in bench["rows"]
        ]
        lines += ["", f"Aim: {bench['aim']}. Seen: {bench['seen']}."]
        lines += ["", *[f"- {note}" for note in bench["notes"]]] if bench["notes"] else []
        sample = ", a quick run with small samples" if bench["quick"] else ""
        lines += [
            "",
            f"{bench['at']}, {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}{sample}.",
        ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
