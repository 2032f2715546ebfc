"""The step worker: a child process that runs steps. The recipe's own code, torch and the engines live here,
apart from the process that holds the builder's key.

    python -P -m toolchain.running.worker PARENT_PID

Requests come as JSON lines on stdin (`Request`, `Warm`), answers go as JSON lines to what was stdout: any
number of `progress` lines, then one with `done` or `error`. What a step prints goes to stderr.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, Any

import msgspec

from edgeops import errors
from edgeops.errors import EdgeopsError
from edgeops.processes import die_with_parent
from toolchain.handover.context import StepContext
from toolchain.running.machine import processors
from toolchain.running.warming import import_ahead


class Request(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """One step to run; paths are absolute. The fields are those of `StepContext`."""

    module: str
    config: dict[str, Any]
    inputs: dict[str, str]
    out: str
    checkpoints: str
    threads: int = 1
    processors: int = 1
    records: dict[str, dict[str, Any]] = {}


class Warm(msgspec.Struct, frozen=True, kw_only=True, tag="warm"):
    """A step is expected: that of `module`, if one is named, which needs these distributions."""

    tools: frozenset[str] = frozenset()
    module: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error on its way to the parent. `type` is an edgeops error class, or "" for any other."""

    type: str
    message: str
    remedy: str | None = None
    subject: str | None = None
    details: dict[str, Any] = {}

    @classmethod
    def of(cls, error: EdgeopsError) -> Failure:
        """The failure that carries an edgeops error. A class of the recipe's own becomes its base of ours."""
        ours = (kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
        return cls(
            type=next(ours),
            message=error.message,
            remedy=error.remedy,
            subject=error.subject,
            details=error.details,
        )

    def to_error(self) -> EdgeopsError:
        """The edgeops error that it carries."""
        kind: type[EdgeopsError] = getattr(errors, self.type)
        return kind(self.message, remedy=self.remedy, subject=self.subject, details=self.details)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One line to the parent: progress from 0 to 1 with a note, or the end."""

    progress: float | None = None
    note: str = ""
    done: bool = False
    error: Failure | None = None


def main() -> None:
    """Serves until stdin ends or the parent does."""
    die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        return  # the parent ended before the call
    # Ctrl-C, and at times SIGTERM, go to the whole group; the parent decides what becomes of the step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve()


def serve() -> None:
    """Answers requests until stdin ends."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        match msgspec.json.decode(line, type=Request | Warm):
            case Warm(tools=tools, module=module):
                import_ahead(tools, module)
                _send(channel, Answer(done=True))
            case request:
                _send(channel, _run(request, channel))


def _run(request: Request, channel: IO[bytes]) -> Answer:
    context = StepContext(
        config=request.config,
        inputs={role: Path(path) for role, path in request.inputs.items()},
        out=Path(request.out),
        records=request.records,
        progress=lambda share, note: _send(channel, Answer(progress=share, note=note)),
        checkpoints=Path(request.checkpoints),
        threads=request.threads,
        processors=min(request.processors, processors()),
    )
    try:
        importlib.import_module(request.module).run(context)
    except EdgeopsError as error:
        return Answer(error=Failure.of(error))
    except Exception as error:  # noqa: BLE001 - the recipe's code may raise anything; it is passed on
        traceback.print_exc()
        return Answer(error=Failure(type="", message=f"{type(error).__name__}: {error}"))
    return Answer(done=True)


def _send(channel: IO[bytes], answer: Answer) -> None:
    channel.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
