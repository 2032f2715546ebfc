"""The process behind `EngineWorker`: `python -P -m edgeops.engines.worker_child FD MEMORY_BYTES`.

It loads one variant, answers one request at a time, and ends with its parent: when the socket ends, or
by the kernel when the parent dies while a request runs.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from edgeops.engines.frames import Answer, Failed, Load, Loaded, Run, receive_frame, send_arrays, send_frame
from edgeops.errors import EdgeopsError, InferenceError
from edgeops.processes import die_with_parent, limit_memory


def serve(channel: socket.socket) -> None:
    """Loads what the first frame names, then answers until the other end is gone."""
    from edgeops.engines.base import load_engine

    first, _ = receive_frame(channel)
    if not isinstance(first, Load):
        raise TypeError(f"the first frame is {type(first).__name__}, not Load")
    try:
        engine = load_engine(first.variant, Path(first.bundle_dir), threads=first.threads)
    except EdgeopsError as error:
        send_frame(channel, Failed(error.to_dict()))
        return
    send_frame(channel, Loaded(tuple(engine.inputs), tuple(engine.outputs)))
    while True:
        try:
            message, inputs = receive_frame(channel)
        except MemoryError:
            # The frame is half read, so what follows it cannot be found. Ending tells the parent.
            sys.exit("The request does not fit into this process's memory limit.")
        if not isinstance(message, Run):
            raise TypeError(f"unexpected frame {type(message).__name__}")
        try:
            outputs = engine.run(inputs)
            send_arrays(channel, Answer, outputs)
        except EdgeopsError as error:
            send_frame(channel, Failed(error.to_dict()))
        except MemoryError:
            failure = InferenceError("The engine's process reached its memory limit on this request.")
            send_frame(channel, Failed(failure.to_dict()))


def main(arguments: list[str]) -> None:
    """Sets the limits before anything native is loaded, then serves."""
    die_with_parent()
    limit_memory(int(arguments[1]))
    with socket.socket(fileno=int(arguments[0])) as channel:
        try:
            serve(channel)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent is gone or has closed this worker


if __name__ == "__main__":
    main(sys.argv[1:])
