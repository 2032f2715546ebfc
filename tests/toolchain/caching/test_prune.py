"""Listing and pruning the step cache, also beside builds and other prunes."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.caching.cache import IMPORTS_FOLDER, Entry, KeyParts, StepCache
from toolchain.caching.imports import KEPT_FILE, LOCK_FILE, import_statements, imports_kept
from toolchain.caching.locks import FileLock
from toolchain.caching.prune import list_entries, prune

NOW_MS = 1_800_000_000_000
DAY_S = 86_400


def parts_of(name: str) -> KeyParts:
    return KeyParts(step=name, code={}, tools={}, config={}, inputs={})


def make(root: Path, name: str, *, days_ago: float = 0, content: bytes = b"12345") -> Entry:
    with StepCache(root) as cache:
        claim = cache.claim(parts_of(name))
        assert claim is not None
        with claim:
            (claim.out / "x").write_bytes(content)
            entry = claim.publish()
    used(root / "steps" / parts_of(name).key / "entry.json", days_ago)
    return entry


def used(path: Path, days_ago: float) -> None:
    at = NOW_MS / 1000 - days_ago * DAY_S
    os.utime(path, (at, at))


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_entries_are_listed_by_last_use_with_the_builds_that_use_them(tmp_path: Path) -> None:
    for name, days in (("old", 9), ("new", 1), ("unused", 5)):
        make(tmp_path, name, days_ago=days)
    cache = StepCache(tmp_path)
    cache.record_build("digits-1.0.0", {"old": parts_of("old"), "new": parts_of("new")})
    cache.record_build("digits-1.1.0", {"new": parts_of("new")})
    found = list_entries(cache)
    assert [entry.step for entry in found] == ["new", "unused", "old"]
    assert [entry.builds for entry in found] == [("digits-1.0.0", "digits-1.1.0"), (), ("digits-1.0.0",)]
    record = (tmp_path / "steps" / parts_of("old").key / "entry.json").stat().st_size
    assert found[2].size_bytes == 5 + record
    assert found[2].last_used_at == "2027-01-06T08:00:00.000Z"


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list_entries(StepCache(tmp_path / "none")) == []
    assert prune(StepCache(tmp_path / "none"), keep_days=0, now_ms=NOW_MS).freed_bytes == 0


def test_using_an_entry_keeps_it(tmp_path: Path) -> None:
    make(tmp_path, "a", days_ago=90)
    with StepCache(tmp_path) as cache:
        cache.use(parts_of("a").key)
        assert cache.get(parts_of("a").key) is not None
    entry = list_entries(StepCache(tmp_path))[0]
    record = tmp_path / "steps" / entry.key / "entry.json"
    now_ms = record.stat().st_mtime_ns // 1_000_000
    assert prune(StepCache(tmp_path), keep_days=1, now_ms=now_ms + 1000).entries == ()
    assert len(prune(StepCache(tmp_path), keep_days=1, now_ms=now_ms + 2 * DAY_S * 1000).entries) == 1


@given(
    ages=st.dictionaries(st.sampled_from("abcde"), st.integers(0, 9), max_size=5),
    keep=st.integers(0, 9),
    held=st.sets(st.sampled_from("abcde")),
)
@settings(max_examples=40, deadline=None)
def test_exactly_what_is_old_and_free_goes(
    tmp_path_factory: pytest.TempPathFactory, ages: dict[str, int], keep: int, held: set[str]
) -> None:
    root = tmp_path_factory.mktemp("cache")
    for name, days in ages.items():
        make(root, name, days_ago=days)
    with StepCache(root) as user:
        for name in held:
            user.use(parts_of(name).key)
        before = sum((root / path).stat().st_size for path in tree(root))
        told = prune(StepCache(root), keep_days=keep, now_ms=NOW_MS, dry_run=True)
        assert sum((root / path).stat().st_size for path in tree(root)) == before
        done = prune(StepCache(root), keep_days=keep, now_ms=NOW_MS)
        after = sum((root / path).stat().st_size for path in tree(root))
    assert done == told
    old = {name for name, days in ages.items() if days > keep}
    assert {entry.step for entry in done.entries} == old - held
    assert done.freed_bytes == before - after
    assert done.in_use == len(held)
    left = {entry.step for entry in list_entries(StepCache(root))}
    assert left == ages.keys() - {entry.step for entry in done.entries}


def test_what_killed_builds_left_goes_and_young_checkpoints_stay(tmp_path: Path) -> None:
    key, other = parts_of("a").key, parts_of("b").key
    for folder in (f"staging/{key}.abc/files", f"partial/{key}", f"partial/{other}"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x").write_bytes(b"123")
    for path in (tmp_path / "partial" / key, tmp_path / "partial" / key / "x"):
        used(path, 40)
    for path in (tmp_path / "partial" / other, tmp_path / "partial" / other / "x"):
        used(path, 2)
    done = prune(StepCache(tmp_path), keep_days=30, now_ms=NOW_MS)
    assert (done.checkpoints, done.leftovers, done.freed_bytes) == (1, 1, 6)
    assert tree(tmp_path) == {f"partial/{other}/x"}


def test_lock_files_and_records_of_builds_that_are_gone_go(tmp_path: Path) -> None:
    make(tmp_path, "a", days_ago=40)
    cache = StepCache(tmp_path)
    cache.record_build("digits-1.0.0", {"a": parts_of("a")})
    used(tmp_path / "builds" / "digits-1.0.0.json", 40)
    prune(cache, keep_days=30, now_ms=NOW_MS)
    assert tree(tmp_path) == set()


def test_import_statements_go_when_no_build_used_them_and_what_killed_builds_left_beside_them(
    tmp_path: Path,
) -> None:
    folder = tmp_path / IMPORTS_FOLDER

    def build() -> None:
        with imports_kept(folder):
            import_statements(b"import a", "a digest", "tested")

    def pruned(*, dry_run: bool = False) -> int:
        return prune(StepCache(tmp_path), keep_days=30, now_ms=NOW_MS, dry_run=dry_run).freed_bytes

    build()
    left = folder / f".{KEPT_FILE}.abc"
    left.write_bytes(b"123")
    used(folder / KEPT_FILE, 29)
    writer = FileLock.acquire(folder / LOCK_FILE)
    assert writer is not None
    assert pruned() == 0, "a build writes there"
    writer.release()
    assert (pruned(dry_run=True), pruned(), pruned()) == (3, 3, 0)
    used(folder / KEPT_FILE, 31)
    size_bytes = (folder / KEPT_FILE).stat().st_size
    assert (pruned(dry_run=True), pruned(), pruned()) == (size_bytes, size_bytes, 0)
    assert tree(tmp_path) == {f"{IMPORTS_FOLDER}/{LOCK_FILE}"}
    build()
    assert (folder / KEPT_FILE).exists()


def test_an_entry_of_an_older_format_is_listed_and_goes_in_its_time(tmp_path: Path) -> None:
    folder = tmp_path / "steps" / "abc"
    (folder / "files").mkdir(parents=True)
    (folder / "entry.json").write_text("{}")
    used(folder / "entry.json", 40)
    found = list_entries(StepCache(tmp_path))[0]
    assert (found.step, found.made_at, found.size_bytes) == (None, None, 2)
    assert [entry.key for entry in prune(StepCache(tmp_path), keep_days=30, now_ms=NOW_MS).entries] == ["abc"]


def test_what_a_build_makes_is_left_alone(tmp_path: Path) -> None:
    with StepCache(tmp_path) as cache:
        claim = cache.claim(parts_of("a"))
        assert claim is not None
        with claim:
            (claim.out / "x").write_bytes(b"1")
            assert prune(StepCache(tmp_path), keep_days=0, now_ms=NOW_MS).in_use == 1
            claim.publish()
        assert prune(StepCache(tmp_path), keep_days=0, now_ms=2 * NOW_MS).entries == ()
        assert cache.get(parts_of("a").key) is not None


def test_a_key_that_another_prune_holds_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "a", days_ago=9)
    other = FileLock.acquire(tmp_path / "uses" / parts_of("a").key)
    assert other is not None
    assert prune(StepCache(tmp_path), keep_days=1, now_ms=NOW_MS).entries == ()
    other.remove()
    assert len(prune(StepCache(tmp_path), keep_days=1, now_ms=NOW_MS).entries) == 1


def test_builds_and_prunes_at_once_never_lose_what_a_build_holds(tmp_path: Path) -> None:
    stop = threading.Event()

    def pruning() -> None:
        while not stop.is_set():
            prune(StepCache(tmp_path), keep_days=0, now_ms=2 * NOW_MS)

    def building(number: int) -> None:
        for _ in range(25):
            with StepCache(tmp_path) as cache:
                parts = parts_of(f"step {number % 2}")
                cache.use(parts.key)
                entry = cache.get(parts.key)
                while entry is None:
                    claim = cache.claim(parts)
                    if claim is None:
                        continue
                    with claim:
                        entry = cache.get(parts.key)
                        if entry is None:
                            (claim.out / "x").write_bytes(b"1")
                            entry = claim.publish()
                assert (entry.folder / "x").read_bytes() == b"1"

    with ThreadPoolExecutor(max_workers=6) as threads:
        prunes = [threads.submit(pruning) for _ in range(2)]
        builds = [threads.submit(building, number) for number in range(4)]
        done = wait(builds, timeout=120)
        stop.set()
    assert not done.not_done
    assert [future.exception() for future in (*prunes, *builds)] == [None] * 6
