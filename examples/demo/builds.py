"""The three versions of the demo's model, each by `edgeops build`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.demo.processes import Processes
from examples.demo.view import View

RECIPES = {
    "1.0.0": "digits",
    "1.1.0": "digits/recipe-1.1.0.yaml",
    "1.2.0": "digits/recipe-1.2.0.yaml",
}


@dataclass(frozen=True)
class Build:
    """What `edgeops build` and `edgeops verify` said of one version."""

    version: str
    path: Path
    digest: str
    variants: list[str]
    gates_passed: int
    gates: int
    verified: bool
    took_s: float


class Builds:
    """Makes the builder's key and builds with it."""

    def __init__(self, processes: Processes, folder: Path, view: View) -> None:
        self._processes = processes
        self._folder = folder
        self._view = view
        self._key = folder / "builder.key"
        self.public_key = folder / "builder.pub"

    async def make_key(self) -> None:
        """`edgeops keys new`, once per folder."""
        if not self._key.exists():
            await self._processes.run("keys", "new", "builder", "--out", str(self._folder))

    async def build(self, version: str) -> Build:
        """Builds a version and has the bundle verified."""
        self._view.doing(f"building digits {version}")
        started = time.monotonic()
        out: dict[str, Any] = await self._processes.run(
            "build", RECIPES[version], "--out", str(self._folder / "out"), "--key", str(self._key), "--json"
        )
        verdict = await self._processes.run("verify", out["path"], "--key", str(self.public_key), "--json")
        gates = out["gates"]
        return Build(
            version=version,
            path=Path(out["path"]),
            digest=out["digest"],
            variants=[variant["id"] if isinstance(variant, dict) else variant for variant in out["variants"]],
            gates_passed=sum(bool(gate["passed"]) for gate in gates),
            gates=len(gates),
            verified=verdict is not None and verdict.get("digest") == out["digest"],
            took_s=time.monotonic() - started,
        )
