"""The builder's side of the template (see template.py): worker processes by fork(2), on Linux."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from typing import IO

import msgspec

from toolchain.running.template import MESSAGE_BYTES, Done, Fork, Reap
from toolchain.running.worker import Warm
from toolchain.running.worker_process import WorkerProcess, child_environment

# Elsewhere libraries of the system start threads that do not survive a fork, or there are no pidfds.
CAN_FORK = sys.platform == "linux"


class Template:
    """A process that is forked into workers of `threads` threads each (an `Ahead`). It lasts as long as the
    thread that made it; its workers, as long as it."""

    def __init__(self, threads: int) -> None:
        self.imported: frozenset[str] = frozenset()  # of the distributions that take long
        self.usable = True  # it lives, and can be forked
        self._threads = threads
        self._unread = 0  # answers to `Warm`
        self._guard = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "toolchain.running.template"),
                    *(str(os.getpid()), str(theirs.fileno())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=child_environment(threads),
            )

    def warm(self, tools: frozenset[str]) -> None:
        """Has it import them, unless it has. Returns at once, unless a worker is being made of it."""
        if tools <= self.imported:
            return
        with self._guard:
            if self._send(Warm(tools=tools)):
                self._unread += 1
                self.imported |= tools

    def settle(self) -> None:
        """Waits until it has imported what it was told to."""
        with self._guard:
            self._settle()

    def worker(self) -> WorkerProcess | None:
        """A worker that has imported what the template has. None if it cannot be: it is not usable then."""
        if not self.usable:
            return None
        with contextlib.ExitStack() as ours:
            log = ours.enter_context(tempfile.TemporaryFile())
            requests, stdin = _pipe()
            ours.enter_context(stdin)
            stdout, answers = _pipe()
            ours.enter_context(stdout)
            with requests, answers:
                done = self._ask(Fork(), [requests.fileno(), answers.fileno(), log.fileno()])
            try:
                handle = os.pidfd_open(done.pid) if done is not None and done.pid else None
            except ProcessLookupError:  # it ended with the template
                handle = None
            if done is None or handle is None:
                self.usable = False
                return None
            ours.pop_all()
        process = ForkedProcess(done.pid, handle, self, stdin, stdout)
        return WorkerProcess(process, log, self._threads, self.imported, is_copy=True)

    def reap(self, pid: int) -> int:
        """How a worker's process ended, as `subprocess.Popen.returncode`; waits for that."""
        done = self._ask(Reap(pid=pid))
        return -signal.SIGKILL if done is None else done.returncode  # the kernel ends them with the template

    def kill(self) -> None:
        """Ends it and, by the kernel, its workers."""
        self._process.kill()

    def close(self) -> None:
        """Ends it, and waits for that."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def _ask(self, message: Fork | Reap, fds: list[int] | None = None) -> Done | None:
        """Its answer, or None if it is gone."""
        with self._guard:
            self._settle()
            return self._receive() if self._send(message, fds or []) else None

    def _settle(self) -> None:
        while self._unread:
            self._unread -= 1
            self._receive()

    def _send(self, message: Warm | Fork | Reap, fds: list[int] | None = None) -> bool:
        try:
            socket.send_fds(self._channel, [msgspec.json.encode(message)], fds or [])
        except (BrokenPipeError, ConnectionResetError):
            self.usable = False
            return False
        return True

    def _receive(self) -> Done | None:
        try:
            data = self._channel.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            self.usable = False
            return None
        return msgspec.json.decode(data, type=Done)


class ForkedProcess:
    """A worker's process, which is a child of the template's (see `worker_process.Process`)."""

    def __init__(
        self, pid: int, handle: int, template: Template, stdin: IO[bytes], stdout: IO[bytes]
    ) -> None:
        """`handle` is its pidfd. It is reaped when the template is told to: until then `pid` is its own."""
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._pid = pid
        self._template = template
        self._guard = threading.Lock()  # of the next two
        self._handle = handle
        self._returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended, if it did."""
        with self._guard:
            if self._returncode is None and _ended(self._handle, 0):
                self._reap()
            return self._returncode

    def wait(self) -> int:
        """How it ended, once it has."""
        with self._guard:
            if self._returncode is not None:
                return self._returncode
            handle = os.dup(self._handle)  # which nobody closes meanwhile
        try:
            _ended(handle, None)
        finally:
            os.close(handle)
        with self._guard:
            return self._returncode if self._returncode is not None else self._reap()

    def kill(self) -> None:
        """Ends it, if it still runs."""
        with self._guard:
            if self._returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def _reap(self) -> int:
        self._returncode = self._template.reap(self._pid)
        os.close(self._handle)
        return self._returncode


def _ended(handle: int, timeout_ms: int | None) -> bool:
    """Whether the process of a pidfd ended, or does within the time (None: it is waited for)."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
