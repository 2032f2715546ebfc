"""The control role: the rollout loop, the monitor loop, and the publishing of desired states.

All state is in the database, so a kill at any instant costs nothing but time. One control role at a time:
on one machine a file lock sees to that. Several hubs on PostgreSQL need an advisory lock in its place,
taken where `_only_one` takes the file's.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from cloud_hub.bundles.blobs import BlobStore
from cloud_hub.control import control_loop
from cloud_hub.control.desired_publisher import DesiredPublisher
from cloud_hub.control.monitor_loop import Monitor
from cloud_hub.settings import HubSettings
from cloud_hub.store.database import open_database
from cloud_hub.trust.authority import Authority
from edgeops.clock import now_ms
from edgeops.errors import ConfigError
from edgeops.signing.keys import PrivateKey

logger = logging.getLogger(__name__)


async def serve(settings: HubSettings, ready: Callable[[], None]) -> None:
    """Runs the role until cancelled; calls `ready` once it holds the lock and the loops have started.

    Raises `ConfigError` when another control role runs on this state, `TransportError` when the broker
    cannot be reached at first.
    """
    with _only_one(settings):
        engine = open_database(settings)
        try:
            signer = Authority.open(settings).desired_key
            blobs = BlobStore(settings.state_dir / "blobs", settings.blob_size_bytes)
            publisher = DesiredPublisher(engine, settings)
            monitor = Monitor(engine, blobs, settings)
            async with asyncio.TaskGroup() as group:
                group.create_task(publisher.run())
                group.create_task(_rollout_loop(engine, signer, publisher, settings.control_interval_s))
                group.create_task(_every(settings.monitor_interval_s, lambda: monitor.tick(now_ms())))
                ready()
        except ExceptionGroup as failed:
            # What ended the role, as every other role raises it.
            raise failed.exceptions[0] from failed
        finally:
            engine.dispose()


async def _rollout_loop(
    engine: Engine, signer: PrivateKey, publisher: DesiredPublisher, interval_s: float
) -> None:
    def tick() -> list[str]:
        return control_loop.tick(engine, signer, now_ms())

    await _every(interval_s, tick, lambda moved: publisher.nudge() if moved else None)


async def _every(
    interval_s: float, act: Callable[[], Any], then: Callable[[Any], None] = lambda _result: None
) -> None:
    """Does `act` in a thread and `then` in the loop, again `interval_s` after it is done. A database that
    cannot be reached or written for now is met again at the next turn; any other error ends the role."""
    while True:
        try:
            then(await asyncio.to_thread(act))
        except OperationalError as error:
            logger.error("The database is not available: %s", error.orig)
        await asyncio.sleep(interval_s)


@contextmanager
def _only_one(settings: HubSettings) -> Iterator[None]:
    path = settings.state_dir / "control.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"Another control role runs on {settings.state_dir}.",
                remedy="Stop it first: only one may move rollouts.",
                subject=str(path),
            ) from error
        yield
