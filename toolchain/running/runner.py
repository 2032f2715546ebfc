"""Runs a plan: takes each step's output from the cache if nothing that decides it changed, else runs it, as
many at once as may be.

How many run at once never shows in the outcome: outputs follow from keys and keys from contents, `steps_run`
is in the plan's order, and the error is the one that the plan would have ended with step by step: once a
step fails, none that comes after it in the plan is started, those before it go on, and the error of the first
in the plan is raised. What ran to its end meanwhile is kept.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import msgspec

from edgeops.canonical import digest_of
from edgeops.errors import ConfigError
from toolchain.caching.cache import Claim, Entry, KeyParts, StepCache
from toolchain.caching.code import code_digests, tool_versions
from toolchain.caching.reasons import why
from toolchain.caching.trees import tree_digest
from toolchain.plan import Plan, Step
from toolchain.running.executor import Executor, Task
from toolchain.running.schedule import Schedule

# How often to look whether another build has let go of a key. The kernel wakes only who blocks on a file
# lock, and a build that did could not look after its other steps.
_LOOK_AGAIN_S = 0.1


class View(Protocol):
    """Who watches a build. All calls come from one thread; several steps may be running."""

    def planned(self, steps: int) -> None:
        """How many steps there are in all."""

    def waiting(self, step: Step) -> None:
        """Another build makes the step's output, and this one waits for it."""

    def started(self, step: Step, reason: str) -> None:
        """A step has to run, and why."""

    def progressed(self, step: Step, share: float, note: str) -> None:
        """How far it is, `share` from 0 to 1."""

    def finished(self, step: Step) -> None:
        """It ran."""

    def failed(self, step: Step) -> None:
        """It raised an error."""

    def reused(self, step: Step, reason: str) -> None:
        """Its output was taken from the cache, and why."""


@dataclass(frozen=True)
class Outcome:
    """Each step's output by name, and the names of those that ran, in the plan's order."""

    entries: Mapping[str, Entry]
    steps_run: tuple[str, ...]


def run_plan(
    plan: Plan,
    cache: StepCache,
    executor: Executor,
    view: View,
    *,
    jobs: int | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> Outcome:
    """Runs what must run, at most `jobs` steps at once (None: as many as suit the executor). Each step is
    published when it is done, so a build that stops goes on from there.

    `meanwhile` is called in another thread while the last steps run, those after all that measure time, to
    prepare what follows the plan. If no step runs then it is not called. What it raises is lost.

    Raises what a step raised. Anything else that ends it, such as Ctrl-C, ends the steps that run.
    """
    return _Run(plan, cache, executor, view, jobs or executor.jobs, meanwhile).run()


class _Run:
    """One run of a plan. Steps are waited for in threads of their own; all else is done in one thread."""

    def __init__(
        self,
        plan: Plan,
        cache: StepCache,
        executor: Executor,
        view: View,
        jobs: int,
        meanwhile: Callable[[], object] | None,
    ) -> None:
        self._meanwhile = meanwhile
        self._plan = plan
        self._cache = cache
        self._executor = executor
        self._view = view
        self._schedule = Schedule(plan.steps, jobs)
        self._threads = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="step")
        # What the threads have to tell, as calls to make in the one that runs this.
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._before = cache.last_build(plan.label)
        self._now: dict[str, KeyParts] = {}
        self._entries: dict[str, Entry] = {}
        self._ran: set[str] = set()
        self._awaited: set[str] = set()

    def run(self) -> Outcome:
        try:
            with self._threads:
                try:
                    self._loop()
                except BaseException:
                    self._executor.stop()
                    raise
        finally:
            self._cache.record_build(self._plan.label, self._before | self._now)
        if self._schedule.error is not None:
            raise self._schedule.error
        return Outcome(entries=self._entries, steps_run=self._schedule.in_order(self._ran))

    def _loop(self) -> None:
        while True:
            while self._look():
                pass  # what the cache had makes others ready
            changed, awaited = self._begin()
            if changed:
                continue
            if not self._schedule.running and not awaited:
                return
            if self._meanwhile and self._schedule.running and not self._schedule.will_measure():
                self._threads.submit(self._meanwhile)
                self._meanwhile = None
            try:
                self._events.get(timeout=_LOOK_AGAIN_S if awaited else None)()
            except queue.Empty:
                continue

    def _look(self) -> bool:
        """Looks for the outputs of steps that became ready; whether there were any such steps."""
        steps = [step for step in self._schedule.ready() if step.name not in self._now]
        for step in steps:
            try:
                parts = self._now[step.name] = self._key_parts(step)
                self._cache.use(parts.key)
                entry = self._cache.get(parts.key)
            except Exception as error:  # noqa: BLE001 - it is the step's, and raised in its turn
                self._schedule.fail(step, error)
                return True
            if entry is not None:
                self._reuse(step, entry, "nothing that decides it changed")
        return bool(steps)

    def _begin(self) -> tuple[bool, bool]:
        """Starts what there is room for. Returns whether some step ended by that, and whether there is one
        that another build makes."""
        awaited = False
        for step in self._schedule.ready():
            if not self._schedule.has_room(step):
                continue
            parts = self._now[step.name]
            claim = self._cache.claim(parts)
            if claim is None:
                awaited = True
                if step.name not in self._awaited:
                    self._awaited.add(step.name)
                    self._view.waiting(step)
                continue
            try:
                if self._start(step, claim):
                    continue
            except BaseException:
                claim.close()
                raise
            claim.close()
            return True, awaited
        return False, awaited

    def _start(self, step: Step, claim: Claim) -> bool:
        """Has the step run in a thread of its own, unless another build made its output meanwhile."""
        parts = claim.parts
        entry = self._cache.get(parts.key)
        if entry is not None:
            self._reuse(step, entry, "another build made it meanwhile")
            return False
        reason = why(parts, self._before.get(step.name), damaged=self._cache.has_remains(parts.key))
        self._view.started(step, reason)
        self._schedule.start(step)
        self._threads.submit(self._work, step, claim, self._task(step, claim))
        return True

    def _work(self, step: Step, claim: Claim, task: Task) -> None:
        """In a thread of the step: runs and publishes it."""
        try:
            with claim:
                self._executor.run(
                    task,
                    lambda share, note: self._events.put(partial(self._view.progressed, step, share, note)),
                )
                _check_unchanged(step, task.parts)
                entry = claim.publish()
        except Exception as error:  # noqa: BLE001 - the steps' own; raised when its turn comes
            self._events.put(partial(self._failed, step, error))
        else:
            self._events.put(partial(self._finished, step, entry))

    def _finished(self, step: Step, entry: Entry) -> None:
        self._schedule.finish(step)
        self._entries[step.name] = entry
        self._ran.add(step.name)
        self._view.finished(step)

    def _failed(self, step: Step, error: Exception) -> None:
        self._schedule.fail(step, error)
        self._view.failed(step)

    def _reuse(self, step: Step, entry: Entry, reason: str) -> None:
        self._schedule.finish(step)
        self._entries[step.name] = entry
        self._view.reused(step, reason)

    def _task(self, step: Step, claim: Claim) -> Task:
        outputs = {role: self._entries[name].folder for role, name in step.inputs.items()}
        return Task(
            step=step,
            parts=claim.parts,
            inputs={**outputs, **step.files},
            out=claim.out,
            checkpoints=claim.checkpoints,
            records=self._records(step),
            threads=self._schedule.threads(step),
            processors=self._schedule.processors(step),
            expected=self._expected(step),
        )

    def _expected(self, step: Step) -> tuple[tuple[Step, int], ...]:
        """What likely runs after a step that just started, if there is a thread that can prepare for it."""
        if not self._schedule.has_spare_thread():
            return ()
        return tuple((other, self._schedule.threads(other)) for other in self._schedule.after(step))

    def _key_parts(self, step: Step) -> KeyParts:
        inputs = {role: self._entries[name].digest for role, name in step.inputs.items()}
        inputs |= {role: tree_digest(path) for role, path in step.files.items()}
        if len(inputs) < len(step.inputs) + len(step.files):
            raise ValueError(f"the step {step.name} has a role that both a step and a file fill")
        if step.attests:
            inputs["how they were made"] = digest_of(self._records(step))
        return KeyParts(
            step=step.name,
            code=code_digests((step.module, *step.code)),
            tools=tool_versions(step.tools),
            config=dict(step.config),
            inputs=inputs,
        )

    def _records(self, step: Step) -> dict[str, dict[str, Any]]:
        """How each step that `step` depends on, directly or not, was made; nothing if it does not attest."""
        if not step.attests:
            return {}
        by_name = {other.name: other for other in self._plan.steps}
        wanted, records = list(step.inputs.values()), dict[str, dict[str, Any]]()
        while wanted:
            name = wanted.pop()
            if name not in records:
                records[name] = msgspec.to_builtins(self._now[name])
                wanted += by_name[name].inputs.values()
        return records


def _check_unchanged(step: Step, parts: KeyParts) -> None:
    """What was hashed before the step must be what it read."""
    for role, path in step.files.items():
        if tree_digest(path) != parts.inputs[role]:
            raise ConfigError(
                f"{path} changed while the step {step.name} read it.",
                remedy="Start the build again when it changes no more.",
                subject=str(path),
            )
