"""An engine in a process of its own, so that native code can abort without taking anything else along."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from edgeops.engines.frames import (
    Failed,
    Load,
    Loaded,
    Run,
    error_of,
    receive_frame,
    send_arrays,
    send_frame,
)
from edgeops.errors import ArtifactError, EdgeopsError, InferenceError
from edgeops.manifest import TensorSpec, Variant
from edgeops.serving.host import Array

_STOP_TIMEOUT_S = 5.0


class EngineWorker:
    """A loaded variant in a child process. Fits the `Engine` protocol; `run` and `arun` may be called from
    any thread, and requests are answered one after another.

    If the process dies, the request in flight gets an `InferenceError`, and the next one starts a fresh
    process. After `crash_limit` deaths within `crash_window_s` none is started until the window has
    passed; requests get an `InferenceError` at once meanwhile. The process never outlives this one.
    """

    def __init__(
        self,
        variant: Variant,
        bundle_dir: Path,
        *,
        threads: int = 1,
        memory_bytes: int = 2 << 30,
        run_timeout_s: float = 60.0,
        load_timeout_s: float = 120.0,
        crash_limit: int = 3,
        crash_window_s: float = 60.0,
    ) -> None:
        """Starts the process and loads the variant's files (verified by the caller) there.

        `memory_bytes` bounds the process's private memory, of which Python takes about 80 MB. A request
        that takes longer than `run_timeout_s` counts as a crash. Raises `ArtifactError` when the engine
        refuses a file or dies of it, `ConfigError` when its library is missing or too old.
        """
        self._variant = variant
        self._load = Load(variant, str(bundle_dir.absolute()), threads)
        self._memory_bytes = memory_bytes
        self._run_timeout_s = run_timeout_s
        self._load_timeout_s = load_timeout_s
        self._crash_limit = crash_limit
        self._crash_window_s = crash_window_s
        self._crashes: deque[float] = deque(maxlen=crash_limit)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        # One thread starts the process and speaks with it. That it is always the same one matters: the
        # kernel ends the child together with the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{variant.id}")
        try:
            loaded = self._thread.submit(self._start).result()
        except BaseException:
            self.close()
            raise
        self._inputs, self._outputs = loaded.inputs, loaded.outputs

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The graph's inputs, in order."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The graph's outputs, in order."""
        return self._outputs

    @property
    def pid(self) -> int | None:
        """The process that answers now; None between a death and the next request, and once closed."""
        process = self._process
        return None if process is None else process.pid

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises as `Engine.run` does, and `InferenceError` when the process died, did
        not answer in time, died too often lately, or was closed."""
        return self._submit(inputs).result()

    async def arun(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """`run` without blocking the event loop."""
        return await asyncio.wrap_future(self._submit(inputs))

    def close(self) -> None:
        """Waits for the requests that were accepted, then ends the process. Safe to call twice."""
        try:
            self._thread.submit(self._stop).result()
        except RuntimeError:  # the thread was shut down by an earlier close
            return
        self._thread.shutdown()

    def _submit(self, inputs: Mapping[str, Array]) -> Future[dict[str, Array]]:
        try:
            return self._thread.submit(self._exchange, inputs)
        except RuntimeError as error:
            raise InferenceError("The engine is closed.", subject=self._variant.id) from error

    # What follows runs on the one thread only.

    def _start(self) -> Loaded:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "edgeops.engines.worker_child"]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(self._memory_bytes)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # numpy's own thread pool would only cost memory there.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self._channel = ours
        ours.settimeout(self._load_timeout_s)
        try:
            send_frame(ours, self._load)
            message, _ = receive_frame(ours)
        except (EOFError, OSError) as error:
            raise ArtifactError(
                f"The engine's process {self._bury(error)} while it loaded variant {self._variant.id!r}.",
                remedy="Build the bundle again, or raise the engine's memory limit if it is low.",
                subject=self._variant.files[0].path,
            ) from error
        if isinstance(message, Failed):
            self._crashes.append(time.monotonic())
            self._stop()
            raise error_of(message)
        if not isinstance(message, Loaded):
            raise TypeError(f"unexpected frame {type(message).__name__}")
        ours.settimeout(self._run_timeout_s)
        return message

    def _exchange(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._channel is None:
            self._restart()
        assert self._channel is not None
        try:
            send_arrays(self._channel, Run, inputs)
            message, arrays = receive_frame(self._channel)
        except (EOFError, OSError) as error:
            raise InferenceError(
                f"The engine's process {self._bury(error)} while it ran variant {self._variant.id!r}.",
                subject=self._variant.id,
            ) from error
        if isinstance(message, Failed):
            raise error_of(message)
        return arrays

    def _restart(self) -> None:
        now = time.monotonic()
        if len(self._crashes) == self._crash_limit and now - self._crashes[0] < self._crash_window_s:
            wait_s = self._crash_window_s - (now - self._crashes[0])
            raise InferenceError(
                f"The engine's process died {self._crash_limit} times in {self._crash_window_s:g} s; it is "
                f"left alone for another {wait_s:.0f} s.",
                remedy="Look at its log, and serve another variant or version.",
                subject=self._variant.id,
                details={"retry_after_s": wait_s},
            )
        try:
            self._start()
        except EdgeopsError as error:
            # It loaded before, so this is the engine's trouble of the moment, and not the file's.
            raise InferenceError(
                f"The engine cannot start again: {error}", subject=self._variant.id
            ) from error

    def _bury(self, error: EOFError | OSError) -> str:
        """Ends what is left of a process that failed, counts the crash, and says how it ended."""
        self._crashes.append(time.monotonic())
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self._process.kill()
        process = self._process
        self._stop()
        if isinstance(error, TimeoutError):
            return "did not answer in time"
        code = process.returncode
        if code >= 0:
            return f"ended with status {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def _stop(self) -> None:
        """Closes the channel, which ends the process, and waits; kills it if it does not end."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
