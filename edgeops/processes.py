"""What a child process does to itself first: it dies with its parent, and it has a memory limit."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

from edgeops.errors import ConfigError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Has the kernel send this process `signal_number` when the thread that started it ends (Linux,
    prctl(2), PR_SET_PDEATHSIG). The thread, not the process: start children from one that lasts.

    The parent may have gone before this call, so a child also watches a pipe or socket for its end.
    Elsewhere than on Linux this does nothing, and that watch is all there is.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def limit_memory(size_bytes: int) -> None:
    """Bounds the private memory that this process may write to: heap, anonymous mappings and stacks
    (setrlimit(2), RLIMIT_DATA). Mapped files, such as libraries and weights, do not count. What goes
    beyond fails to be allocated. A Python process with an engine needs about 80 MB for itself.

    Raises `ConfigError` when the process was started with a limit below `size_bytes` that it may not raise.
    """
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))
    except ValueError as error:
        raise ConfigError(
            f"The memory limit of {size_bytes} bytes is above this user's own limit.",
            remedy="Lower the setting, or raise the limit (ulimit -d).",
        ) from error
