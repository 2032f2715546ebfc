"""The step cache: what a step made, found again by the digest of all that decided it.

    steps/<key>/entry.json   what the key was made of, and the digest and size of every file
    steps/<key>/files/…      what the step wrote
    staging/<key>.<random>/  where a step that is running writes
    locks/<key>              held (flock) while a step runs
    builds/<label>.json      the key material of each step of the last build of that recipe

Laws, whatever else happens, other builds and kill -9 included:
- an entry under `steps/` is whole: it was renamed there when every file was on disk;
- what `get` returns has the bytes that the step wrote: what a disk or a hand damaged is not returned;
- one key is made by one process at a time; the kernel frees the lock of a killed one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeops.canonical import canonical_json, digest_of, sha256_bytes, sha256_file
from edgeops.durable import fsync_directory, write_atomic
from edgeops.errors import ConfigError
from edgeops.manifest import MEASUREMENTS_FILE, FileEntry

# Part of every key: another layout or meaning of an entry is another cache.
CACHE_FORMAT = 1


class KeyParts(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what a step makes. `code` maps modules to the digests of their sources, `tools`
    distributions to versions, `inputs` roles to the output digests of the steps they come from."""

    step: str
    code: dict[str, str]
    tools: dict[str, str]
    config: dict[str, Any]
    inputs: dict[str, str]
    cache_format: int = CACHE_FORMAT

    @property
    def key(self) -> str:
        """The SHA-256 of the parts' canonical JSON."""
        return digest_of(msgspec.to_builtins(self))


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    parts: KeyParts
    files: tuple[FileEntry, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A step's output: the folder with its files, and their common digest.

    Files named `measurements.json` do not count in `digest`: they are true of a run, so that steps which
    read them must not depend on them, as a bundle's identity does not.
    """

    parts: KeyParts
    folder: Path
    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        named = {f.path: f.sha256 for f in self.files if f.path.rpartition("/")[2] != MEASUREMENTS_FILE}
        return sha256_bytes(canonical_json(named))


class StepCache:
    """The cache below `root`, which is made when first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> Entry | None:
        """The entry of that key with all its bytes checked, or None if there is none or it is damaged."""
        folder = self.root / "steps" / key
        try:
            record = msgspec.json.decode((folder / "entry.json").read_bytes(), type=_Record)
            for file in record.files:
                path = folder / "files" / file.path
                if path.stat().st_size != file.size_bytes or sha256_file(path) != file.sha256:
                    return None
        except (OSError, msgspec.DecodeError):
            return None
        if record.parts.key != key:
            return None
        return Entry(parts=record.parts, folder=folder / "files", files=record.files)

    def has_remains(self, key: str) -> bool:
        """Whether something lies under that key, sound or not: tells a damaged entry from a missing one."""
        return (self.root / "steps" / key).exists()

    @contextlib.contextmanager
    def making(self, parts: KeyParts) -> Iterator[Path]:
        """Holds the key's lock and gives an empty folder to write into. Look with `get` once more inside:
        another build may have made the entry while this one waited for the lock."""
        key = parts.key
        with self._lock(key):
            root = self.root / "staging"
            root.mkdir(parents=True, exist_ok=True)
            for stale in root.glob(f"{key}.*"):  # of a build that was killed
                shutil.rmtree(stale, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=root))
            files = staging / "files"
            files.mkdir()
            try:
                yield files
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def publish(self, parts: KeyParts, written: Path) -> Entry:
        """Makes what lies in `written`, the folder that `making` gave, the key's entry."""
        staging = written.parent
        files = tuple(_synced_entry(written, path) for path in _files(written))
        record = _Record(parts=parts, files=files)
        write_atomic(staging / "entry.json", canonical_json(msgspec.to_builtins(record)))
        target = self.root / "steps" / parts.key
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged, or `get` would have found it
            shutil.rmtree(target)
        staging.rename(target)
        fsync_directory(target.parent)
        return Entry(parts=parts, folder=target / "files", files=files)

    def last_build(self, label: str) -> dict[str, KeyParts]:
        """The key material of each step when that recipe was last built; empty if it never was."""
        try:
            data = (self.root / "builds" / f"{label}.json").read_bytes()
            return msgspec.json.decode(data, type=dict[str, KeyParts])
        except (FileNotFoundError, msgspec.DecodeError):
            # Only `--explain` reads it: without it the reason is "not built here before".
            return {}

    def record_build(self, label: str, parts: Mapping[str, KeyParts]) -> None:
        """Keeps the key material for the next build's `--explain`."""
        data = canonical_json(msgspec.to_builtins(dict(parts)))
        path = self.root / "builds" / f"{label}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(folder / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(
                f"The build cache {self.root} cannot be written ({error.strerror}).",
                remedy="Free or allow that folder, or move it with EDGEOPS_HOME.",
                subject=str(self.root),
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _synced_entry(folder: Path, path: str) -> FileEntry:
    file = folder / path
    # The rename that publishes the entry must not reach the disk before the bytes do.
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    return FileEntry(path=path, sha256=sha256_file(file), size_bytes=file.stat().st_size)
