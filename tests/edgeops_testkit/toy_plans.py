"""Small plans of real steps in real worker processes, for tests of the machinery around steps.

As a program it runs one such plan as `edgeops build` does, so that it can be killed:
python -m edgeops_testkit.toy_plans CACHE JOBS PLAN, with PLAN as JSON for `toy_plan`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from toolchain.caching.cache import StepCache
from toolchain.plan.step import Plan, Step
from toolchain.running.executor import LocalExecutor
from toolchain.running.interruption import ending_on_sigterm
from toolchain.running.runner import Outcome, run_plan

MODULE = "edgeops_testkit.toy_steps"
FIELDS = ("exclusive", "isolated", "threads", "attests", "tools")
TESTS = Path(__file__).parents[1]


class Seen:
    """A view that remembers: a list of (what, step name)."""

    def __init__(self, *, echo: bool = False) -> None:
        self.events: list[tuple[str, str]] = []
        self.reasons: dict[str, str] = {}
        self.shares: dict[str, list[float]] = {}
        self._echo = echo

    def planned(self, steps: int) -> None:
        self._add("planned", str(steps))

    def waiting(self, step: Step) -> None:
        self._add("wait", step.name)

    def started(self, step: Step, reason: str) -> None:
        self.reasons[step.name] = reason
        self._add("run", step.name)

    def progressed(self, step: Step, share: float, note: str) -> None:
        self.shares.setdefault(step.name, []).append(share)
        if self._echo:
            print(note, flush=True)

    def finished(self, step: Step) -> None:
        self._add("done", step.name)

    def failed(self, step: Step) -> None:
        self._add("fail", step.name)

    def reused(self, step: Step, reason: str) -> None:
        self.reasons[step.name] = reason
        self._add("keep", step.name)

    def of(self, what: str) -> list[str]:
        return [name for kind, name in self.events if kind == what]

    def _add(self, what: str, name: str) -> None:
        self.events.append((what, name))
        if self._echo:
            print(what, name, flush=True)


def toy_plan(steps: dict[str, dict[str, Any]], label: str = "toy-1.0.0") -> Plan:
    """A plan. Each step is given by its name, the names of its `inputs`, what it is to `do` (see toy_steps)
    and fields of `Step`; what else stands there is its config."""
    made = []
    for name, given in steps.items():
        fields = {key: given[key] for key in FIELDS if key in given}
        files = {role: Path(path) for role, path in given.get("files", {}).items()}
        config = {key: value for key, value in given.items() if key not in (*fields, "inputs", "files")}
        made.append(
            Step(
                name=name,
                module=MODULE,
                meaning=f"toy {name}",
                config={"name": name, **config},
                inputs={other: other for other in given.get("inputs", [])},
                files=files,
                **fields,
            )
        )
    return Plan(label=label, steps=tuple(made))


def run_toy(plan: Plan, root: Path, jobs: int, view: Seen | None = None) -> Outcome:
    """Runs a plan with the cache at `root`."""
    with StepCache(root) as cache, LocalExecutor(jobs) as executor:
        return run_plan(plan, cache, executor, view or Seen())


def toy_command(root: Path, jobs: int, steps: dict[str, dict[str, Any]]) -> list[str]:
    """The command that runs a plan in a process of its own."""
    return [sys.executable, "-P", "-m", "edgeops_testkit.toy_plans", str(root), str(jobs), json.dumps(steps)]


def toy_environment() -> dict[str, str]:
    """The environment in which worker processes find the toy steps."""
    # The packages come first: below tests/ there are folders with their names.
    paths = [str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def main() -> None:
    root, jobs, steps = sys.argv[1:]
    with ending_on_sigterm():
        outcome = run_toy(toy_plan(json.loads(steps)), Path(root), int(jobs), Seen(echo=True))
    print(json.dumps({"steps_run": outcome.steps_run}), flush=True)


if __name__ == "__main__":
    main()
