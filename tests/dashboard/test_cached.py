"""One look serves all viewers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cloud_hub.dashboard.cached import Cached, CachedByName


class Source:
    """Something slow to read, which counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def load(self) -> int:
        self.reads += 1
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return self.reads


def test_many_callers_one_load() -> None:
    source = Source()
    source.gate.clear()

    async def main() -> list[int]:
        cached = Cached(source.load, max_age_s=60)
        callers = [asyncio.create_task(cached.get()) for _ in range(200)]
        await asyncio.sleep(0)
        source.gate.set()
        return await asyncio.gather(*callers, cached.get())

    assert asyncio.run(main()) == [1] * 201
    assert source.reads == 1


def test_an_old_result_is_made_again() -> None:
    source = Source()

    async def main() -> list[int]:
        cached = Cached(source.load, max_age_s=0.0)
        first = await cached.get()
        return [first, await cached.get()]

    assert asyncio.run(main()) == [1, 2]


def test_an_error_reaches_all_who_wait_and_is_not_kept() -> None:
    source = Source()
    source.error = ValueError("unreadable")
    source.gate.clear()

    async def main() -> tuple[list[object], int]:
        cached = Cached(source.load, max_age_s=60)
        callers = [asyncio.create_task(cached.get()) for _ in range(5)]
        await asyncio.sleep(0)
        source.gate.set()
        outcomes: list[object] = list(await asyncio.gather(*callers, return_exceptions=True))
        source.error = None
        return outcomes, await cached.get()

    outcomes, value = asyncio.run(main())
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 5
    assert (value, source.reads) == (2, 2)


def test_a_viewer_that_leaves_does_not_end_the_look_of_others() -> None:
    source = Source()
    source.gate.clear()

    async def main() -> int:
        cached = Cached(source.load, max_age_s=60)
        leaves, stays = asyncio.create_task(cached.get()), asyncio.create_task(cached.get())
        await asyncio.sleep(0)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        source.gate.set()
        return await stays

    assert asyncio.run(main()) == 1
    assert source.reads == 1


def test_by_name_the_least_recently_used_is_forgotten() -> None:
    loaded: list[str] = []

    def load(name: str) -> str:
        loaded.append(name)
        return name.upper()

    async def main() -> list[str]:
        cached = CachedByName(load, max_age_s=60, most=2)
        return [await cached.of(name).get() for name in ("a", "b", "a", "c", "a", "b")]

    assert asyncio.run(main()) == ["A", "B", "A", "C", "A", "B"]
    assert loaded == ["a", "b", "c", "b"], "b was the least recently used when c came"
