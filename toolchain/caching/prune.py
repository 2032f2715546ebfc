"""Looking at the step cache, and removing from it what was not used for long.

Both are safe beside builds and other prunes. A key that a build uses, or makes, is locked by it until it ends
(see cache.py): a prune takes each key's locks without waiting, leaves alone what it does not get,
and holds them while it removes. What it removes is renamed away first, so that nobody sees half an entry.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgeops.clock import iso
from toolchain.caching.cache import IMPORTS_FOLDER, Record, StepCache
from toolchain.caching.imports import KEPT_FILE, LOCK_FILE
from toolchain.caching.locks import FileLock

_DAY_MS = 24 * 3600 * 1000


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """An entry. `step` and `made_at` are None if its record cannot be read: an older edgeops made it, or it
    is damaged. `builds` are the recipes (name-version) whose last build used it."""

    key: str
    step: str | None
    size_bytes: int
    made_at: str | None
    last_used_at: str
    builds: tuple[str, ...]


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed (or would be): entries, checkpoints of steps that never ended, what killed builds
    left, and the bytes of all of it. `in_use` counts keys that were left alone because a build has them."""

    entries: tuple[Cached, ...]
    checkpoints: int
    leftovers: int
    freed_bytes: int
    in_use: int


def list_entries(cache: StepCache) -> list[Cached]:
    """Every entry, the one that was used last first."""
    builds = _builds(cache)
    found = [_cached(folder, builds) for folder in _children(cache.root / "steps")]
    return sorted((item for item in found if item is not None), key=lambda i: i.last_used_at, reverse=True)


def prune(cache: StepCache, *, keep_days: float, now_ms: int, dry_run: bool = False) -> Pruned:
    """Removes what was last used more than `keep_days` days before `now_ms`, and all that killed builds left.
    With `dry_run` it only tells what it would remove."""
    before_ms = now_ms - keep_days * _DAY_MS
    builds = _builds(cache)
    entries: list[Cached] = []
    checkpoints = leftovers = freed = in_use = 0
    for key in _keys(cache):
        with _held(cache, key) as held:
            if not held:
                in_use += 1
                continue
            entry = cache.root / "steps" / key
            cached = _cached(entry, builds)
            partial = cache.root / "partial" / key
            stale = list((cache.root / "staging").glob(f"{key}.*"))
            if cached is not None and _last_used_ms(entry) < before_ms:
                entries.append(cached)
                freed += _remove(cache, entry, dry_run)
            if partial.exists() and _changed_ms(partial) < before_ms:
                checkpoints += 1
                freed += _remove(cache, partial, dry_run)
            for folder in stale:
                leftovers += 1
                freed += _remove(cache, folder, dry_run)
    for path in _stale_records(cache, before_ms):
        with suppress(FileNotFoundError):  # another prune was here first
            freed += _remove(cache, path, dry_run)
            leftovers += 1
    freed += _prune_imports(cache, before_ms, dry_run)
    return Pruned(
        entries=tuple(entries),
        checkpoints=checkpoints,
        leftovers=leftovers,
        freed_bytes=freed,
        in_use=in_use,
    )


def _keys(cache: StepCache) -> list[str]:
    found: set[str] = set()
    for name in ("steps", "partial", "staging", "uses", "locks"):
        found.update(path.name.partition(".")[0] for path in _children(cache.root / name))
    return sorted(found)


@contextmanager
def _held(cache: StepCache, key: str) -> Iterator[bool]:
    """Takes the key for the prune alone, if nobody has it. The lock files go with it."""
    use = FileLock.acquire(cache.root / "uses" / key, wait=False)
    lock = None if use is None else FileLock.acquire(cache.root / "locks" / key, wait=False)
    try:
        yield lock is not None
    finally:
        for held in (lock, use):
            if held is not None:
                held.remove()


def _cached(folder: Path, builds: dict[str, tuple[str, ...]]) -> Cached | None:
    """The entry in that folder; None if it is gone."""
    try:
        last_used = iso(_last_used_ms(folder))
        size_bytes = _size(folder)
    except FileNotFoundError:
        return None
    try:
        record = msgspec.json.decode((folder / "entry.json").read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        record = None
    return Cached(
        key=folder.name,
        step=None if record is None else record.parts.step,
        size_bytes=size_bytes,
        made_at=None if record is None else record.made_at,
        last_used_at=last_used,
        builds=builds.get(folder.name, ()),
    )


def _builds(cache: StepCache) -> dict[str, tuple[str, ...]]:
    """Keys to the labels of the builds that used them last."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(_children(cache.root / "builds")):
        for parts in cache.last_build(path.stem).values():
            found[parts.key] = (*found.get(parts.key, ()), path.stem)
    return found


def _stale_records(cache: StepCache, before_ms: float) -> list[Path]:
    """Records of builds of which nothing is left, and half-written ones."""
    stale = []
    for path in _children(cache.root / "builds"):
        parts = cache.last_build(path.stem).values()
        left = any((cache.root / "steps" / item.key).exists() for item in parts)
        with suppress(FileNotFoundError):
            if not left and _time_ms(path) < before_ms:
                stale.append(path)
    return stale


def _prune_imports(cache: StepCache, before_ms: float, dry_run: bool) -> int:
    """Removes the import statements that are kept, if no build used them since, and what killed builds left
    beside them, unless a build writes there. Returns the bytes of what it removes."""
    folder = cache.root / IMPORTS_FOLDER
    lock = FileLock.acquire(folder / LOCK_FILE, wait=False) if folder.is_dir() else None
    if lock is None:
        return 0
    with lock:
        stale = [path for path in _children(folder) if path.name not in (KEPT_FILE, LOCK_FILE)]
        kept = folder / KEPT_FILE
        if kept.exists() and _time_ms(kept) < before_ms:
            stale.append(kept)
        return sum(_remove(cache, path, dry_run) for path in stale)


def _last_used_ms(folder: Path) -> int:
    record = folder / "entry.json"
    return _time_ms(record if record.exists() else folder)


def _changed_ms(folder: Path) -> int:
    return max(_time_ms(path) for path in (folder, *folder.rglob("*")))


def _time_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _remove(cache: StepCache, path: Path, dry_run: bool) -> int:
    size_bytes = _size(path)
    if dry_run:
        return size_bytes
    if path.is_file():
        path.unlink(missing_ok=True)
        return size_bytes
    # The name keeps the key, so that what a killed prune leaves is found like a killed build's.
    key = path.name.partition(".")[0]
    away = cache.root / "staging" / f"{key}.{uuid.uuid4().hex}"
    away.parent.mkdir(exist_ok=True)
    path.rename(away)
    shutil.rmtree(away)
    return size_bytes


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
