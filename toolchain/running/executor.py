"""Runs steps in worker processes: a pool of them for ordinary steps, each of which imports torch once at
most, and a fresh one for each isolated step. None is started before a step has to run."""

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
from toolchain.running.worker import Answer, Failure, Request

Progress = Callable[[float, str], None]
_LOG_LINES = 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """A step to run: `parts` is what decides its output, `inputs` what fills its roles, `out` the empty
    folder that it writes to, `checkpoints` and `records` as in `StepContext`. `threads` is how many it may
    compute with."""

    step: Step
    parts: KeyParts
    inputs: Mapping[str, Path]
    out: Path
    checkpoints: Path
    records: Mapping[str, Mapping[str, Any]]
    threads: int = 1

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
        the step is isolated, since then a file aborted its engine.
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
        worker = self._take(task.threads, fresh=task.step.isolated)
        try:
            worker.run(task.step, task.request(), progress)
        finally:
            self._give_back(worker, keep=not task.step.isolated)

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            for worker in self._all:
                worker.kill()

    def _take(self, threads: int, *, fresh: bool) -> _Worker:
        with self._guard:
            fitting = [worker for worker in self._idle if worker.threads == threads]
            if fitting and not fresh:
                self._idle.remove(fitting[-1])
                return fitting[-1]
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
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toolchain.running.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # As many threads as the step may have, one as a rule: sums in one order.
            env={**without_secrets(dict(os.environ)), **dict.fromkeys(_THREAD_VARIABLES, str(threads))},
        )

    def run(self, step: Step, request: Request, progress: Progress) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(msgspec.json.encode(request) + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._death(step) from None
        for line in stdout:
            answer = msgspec.json.decode(line, type=Answer)
            if answer.error is not None:
                raise self._error(step, answer.error)
            if answer.done:
                return
            if answer.progress is not None:
                progress(answer.progress, answer.note)
        raise self._death(step)

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
        if step.isolated:
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
