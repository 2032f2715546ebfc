"""Runs a plan: takes each step's output from the cache if nothing that decides it changed, else runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgeops.canonical import digest_of
from toolchain.cache import Entry, KeyParts, StepCache
from toolchain.executor import Executor
from toolchain.plan import Plan, Step
from toolchain.reasons import why
from toolchain.sources import code_digests, tool_versions


class View(Protocol):
    """Who watches a build."""

    def started(self, step: Step, reason: str) -> None:
        """A step has to run, and why."""

    def progressed(self, step: Step, share: float, note: str) -> None:
        """How far it is, `share` from 0 to 1."""

    def finished(self, step: Step) -> None:
        """It ran."""

    def reused(self, step: Step, reason: str) -> None:
        """Its output was taken from the cache, and why."""


@dataclass(frozen=True)
class Outcome:
    """Each step's output by name, and the names of those that ran, in order."""

    entries: Mapping[str, Entry]
    steps_run: tuple[str, ...]


def run_plan(plan: Plan, cache: StepCache, executor: Executor, view: View) -> Outcome:
    """Runs what must run. Each step is published when it is done, so a build that stops goes on from there.

    Raises what a step raised.
    """
    before = cache.last_build(plan.label)
    now: dict[str, KeyParts] = {}
    entries: dict[str, Entry] = {}
    steps_run: list[str] = []
    try:
        for step in plan.steps:
            records = _records(step, plan, now) if step.attests else {}
            parts = now[step.name] = _key_parts(step, entries, records)
            entry = cache.get(parts.key)
            if entry is not None:
                view.reused(step, "nothing that decides it changed")
            else:
                reason = why(parts, before.get(step.name), damaged=cache.has_remains(parts.key))
                with cache.making(parts) as out:
                    entry = cache.get(parts.key)
                    if entry is not None:
                        view.reused(step, "another build made it meanwhile")
                    else:
                        view.started(step, reason)
                        _run(step, entries, out, records, executor, view)
                        entry = cache.publish(parts, out)
                        steps_run.append(step.name)
                        view.finished(step)
            entries[step.name] = entry
    finally:
        cache.record_build(plan.label, before | now)
    return Outcome(entries=entries, steps_run=tuple(steps_run))


def _run(
    step: Step,
    entries: Mapping[str, Entry],
    out: Path,
    records: Mapping[str, Mapping[str, Any]],
    executor: Executor,
    view: View,
) -> None:
    executor.run(
        step,
        {role: entries[name].folder for role, name in step.inputs.items()},
        out,
        records,
        lambda share, note: view.progressed(step, share, note),
    )


def _key_parts(
    step: Step, entries: Mapping[str, Entry], records: Mapping[str, Mapping[str, Any]]
) -> KeyParts:
    inputs = {role: entries[name].digest for role, name in step.inputs.items()}
    if step.attests:
        inputs["how they were made"] = digest_of(records)
    return KeyParts(
        step=step.name,
        code=code_digests((step.module, *step.code)),
        tools=tool_versions(step.tools),
        config=dict(step.config),
        inputs=inputs,
    )


def _records(step: Step, plan: Plan, made: Mapping[str, KeyParts]) -> dict[str, dict[str, Any]]:
    """How each step that `step` depends on, directly or not, was made."""
    by_name = {other.name: other for other in plan.steps}
    wanted, records = list(step.inputs.values()), dict[str, dict[str, Any]]()
    while wanted:
        name = wanted.pop()
        if name not in records:
            records[name] = msgspec.to_builtins(made[name])
            wanted += by_name[name].inputs.values()
    return records
