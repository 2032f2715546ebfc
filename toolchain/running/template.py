"""The template: a process that imports what takes long, runs no step, and becomes worker processes by
fork(2). They have at once what it imported, and share its memory until they write to it.

    python -P -m toolchain.running.template PARENT_PID SOCKET_FD

Messages come and answers go as JSON over a socket of packets, one answer each. A fork copies only the thread
that calls it, and what others held stays locked in the copy: where a library has started one, it is refused.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Never

import msgspec

from edgeops.processes import die_with_parent
from toolchain.running.warming import import_ahead
from toolchain.running.worker import Warm, serve

MESSAGE_BYTES = 1 << 16
# What a worker gets: its stdin, stdout and stderr, in this order.
WORKER_FDS = 3
# The thread of jemalloc, which pyarrow brings: jemalloc's own handlers of fork(2) take its locks before, and
# have the copy do without it (jemalloc's src/background_thread.c, background_thread_postfork_child).
_DISPENSABLE = "jemalloc_bg_thd"


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag="fork"):
    """Become one more process that serves as a worker, on the file descriptors beside this message."""


class Reap(msgspec.Struct, frozen=True, kw_only=True, tag="reap"):
    """Forget a process, which has ended or is about to, and tell how."""

    pid: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the new process, 0 if there can be none; or how it ended, as in `subprocess.Popen`."""

    pid: int = 0
    returncode: int = 0


def main() -> None:
    """Serves until its socket or its parent ends."""
    die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        return  # the parent ended before the call
    # Ctrl-C, and at times SIGTERM, go to the whole group; the parent decides what becomes of the steps.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[2])) as channel:
        while True:
            data, fds, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, WORKER_FDS)
            if not data:
                return
            match msgspec.json.decode(data, type=Warm | Fork | Reap):
                case Warm(tools=tools, module=module):
                    import_ahead(tools, module)
                    answer = Done()
                case Fork():
                    answer = Done(pid=_fork(channel, fds))
                case Reap(pid=pid):
                    answer = Done(returncode=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            channel.send(msgspec.json.encode(answer))


def _fork(channel: socket.socket, fds: list[int]) -> int:
    parent = os.getpid()
    pid = 0
    if not _other_threads():
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()  # else a collection in the copy would write to all pages that it shares
        try:
            pid = os.fork()
        except OSError:  # no more processes are allowed, or there is no memory: told as a refusal
            pass
        else:
            if pid == 0:
                _become_worker(parent, channel, fds)
    for fd in fds:
        os.close(fd)
    return pid


def _other_threads() -> set[str]:
    """The names of the threads that a copy of this process would lack."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    names.remove(Path("/proc/self/comm").read_text().strip())
    return set(names) - {_DISPENSABLE}


def _become_worker(parent: int, channel: socket.socket, fds: list[int]) -> Never:
    """Never returns into the template's code, whatever happens, and ends as a worker's own program would."""
    status = 1
    try:
        channel.close()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
            os.close(fd)
        die_with_parent()
        if os.getppid() == parent:
            serve()
        status = 0
    except SystemExit as ended:  # a step's own
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
