"""The step cache: what a step made, found again by the digest of all that decided it.

    steps/<key>/entry.json   what the key was made of, and the digest and size of every file; its time of
                             change is the entry's last use
    steps/<key>/files/…      what the step wrote
    staging/<key>.<random>/  where a step that is running writes
    partial/<key>/           a running step's checkpoints; they outlive it if it is killed
    uses/<key>               shared by every build that uses the key, until that build ends (flock)
    locks/<key>              held by the one that makes the entry (flock)
    builds/<label>.json      the key material of each step of the last build of that recipe
    imports/                 the import statements of sources (see imports.py)

Laws, whatever else happens, other builds, prunes and kill -9 included:
- an entry under `steps/` is whole: it was renamed there when every file was on disk;
- what `get` returns has the bytes that the step wrote: what a disk or a hand damaged is not returned;
- one key is made by one process at a time; the kernel frees the lock of a killed one;
- what a build uses is there until that build ends: nothing is pruned that anyone else has in use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from edgeops.canonical import canonical_json, digest_of, sha256_bytes, sha256_file
from edgeops.clock import iso, now_ms
from edgeops.durable import fsync_directory, write_atomic
from edgeops.manifest import MEASUREMENTS_FILE, FileEntry
from toolchain.caching.locks import FileLock

# Part of every key: another layout or meaning of an entry is another cache.
CACHE_FORMAT = 2
IMPORTS_FOLDER = "imports"


class KeyParts(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All that decides what a step makes. `code` maps modules to the digests of their sources, `tools`
    distributions to versions, `inputs` roles to the digests of what fills them: outputs of earlier steps,
    and files from outside the build."""

    step: str
    code: dict[str, str]
    tools: dict[str, str]
    config: dict[str, Any]
    inputs: dict[str, str]
    cache_format: int = CACHE_FORMAT

    @cached_property
    def key(self) -> str:
        """The SHA-256 of the parts' canonical JSON."""
        return digest_of(msgspec.to_builtins(self))


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What `entry.json` holds. `made_at` is a time in UTC (RFC 3339)."""

    parts: KeyParts
    files: tuple[FileEntry, ...]
    made_at: str


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


class Claim:
    """A key that this process alone makes: a context manager; leaving it gives the key free.

    `out` is an empty folder to write into. `checkpoints` is a folder that outlives a process that is killed,
    and is gone once the entry is published: what lies there is what an earlier run of the same key left.
    """

    def __init__(self, cache: StepCache, parts: KeyParts, lock: FileLock) -> None:
        self.parts = parts
        self._cache = cache
        self._lock = lock
        root = cache.root / "staging"
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(f"{parts.key}.*"):  # of a build that was killed
            shutil.rmtree(stale, ignore_errors=True)
        self._staging = Path(tempfile.mkdtemp(prefix=f"{parts.key}.", dir=root))
        self.out = self._staging / "files"
        self.out.mkdir()
        self.checkpoints = cache.root / "partial" / parts.key
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def publish(self) -> Entry:
        """Makes what lies in `out` the key's entry."""
        files = tuple(_synced_entry(self.out, path) for path in _files(self.out))
        record = Record(parts=self.parts, files=files, made_at=iso(now_ms()))
        write_atomic(self._staging / "entry.json", canonical_json(msgspec.to_builtins(record)))
        target = self._cache.root / "steps" / self.parts.key
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged, or `get` would have found it
            shutil.rmtree(target)
        self._staging.rename(target)
        fsync_directory(target.parent)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return Entry(parts=self.parts, folder=target / "files", files=files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the key free. What was not published is gone, but for checkpoints."""
        shutil.rmtree(self._staging, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.checkpoints.rmdir()  # if the step left nothing there, or the entry is published
        self._lock.release()


class StepCache:
    """The cache below `root`, which is made when first needed. A context manager: what `use` took is given
    back when it is left."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._uses: dict[str, FileLock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lock in self._uses.values():
            lock.release()
        self._uses.clear()

    def use(self, key: str) -> None:
        """Keeps prunes away from that key, made or still to be made, until this object is left."""
        if key not in self._uses:
            # This waits for a prune only, which holds it for as long as it removes one entry.
            lock = FileLock.acquire(self.root / "uses" / key, shared=True)
            assert lock is not None
            self._uses[key] = lock

    def get(self, key: str) -> Entry | None:
        """The entry of that key with all its bytes checked, or None if there is none or it is damaged. Call
        `use` first. Counts as a use of the entry."""
        folder = self.root / "steps" / key
        try:
            record = msgspec.json.decode((folder / "entry.json").read_bytes(), type=Record)
            for file in record.files:
                path = folder / "files" / file.path
                if path.stat().st_size != file.size_bytes or sha256_file(path) != file.sha256:
                    return None
            if record.parts.key != key:
                return None
            os.utime(folder / "entry.json")
        except (OSError, msgspec.DecodeError):
            return None
        return Entry(parts=record.parts, folder=folder / "files", files=record.files)

    def has_remains(self, key: str) -> bool:
        """Whether something lies under that key, sound or not: tells a damaged entry from a missing one."""
        return (self.root / "steps" / key).exists()

    def claim(self, parts: KeyParts) -> Claim | None:
        """The key's claim, or None while another process has it. Look with `get` once more when you have
        it: another build may have made the entry since you last looked.

        This never waits. So whoever holds a claim waits for no other, and builds that make several keys at
        once cannot come to wait for each other in a circle.
        """
        self.use(parts.key)
        lock = FileLock.acquire(self.root / "locks" / parts.key, wait=False)
        if lock is None:
            return None
        try:
            return Claim(self, parts, lock)
        except BaseException:
            lock.release()
            raise

    def last_build(self, label: str) -> dict[str, KeyParts]:
        """The key material of each step when that recipe was last built; empty if it never was."""
        try:
            data = (self.root / "builds" / f"{label}.json").read_bytes()
            return msgspec.json.decode(data, type=dict[str, KeyParts])
        except (FileNotFoundError, msgspec.DecodeError):
            # Only `--explain` and `cache ls` read it: without it the reason is "not built here before".
            return {}

    def record_build(self, label: str, parts: Mapping[str, KeyParts]) -> None:
        """Keeps the key material for the next build's `--explain`, and for `cache ls`."""
        data = canonical_json(msgspec.to_builtins(dict(parts)))
        path = self.root / "builds" / f"{label}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() == data:
            os.utime(path)
        else:
            write_atomic(path, data)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _synced_entry(folder: Path, path: str) -> FileEntry:
    file = folder / path
    # The rename that publishes the entry must not reach the disk before the bytes do.
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    return FileEntry(path=path, sha256=sha256_file(file), size_bytes=file.stat().st_size)
