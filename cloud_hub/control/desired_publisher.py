"""Publishing desired states: what the database wants, the broker holds, retained, one message a device."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from sqlalchemy import Engine

from cloud_hub.broker.link import HubLink
from cloud_hub.control.desired import Publication, mark_published, publications
from cloud_hub.settings import HubSettings
from cloud_hub.store.database import reading, writing
from edgeops.topics import topic

logger = logging.getLogger(__name__)

# Assignments come from other processes too, which can only be seen by looking.
POLL_INTERVAL_S = 0.25
# So many wait for the broker's acknowledgement at once.
_CHUNK = 500


class DesiredPublisher:
    """Keeps the broker's retained `desired` messages what the database says.

    A generation counts as published once the broker has acknowledged it. That is no promise that the
    broker keeps it: at every new connection everything is published again. Revoked devices' messages are
    taken away. One publisher at a time: the control role runs it.
    """

    def __init__(self, engine: Engine, settings: HubSettings) -> None:
        self._engine = engine
        self._wake = asyncio.Event()
        self._published_epoch = 0
        self._link = HubLink(settings, "hub:desired", on_connected=self._on_connected)
        self._loop: asyncio.AbstractEventLoop | None = None

    def nudge(self) -> None:
        """Makes the publisher look now, after an assignment in this process. From the loop's thread."""
        self._wake.set()

    async def run(self) -> None:
        """Publishes until cancelled. Raises `TransportError` if the broker cannot be reached at first;
        later it waits for it to come back."""
        self._loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._link.open)
            while True:
                self._wake.clear()
                await asyncio.to_thread(self.publish_pending)
                # Not wait_for, which in Python 3.11 can swallow a cancellation (cpython issue 86296).
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_INTERVAL_S):
                        await self._wake.wait()
        finally:
            await asyncio.to_thread(self._link.close)

    def publish_pending(self) -> int:
        """Publishes what waits (everything, if the connection is new); returns how many messages the
        broker has taken."""
        if not self._link.connected:
            return 0
        epoch = self._link.epoch
        with reading(self._engine) as connection:
            waiting = publications(connection, all_of_them=epoch != self._published_epoch)
        taken = 0
        for start in range(0, len(waiting), _CHUNK):
            taken += self._publish(waiting[start : start + _CHUNK])
        if taken == len(waiting):
            self._published_epoch = epoch
        return taken

    def _publish(self, chunk: list[Publication]) -> int:
        messages = [(topic(each.device, "desired"), each.payload) for each in chunk]
        outcomes = self._link.publish_and_wait(messages, retain=True)
        done = [each for each, taken in zip(chunk, outcomes, strict=True) if taken]
        if done:
            with writing(self._engine) as connection:
                mark_published(connection, done)
        if len(done) < len(chunk):
            logger.warning("The broker did not take %d desired states; trying again.", len(chunk) - len(done))
        return len(done)

    def _on_connected(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)
