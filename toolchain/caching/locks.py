"""Lock files (flock(2)): the kernel frees the lock of a process that was killed.

A lock file may be removed by whoever holds it exclusively. Whoever waited for it meanwhile then has a lock
on a file that nobody else will find, so after locking one looks whether the path still names that file.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from edgeops.errors import ConfigError


class FileLock:
    """A lock that is held until `release`, or until the `with` block ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    @classmethod
    def acquire(cls, path: Path, *, shared: bool = False, wait: bool = True) -> Self | None:
        """Locks the file, which is made if it is missing. Without `wait`, None if another holds it.

        Raises `ConfigError` if the folder cannot be written.
        """
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while True:
            fd = _open(path)
            try:
                fcntl.flock(fd, how)
                if _is_at(path, fd):
                    return cls(path, fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def remove(self) -> None:
        """Removes the file of an exclusive lock, and releases it."""
        self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Gives the lock back. Safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"The build cache {path.parent.parent} cannot be written ({error.strerror}).",
            remedy="Free or allow that folder, or move it with EDGEOPS_HOME.",
            subject=str(path.parent.parent),
        ) from error


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
