"""Crash-consistent files: after a power cut a reader finds the old content or the new, never a mix.

The order is the usual one: write a temporary file beside the target, fsync it, rename it over the
target, fsync the folder (rename(2) is atomic; only the folder's fsync makes it last).
"""

import errno
import os
import tempfile
from pathlib import Path

from edgeops.errors import ConfigError


def fsync_directory(folder: Path) -> None:
    """Makes renames and unlinks inside `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by `data` in one step. `mode` holds from the first byte on.

    Raises `ConfigError` when the disk is full; the old content is then untouched.
    """
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _as_config_error(error, path) from error
    try:
        os.fchmod(fd, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _as_config_error(error, path) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def _as_config_error(error: OSError, path: Path) -> ConfigError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConfigError(
            f"The disk that holds {path.parent} is full.",
            remedy="Free some space there, or move the state with EDGEOPS_HOME.",
            subject=str(path),
        )
    return ConfigError(
        f"{path} cannot be written ({error.strerror}).",
        remedy="Check that the folder exists and that this user may write to it.",
        subject=str(path),
    )
