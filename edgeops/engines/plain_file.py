"""Opening a file that anybody may have put there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeops.errors import ArtifactError


@contextmanager
def plain_file(
    path: Path, refused: Callable[[str, str], ArtifactError], *, allow_links: bool
) -> Iterator[tuple[int, int]]:
    """A descriptor for reading the regular file at `path`, open in the context, and the file's size in bytes.

    Raises what `refused` makes of the file's name and a reason: it cannot be opened, or is no regular file.
    Without `allow_links` that it is a symbolic link, or has a second name (a hard link), is a reason too: its
    content may change behind one's back.
    """
    # O_NONBLOCK: a pipe that nobody writes to must not hold this up.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if allow_links else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise refused(path.name, f"cannot be opened ({error.strerror})") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise refused(path.name, "is not a regular file")
        if status.st_nlink > 1 and not allow_links:
            raise refused(path.name, "has another name outside this folder's control (a hard link)")
        yield fd, status.st_size
    finally:
        os.close(fd)
