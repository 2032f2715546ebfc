"""The builder's side of a worker process (see worker.py): what it is started with, asked and told by."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Protocol

import msgspec

from edgeops.errors import ArtifactError, EdgeopsError
from edgeops.signing.passphrases import without_secrets
from toolchain.plan import Step
from toolchain.running.warming import slow
from toolchain.running.worker import Answer, Failure, Request, Warm

Progress = Callable[[float, str], None]
_LOG_LINES = 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Process(Protocol):
    """What of `subprocess.Popen` is asked of a worker's process."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def kill(self) -> None: ...


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a process that steps run in: as many threads as they may have, one as a rule (sums
    in one order), and no secrets."""
    return {**without_secrets(dict(os.environ)), **dict.fromkeys(_THREAD_VARIABLES, str(threads))}


def start_worker(threads: int) -> WorkerProcess:
    """A worker in a new interpreter."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "toolchain.running.worker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=child_environment(threads),
    )
    return WorkerProcess(process, log, threads)


class WorkerProcess:
    """A worker: its process, whose stderr goes to `log`, with what it has imported of the distributions that
    take long. `is_copy`: of a template, so that another one costs little."""

    def __init__(
        self,
        process: Process,
        log: IO[bytes],
        threads: int,
        imported: frozenset[str] = frozenset(),
        *,
        is_copy: bool = False,
    ) -> None:
        self.threads = threads
        self.imported = imported
        self.is_copy = is_copy
        self.warming = False  # an answer to `Warm` is yet to be read
        self._process = process
        self._log = log

    def warm(self, tools: frozenset[str] = frozenset(), *, module: str = "") -> None:
        """Has it import them; it must not be importing yet. Returns at once; if the process died, the next
        step that it gets says so."""
        with contextlib.suppress(BrokenPipeError):
            self._send(Warm(tools=tools, module=module))
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
