"""A file that is being fetched: what is there already, and its digest as it grows."""

from __future__ import annotations

import hashlib
from pathlib import Path

from device_agent.updates.slots import disk_errors
from edgeops.errors import ArtifactError, TransportError
from edgeops.manifest import FileEntry

_CHUNK_BYTES = 1 << 20


class PartFile:
    """Collects the bytes of `entry` in `path`. What an earlier try left there is kept and hashed.

    Not more than the signed size is ever written. Every disk error is a `ConfigError`.
    """

    def __init__(self, path: Path, entry: FileEntry) -> None:
        self._path = path
        self._entry = entry
        self._hasher = hashlib.sha256()
        with disk_errors(path):
            self._file = path.open("a+b")
            self._file.seek(0)
            self.size_bytes = 0
            while chunk := self._file.read(_CHUNK_BYTES):
                self._hasher.update(chunk)
                self.size_bytes += len(chunk)
        # Whether bytes of an earlier try are part of it: a power cut may have damaged those.
        self.resumed = self.size_bytes > 0
        if self.size_bytes > entry.size_bytes:
            self.restart()

    @property
    def whole(self) -> bool:
        """Whether it has its full length."""
        return self.size_bytes == self._entry.size_bytes

    def restart(self) -> None:
        """Drops what is there."""
        with disk_errors(self._path):
            self._file.truncate(0)
        self._hasher = hashlib.sha256()
        self.size_bytes = 0
        self.resumed = False

    def append(self, chunk: bytes) -> None:
        """Adds bytes. Raises `ArtifactError` when there are more than were signed."""
        if self.size_bytes + len(chunk) > self._entry.size_bytes:
            self.restart()
            raise ArtifactError(
                f"{self._entry.path} is longer than the {self._entry.size_bytes} bytes that were signed.",
                remedy="The hub's copy is damaged or was tampered with; publish the bundle again.",
                subject=self._entry.path,
            )
        with disk_errors(self._path):
            self._file.write(chunk)
        self._hasher.update(chunk)
        self.size_bytes += len(chunk)

    def require_whole(self) -> None:
        """Raises `TransportError` if the download ended too early; what came is kept."""
        if not self.whole:
            raise TransportError(
                f"The download of {self._entry.path} ended after {self.size_bytes} of"
                f" {self._entry.size_bytes} bytes.",
                subject=self._entry.path,
            )

    def matches(self) -> bool:
        """Whether these are the bytes that were signed."""
        return self._hasher.hexdigest() == self._entry.sha256

    def move_to(self, path: Path) -> None:
        """Puts the finished file in its place."""
        self.close()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(path)

    def close(self) -> None:
        """Writes out what is buffered, and keeps it for the next try."""
        with disk_errors(self._path):
            self._file.close()
