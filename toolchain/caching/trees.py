"""The digest of what lies outside a build: a file, or a folder such as a Hugging Face model.

It follows from names and bytes alone, so the same content gives the same digest wherever it lies.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edgeops.canonical import digest_of, sha256_stream
from edgeops.errors import ConfigError

# What version control and huggingface_hub keep beside a model for themselves, with times and places in it.
BOOKKEEPING = ((".git",), (".cache", "huggingface"))

# What makes two looks at a path the same file, unchanged: path, size, time of change, inode.
_Identity = tuple[str, int, int, int]
_known: dict[_Identity, str] = {}


def tree_digest(root: Path) -> str:
    """The SHA-256 of a file, or of the canonical JSON of a folder's files (path to SHA-256). A file that did
    not change since this process last read it is not read again.

    Raises `ConfigError` naming the path: missing, unreadable, a symbolic link or a special file inside the
    folder, or a file that changes while it is read. `root` itself may be a link.
    """
    if not root.is_dir():
        return _file_digest(root)
    return digest_of({path: _file_digest(root / path) for path in tree_files(root)})


def tree_files(root: Path) -> list[str]:
    """The paths of all files below the folder `root` in order, with forward slashes, relative to it; without
    what version control and huggingface_hub keep there for themselves. Raises as `tree_digest` does."""
    return sorted(_walk(root, ()))


def _walk(root: Path, parts: tuple[str, ...]) -> Iterator[str]:
    folder = root.joinpath(*parts)
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise _unusable(folder, f"cannot be read ({error.strerror})") from error
    for entry in entries:
        path = (*parts, entry.name)
        if path in BOOKKEEPING:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, path)
        elif entry.is_file(follow_symlinks=False):
            yield "/".join(path)
        else:
            raise ConfigError(
                f"{folder / entry.name} is a symbolic link or a special file.",
                remedy=f"Copy the folder with the links resolved (cp -rL {root} COPY), and give the copy.",
                subject=str(folder / entry.name),
            )


def _file_digest(path: Path) -> str:
    try:
        # O_NONBLOCK: a FIFO must not hang the build before fstat tells what it is.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise _unusable(path, "is not a regular file")
            identity = _identity(path, before)
            if identity not in _known:
                digest = sha256_stream(file)
                if _identity(path, os.fstat(fd)) != identity:
                    raise _unusable(path, "changed while it was read")
                _known[identity] = digest
            return _known[identity]
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error


def _identity(path: Path, status: os.stat_result) -> _Identity:
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino


def _unusable(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} {what}.", remedy="Check the path that the recipe names.", subject=str(path))
