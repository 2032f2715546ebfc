"""Runs steps in worker processes: a pool of them for ordinary steps, and a fresh one for each isolated step.
What takes long to import, such as torch, is imported before its step is ready: in a template, of which
workers are copies (see template.py), or where there can be none, in a spare worker. No process is started
before a step has to run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from toolchain.caching.cache import KeyParts
from toolchain.plan import Step
from toolchain.running.forking import CAN_FORK, Template
from toolchain.running.spare import Ahead, Spare
from toolchain.running.warming import slow
from toolchain.running.worker import Request
from toolchain.running.worker_process import Progress, WorkerProcess, start_worker


@dataclass(frozen=True)
class Task:
    """A step to run: `parts` is what decides its output, `inputs` what fills its roles, `out` the empty
    folder that it writes to, `checkpoints`, `records`, `threads` and `processors` as in `StepContext`.
    `expected` are steps that will likely run next, each with its threads: a processor is free to prepare for
    them meanwhile, such as by importing what they need."""

    step: Step
    parts: KeyParts
    inputs: Mapping[str, Path]
    out: Path
    checkpoints: Path
    records: Mapping[str, Mapping[str, Any]]
    threads: int = 1
    processors: int = 1
    expected: tuple[tuple[Step, int], ...] = ()

    def request(self) -> Request:
        """The task as a worker process gets it."""
        return Request(
            module=self.step.module,
            config=dict(self.step.config),
            inputs={role: str(path.absolute()) for role, path in self.inputs.items()},
            out=str(self.out.absolute()),
            checkpoints=str(self.checkpoints.absolute()),
            threads=self.threads,
            processors=self.processors,
            records={name: dict(record) for name, record in self.records.items()},
        )


class Executor(Protocol):
    """Where steps run. `jobs` is how many at once are sensible there."""

    @property
    def jobs(self) -> int: ...

    def run(self, task: Task, progress: Progress) -> None:
        """Runs a step until it has written its output below `task.out`. Several threads may call it at once.

        Raises what the step raised. An exception that is no `EdgeopsError`, or the death of the process,
        becomes one that names the step, with the last lines of its log in `details`: an `ArtifactError` if
        the step is isolated or foreign, since then a file aborted its engine.
        """

    def stop(self) -> None:
        """Ends every step that runs: its `run` raises. None runs afterwards."""


class LocalExecutor:
    """Worker processes on this machine. A context manager; leaving it ends them. `forks`: they may be copies
    of a template."""

    def __init__(self, jobs: int = 1, *, forks: bool = CAN_FORK) -> None:
        self.jobs = jobs
        self._forks = forks
        self._ahead: dict[int, Ahead] = {}  # by the number of threads
        self._to_close: list[Ahead] = []
        self._preparing = threading.Lock()
        self._guard = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._fresh: dict[str, WorkerProcess] = {}  # by the module of the isolated step that each waits for
        self._all: set[WorkerProcess] = set()
        self._stopped = False
        # The kernel ends a worker with the thread that started it, so that thread has to outlast all steps.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for worker in self._all:
            worker.close()
        for ahead in self._to_close:
            ahead.close()
        self._starter.shutdown()

    def run(self, task: Task, progress: Progress) -> None:
        if task.step.exclusive:
            self._settle()
        worker = self._take(task.step, task.threads)
        try:
            for step, threads in task.expected:
                self._prepare(step, threads)
            worker.run(task.step, task.request(), progress)
        finally:
            self._give_back(worker, keep=not task.step.isolated and _is_wanted(worker, task))

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            for ahead in self._to_close:
                ahead.kill()
            for worker in self._all:
                worker.kill()

    def _prepare(self, step: Step, threads: int) -> None:
        """Has what takes long of the step's tools imported ahead, unless an idle worker has it."""
        if step.isolated:
            self._prepare_fresh(step, threads)
            return
        wanted = slow(step.tools)
        if not wanted:
            return
        with self._guard:
            idle = [worker for worker in self._idle if worker.threads == threads and worker.alive]
            if self._stopped or any(wanted <= worker.imported for worker in idle):
                return
        self._ahead_of(threads).warm(wanted)

    def _ahead_of(self, threads: int) -> Ahead:
        """A template, but where there can be none, or it proved to be of no use."""
        with self._preparing:
            ahead = self._ahead.get(threads)
            if ahead is not None and ahead.usable:
                return ahead
            forks = self._forks and ahead is None
            start = partial(self._start_process, threads)
            ahead = self._starter.submit(Template, threads).result() if forks else Spare(start)
            with self._guard:
                self._ahead[threads] = ahead
                self._to_close.append(ahead)
                if self._stopped:
                    ahead.kill()
        return ahead

    def _prepare_fresh(self, step: Step, threads: int) -> None:
        """Has a new worker wait for an isolated step, unless one does. It imports the step's own code and no
        more: what an engine takes is measured in it."""
        with self._preparing:
            if self._stopped or self._fresh:
                return
            worker = self._start(threads)
            worker.warm(module=step.module)
            with self._guard:
                self._fresh[step.module] = worker

    def _settle(self) -> None:
        """Waits for all that is imported ahead: beside a step that measures time nothing runs."""
        with self._guard:
            fresh, ahead = list(self._fresh.values()), list(self._ahead.values())
        for worker in fresh:
            worker.settle()
        for each in ahead:
            each.settle()

    def _take(self, step: Step, threads: int) -> WorkerProcess:
        """A worker for the step: of the idle ones that which has imported most of what the step needs, or a
        new one if that has more."""
        if step.isolated:
            return self._take_fresh(step, threads)
        tools = slow(step.tools)
        with self._guard:
            fitting = [worker for worker in self._idle if worker.threads == threads and worker.alive]
            best = max(fitting, key=lambda it: (len(it.imported & tools), -len(it.imported)), default=None)
            has = frozenset() if best is None else best.imported & tools
            ahead = self._ahead.get(threads)
            if best is not None and (ahead is None or len(ahead.imported & tools) <= len(has)):
                self._idle.remove(best)
                return best
        return self._start(threads, ahead if ahead is not None and ahead.imported & tools else None)

    def _take_fresh(self, step: Step, threads: int) -> WorkerProcess:
        with self._guard:
            worker = self._fresh.pop(step.module, None)
        if worker is None:
            return self._start(threads)
        if worker.threads == threads and worker.alive:
            return worker
        self._give_back(worker, keep=False)
        return self._start(threads)

    def _start(self, threads: int, ahead: Ahead | None = None) -> WorkerProcess:
        worker = (ahead and ahead.worker()) or self._start_process(threads)
        with self._guard:
            self._all.add(worker)
            if self._stopped:
                worker.kill()
        return worker

    def _start_process(self, threads: int) -> WorkerProcess:
        return self._starter.submit(start_worker, threads).result()

    def _give_back(self, worker: WorkerProcess, *, keep: bool) -> None:
        with self._guard:
            if keep and worker.alive:
                self._idle.append(worker)
                return
            self._all.discard(worker)
        worker.close()


def _is_wanted(worker: WorkerProcess, task: Task) -> bool:
    """Whether it is worth its memory after the task. A copy is only if what likely comes next needs what it
    has: it has then imported more than the template."""
    return not worker.is_copy or any(slow(step.tools) & worker.imported for step, _ in task.expected)
