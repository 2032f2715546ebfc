"""The hub's blobs: files by their SHA-256, in a folder. A name that exists has the right content.

An upload goes to a temporary file, is hashed on the way, and takes its name only when the hash is right
and the bytes are on the disk. So putting the same blob twice is harmless, and a cut leaves nothing behind
but a temporary file, which `sweep` removes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from edgeops.durable import fsync_directory
from edgeops.errors import ArtifactError, BadRequestError, ConfigError, NotFoundError
from edgeops.names import is_digest

_STALE_UPLOAD_S = 24 * 3600


class StorageFullError(ConfigError):
    """The disk that holds the blobs is full. Nothing was stored."""

    http_status = 507
    kind = "storage_full"


class TooLargeError(BadRequestError):
    """The caller sent more bytes than the hub's settings allow."""

    http_status = 413
    kind = "too_large"


class BlobStore:
    """Blobs below `folder`; none is larger than `size_limit_bytes`. Safe for use by many processes."""

    def __init__(self, folder: Path, size_limit_bytes: int) -> None:
        self._folder = folder / "sha256"
        self._uploads = folder / "uploads"
        self.size_limit_bytes = size_limit_bytes
        for each in (self._folder, self._uploads):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, sha256: str) -> Path:
        """The file of a stored blob. Raises `NotFoundError`; `BadRequestError` if `sha256` is no digest."""
        path = self._place(sha256)
        if not path.is_file():
            raise NotFoundError(
                f"There is no blob {sha256}.", remedy="Upload it with edgeops publish.", subject=sha256
            )
        return path

    def has(self, sha256: str) -> bool:
        """Whether the blob is stored."""
        return self._place(sha256).is_file()

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not stored, in order, each once."""
        return [digest for digest in dict.fromkeys(digests) if not self.has(digest)]

    def read(self, sha256: str, limit_bytes: int) -> bytes:
        """A small blob's content. Raises `NotFoundError`, and `ArtifactError` above `limit_bytes`."""
        path = self.path(sha256)
        if path.stat().st_size > limit_bytes:
            raise ArtifactError(f"The blob {sha256} is larger than {limit_bytes} bytes.", subject=sha256)
        return path.read_bytes()

    def writer(self, sha256: str) -> BlobWriter:
        """An upload of the blob with that digest; use it as a context manager."""
        return BlobWriter(self._place(sha256), self._uploads, sha256, self.size_limit_bytes)

    def put(self, sha256: str, chunks: Iterable[bytes]) -> bool:
        """Stores a blob. True if it is new, False if it was there. Errors are `BlobWriter`'s."""
        with self.writer(sha256) as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()

    def sweep(self) -> int:
        """Removes what uploads that were cut left behind a day ago or longer; returns how many."""
        limit = time.time() - _STALE_UPLOAD_S
        stale = [file for file in self._uploads.iterdir() if file.stat().st_mtime < limit]
        for file in stale:
            file.unlink(missing_ok=True)
        return len(stale)

    def _place(self, sha256: str) -> Path:
        # The digest becomes a path: nothing but a digest may pass.
        if not is_digest(sha256):
            raise BadRequestError(f"{sha256[:80]!r} is not a SHA-256 in lower-case hex.", subject="sha256")
        return self._folder / sha256[:2] / sha256


class BlobWriter:
    """One upload. `write` takes chunks in order, `commit` names the file; leaving without it discards."""

    def __init__(self, target: Path, uploads: Path, sha256: str, size_limit_bytes: int) -> None:
        self._target = target
        self._sha256 = sha256
        self._limit = size_limit_bytes
        self._hash = hashlib.sha256()
        self._size = 0
        try:
            fd, name = tempfile.mkstemp(prefix=f"{sha256[:16]}.", dir=uploads)
        except OSError as error:
            raise _storage_error(error, uploads) from error
        self._file = os.fdopen(fd, "wb")
        self._temporary = Path(name)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Buffered bytes of an upload that failed need not reach a disk that may be full.
        try:
            self._file.close()
        except OSError as failure:
            if error is None:
                raise _storage_error(failure, self._target) from failure
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Adds a chunk. Raises `TooLargeError`, or `StorageFullError` when the disk is full."""
        self._size += len(chunk)
        if self._size > self._limit:
            raise TooLargeError(
                f"The blob {self._sha256} is larger than {self._limit} bytes.",
                remedy="Raise EDGEOPS_HUB_BLOB_SIZE_BYTES on the hub if it should take files of that size.",
                subject=self._sha256,
            )
        self._hash.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _storage_error(error, self._target) from error

    def commit(self) -> bool:
        """Checks the hash and makes the blob visible and durable. True if it is new.

        Raises `ArtifactError` when the bytes are not those of the digest.
        """
        if self._hash.hexdigest() != self._sha256:
            raise ArtifactError(
                f"The bytes sent hash to {self._hash.hexdigest()}, not to {self._sha256}.",
                remedy="Send the file again; if it fails again, the file is not the one that was signed.",
                subject=self._sha256,
            )
        if self._target.is_file():
            return False
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._target.parent.mkdir(exist_ok=True, mode=0o700)
            self._temporary.replace(self._target)
            fsync_directory(self._target.parent)
            fsync_directory(self._target.parent.parent)
        except OSError as error:
            raise _storage_error(error, self._target) from error
        return True


def _storage_error(error: OSError, place: Path) -> ConfigError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            f"The disk that holds {place.parent} is full.",
            remedy="Free some space there, or move the hub's state with EDGEOPS_HUB_STATE_DIR.",
            subject=str(place),
        )
    return ConfigError(
        f"{place} cannot be written ({error.strerror}).",
        remedy="Check that the folder exists and that the hub's user may write to it.",
        subject=str(place),
    )
