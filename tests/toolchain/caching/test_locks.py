"""Lock files that may be removed while others wait for them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeops_testkit.waiting import wait_until
from toolchain.caching.locks import FileLock


def waits_for(inode: int) -> bool:
    """Whether anyone waits for a lock on that file (proc(5), /proc/locks)."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{inode} " in line for line in lines)


def acquired(path: Path, *, shared: bool = False) -> FileLock | None:
    return FileLock.acquire(path, shared=shared, wait=False)


def test_an_exclusive_lock_keeps_all_others_out_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a"
    first = acquired(path)
    assert first is not None
    assert acquired(path) is None
    assert acquired(path, shared=True) is None
    first.release()
    first.release()
    assert acquired(path) is not None


def test_shared_locks_go_together(tmp_path: Path) -> None:
    one, other = acquired(tmp_path / "a", shared=True), acquired(tmp_path / "a", shared=True)
    assert one is not None
    assert other is not None
    assert acquired(tmp_path / "a") is None


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who waits for a lock")
def test_who_waited_for_a_file_that_was_removed_locks_the_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    first = FileLock.acquire(path)
    assert first is not None
    got: list[FileLock | None] = []
    thread = threading.Thread(target=lambda: got.append(FileLock.acquire(path)))
    inode = path.stat().st_ino
    thread.start()
    wait_until(lambda: waits_for(inode), 30, "the thread to wait for the lock")
    first.remove()
    thread.join(timeout=30)
    assert len(got) == 1
    assert got[0] is not None
    assert path.exists()
    assert acquired(path) is None, "the one who waited holds the lock that others find"


def test_two_never_hold_one_lock_however_often_it_is_removed(tmp_path: Path) -> None:
    path, inside = tmp_path / "a", threading.Lock()

    def work() -> None:
        for _ in range(200):
            lock = FileLock.acquire(path)
            assert lock is not None
            assert inside.acquire(blocking=False), "two hold the lock"
            time.sleep(0.0005)  # so that others come
            inside.release()
            lock.remove()

    with ThreadPoolExecutor(max_workers=4) as threads:
        futures = [threads.submit(work) for _ in range(4)]
    assert [future.exception() for future in futures] == [None] * 4
