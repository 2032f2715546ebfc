"""Runs steps in worker processes: a pool of them for ordinary steps, each of which imports torch once at
most, if need be before its step is ready, and a fresh one for each isolated step. None is started before a
step has to run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import msgspec

from edgeops.errors import ArtifactError, EdgeopsError
from edgeops.signing.passphrases import without_secrets
from toolchain.caching.cache import KeyParts
from toolchain.plan import Step
from toolchain.running.warming import slow
from toolchain.running.worker import Answer, Failure, Request, Warm

Progress = Callable[[float, str], None]
_LOG_LINES = 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A step to run: `parts` is what decides its output, `inputs` what fills its roles, `out` the empty
    folder that it writes to, `checkpoints` and `records` as in `StepContext`. `threads` is how many it may
    compute with. `expected` are steps that will likely run next, each with its threads: a processor is free
    to prepare for them meanwhile, such as by importing what they need."""

    step: Step
    parts: KeyParts
    inputs: Mapping[str, Path]
    out: Path
    checkpoints: Path
    records: Mapping[str, Mapping[str, Any]]
    threads: int = 1
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
    """Worker processes on this machine. A context manager; leaving it ends them."""

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self._guard = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
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
            self._give_back(worker, keep=not task.step.isolated)

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            for worker in self._all:
                worker.kill()

    def _prepare(self, step: Step, threads: int) -> None:
        """Has an idle worker import what takes long of the step's tools, or a new one, unless one has."""
        wanted = slow(step.tools)
        if step.isolated or not wanted:
            return
        with self._guard:
            idle = [worker for worker in self._idle if worker.threads == threads]
            if any(wanted <= worker.imported for worker in idle):
                return
            worker = next((worker for worker in idle if not worker.warming), None)
            if worker is not None:
                self._idle.remove(worker)
            elif self._stopped or len(self._all) >= self.jobs:
                return
        worker = worker or self._start(threads)
        worker.warm(wanted)
        self._give_back(worker, keep=True)

    def _settle(self) -> None:
        """Waits for the workers that import something: beside a step that measures time nothing runs."""
        with self._guard:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.settle()
            self._give_back(worker, keep=True)

    def _take(self, step: Step, threads: int) -> _Worker:
        """A worker for the step: of the idle ones that which has imported most of what the step needs. One
        that still imports is left alone by steps that need nothing of it."""
        tools = slow(step.tools)
        with self._guard:
            fitting = [
                worker
                for worker in self._idle
                if worker.threads == threads and (not worker.warming or worker.imported & tools)
            ]
            if fitting and not step.isolated:
                best = max(fitting, key=lambda it: (len(it.imported & tools), -len(it.imported)))
                self._idle.remove(best)
                return best
        return self._start(threads)

    def _start(self, threads: int) -> _Worker:
        worker = self._starter.submit(_Worker, threads).result()
        with self._guard:
            self._all.add(worker)
            if self._stopped:
                worker.kill()
        return worker

    def _give_back(self, worker: _Worker, *, keep: bool) -> None:
        with self._guard:
            if keep and worker.alive:
                self._idle.append(worker)
                return
            self._all.discard(worker)
        worker.close()


class _Worker:
    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.imported: frozenset[str] = frozenset()  # of the distributions that take long
        self.warming = False  # an answer to `Warm` is yet to be read
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toolchain.running.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # As many threads as the step may have, one as a rule: sums in one order.
            env={**without_secrets(dict(os.environ)), **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
        )

    def warm(self, tools: frozenset[str]) -> None:
        """Has it import them; it must not be importing yet. Returns at once; if the process died, the next
        step that it gets says so."""
        with contextlib.suppress(BrokenPipeError):
            self._send(Warm(tools=tools))
            self.imported, self.warming = self.imported | tools, True

    def settle(self) -> None:
        """Waits until it has imported what it was told to."""
        if self.warming:
            self._stdout.readline()
            self.warming = False

    def run(self, step: Step, request: Request, progress: Progress) -> None:
        self.settle()
        self.imported |= slow(step.tools)
        try:
            self._send(request)
        except BrokenPipeError:
            raise self._death(step) from None
        for line in self._stdout:
            answer = msgspec.json.decode(line, type=Answer)
            if answer.error is not None:
                raise self._error(step, answer.error)
            if answer.done:
                return
            if answer.progress is not None:
                progress(answer.progress, answer.note)
        raise self._death(step)

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _send(self, message: Request | Warm) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        self._process.stdin.flush()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            # What could not be written to a process that died is lost with it.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()
        self._log.close()

    def _error(self, step: Step, failure: Failure) -> EdgeopsError:
        if failure.type:
            return failure.to_error()
        return EdgeopsError(
            f"The step {step.name} failed: {failure.message}.",
            remedy="The end of its log is in the error's details (see --json).",
            subject=step.name,
            details={"log": self._last_lines()},
        )

    def _death(self, step: Step) -> EdgeopsError:
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        details = {"log": self._last_lines(), "returncode": code}
        if step.isolated or step.foreign:
            return ArtifactError(
                f"The process of the step {step.name} {how}: its engine cannot run this model.",
                remedy="Look at the network and its export.",
                subject=step.name,
                details=details,
            )
        return EdgeopsError(
            f"The process of the step {step.name} {how}.",
            remedy="Start the build again; if memory ran out, make the batches smaller or set --jobs 1.",
            subject=step.name,
            details=details,
        )

    def _last_lines(self) -> list[str]:
        self._log.flush()
        self._log.seek(0)
        return self._log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
