"""The hub's operator API, as any script would call it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

from edgeops.errors import TransportError

T = TypeVar("T")


class HubApi:
    """A client with the operator's token."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._session = aiohttp.ClientSession(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=15),
        )

    async def __aenter__(self) -> HubApi:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> Any:
        """The JSON behind `path`."""
        async with self._session.get(path) as response:
            return await self._checked(response)

    async def post(self, path: str, body: object | None = None) -> Any:
        """The JSON answered to a POST."""
        async with self._session.post(path, json=body) as response:
            return await self._checked(response)

    @staticmethod
    async def _checked(response: aiohttp.ClientResponse) -> Any:
        if response.status >= 400:
            raise TransportError(f"The hub answered {response.status}: {await response.text()}")
        return await response.json()


async def until(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, timeout_s: float, interval_s: float = 0.25
) -> T:
    """Looks until what is seen is good or the time is over; returns what was seen last either way.
    The caller judges it: a row that did not come to hold shows what was there instead."""
    deadline = time.monotonic() + timeout_s
    seen = await look()
    while not good(seen) and time.monotonic() < deadline:
        await asyncio.sleep(interval_s)
        seen = await look()
    return seen
