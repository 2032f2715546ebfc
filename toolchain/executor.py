"""Runs steps in worker processes: one that is kept for all ordinary steps, so that torch is imported once,
and a fresh one for each isolated step. None is started before a step has to run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from edgeops import errors
from edgeops.errors import ArtifactError, EdgeopsError
from toolchain.plan import Step
from toolchain.worker import Answer, Failure, Request

Progress = Callable[[float, str], None]
_LOG_LINES = 20


class Executor:
    """A context manager; leaving it ends the workers."""

    def __init__(self) -> None:
        self._kept: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_kept()

    def run(
        self,
        step: Step,
        inputs: Mapping[str, Path],
        out: Path,
        records: Mapping[str, Mapping[str, Any]],
        progress: Progress,
    ) -> None:
        """Runs a step until it has written its output below `out`.

        Raises what the step raised. An exception that is no `EdgeopsError`, or the death of the process,
        becomes one that names the step, with the last lines of its log in `details`: an `ArtifactError` if
        the step is isolated, since then a file aborted its engine.
        """
        request = Request(
            module=step.module,
            config=dict(step.config),
            inputs={role: str(path.absolute()) for role, path in inputs.items()},
            out=str(out.absolute()),
            records={name: dict(record) for name, record in records.items()},
        )
        if step.isolated:
            worker = _Worker()
            try:
                worker.run(step, request, progress)
            finally:
                worker.close()
            return
        if self._kept is None or not self._kept.alive:
            self._end_kept()
            self._kept = _Worker()
        self._kept.run(step, request, progress)

    def _end_kept(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


class _Worker:
    def __init__(self) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toolchain.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # One thread everywhere: sums in one order, and the machine's other cores left alone.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
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
        kind = getattr(errors, failure.type, None) if failure.type else None
        if kind is None:
            return EdgeopsError(
                f"The step {step.name} failed: {failure.message}.",
                remedy="The end of its log is in the error's details (see --json).",
                subject=step.name,
                details={"log": self._last_lines()},
            )
        error: EdgeopsError = kind(
            failure.message, remedy=failure.remedy, subject=failure.subject, details=failure.details
        )
        return error

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
            remedy="Start the build again; if memory ran out, make the batches smaller.",
            subject=step.name,
            details=details,
        )

    def _last_lines(self) -> list[str]:
        self._log.flush()
        self._log.seek(0)
        return self._log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
