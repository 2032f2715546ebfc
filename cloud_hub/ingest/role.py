"""The ingest role: what devices publish goes into the database, and an acknowledgement goes back.

A message is acknowledged to the broker (PUBACK) and to the device (`acks`) only after the transaction that
holds it was committed. So an ingest process that is killed at any point loses nothing: the broker sends
again what it got no PUBACK for, the device's spool sends again what it got no `acks` for, and storing twice
changes nothing (`cloud_hub.ingest.store`).

Windows and events come through a shared subscription (MQTT 5, 4.8.2), so several ingest processes divide
them. `state` and `reported` do not: a shared subscription is sent no retained messages, and a hub that
starts needs them to learn who is there. Several processes then apply each of them, which changes nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from paho.mqtt.client import MQTTMessage
from sqlalchemy.exc import OperationalError

from cloud_hub.broker.link import HubLink
from cloud_hub.ingest.store import IngestStore, Outcome, Received
from cloud_hub.settings import HubSettings
from cloud_hub.store.database import open_database
from edgeops.clock import now_ms
from edgeops.errors import ConfigError
from edgeops.messages import Ack, encode
from edgeops.topics import all_devices, topic

logger = logging.getLogger(__name__)

SHARE = "ingest"
# The broker keeps this client's session (and what arrives meanwhile) for so long.
SESSION_EXPIRY_S = 3600
# Batches that may be under way from the broker: one being written, one waiting, one arriving.
_BATCHES_IN_FLIGHT = 3
_MAX_INSTANCES = 64
_RETRY_S = 1.0

# A message, its packet id, and the connection it came by.
_Arrival = tuple[Received, int, int]


async def serve(settings: HubSettings, ready: Callable[[], None]) -> None:
    """Runs the role until cancelled; calls `ready` once subscribed.

    Raises `TransportError` if the broker cannot be reached at first (later it is waited for).
    """
    ingest = Ingest(settings)
    try:
        await asyncio.to_thread(ingest.start)
        ready()
        await asyncio.to_thread(ingest.run)
    finally:
        ingest.stop()


class Ingest:
    """One ingest process: the link's thread takes messages in, the thread that calls `run` stores them."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings = settings
        self._arrivals: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._engine = open_database(settings)
        self._store = IngestStore(self._engine)
        self._instance = Instance.claim(settings.state_dir)
        self._link = HubLink(
            settings,
            f"hub:ingest:{self._instance.number}",
            subscriptions=[
                (all_devices("windows", share=SHARE), 1),
                (all_devices("events", share=SHARE), 1),
                (all_devices("state"), 1),
                (all_devices("reported"), 1),
            ],
            on_message=self._arrive,
            manual_ack=True,
            session_expiry_s=SESSION_EXPIRY_S,
            receive_maximum=min(_BATCHES_IN_FLIGHT * settings.ingest_batch_size, 65_535),
        )

    def start(self) -> None:
        """Connects and subscribes. Raises `TransportError`."""
        self._link.open()

    def run(self) -> None:
        """Stores what arrives until `stop`. Raises when the database is lost for good."""
        self._idle.clear()
        try:
            while batch := self._take():
                outcome = self._commit([received for received, _, _ in batch])
                if outcome is None:
                    return
                self._acknowledge(batch, outcome)
        finally:
            self._idle.set()

    def stop(self) -> None:
        """Commits what has arrived, then disconnects. Also after a failed `start`."""
        self._stopping.set()
        self._arrivals.put(None)
        self._idle.wait()
        self._link.close()
        self._engine.dispose()
        self._instance.release()

    def _arrive(self, message: MQTTMessage, epoch: int) -> None:
        received = Received(message.topic, bytes(message.payload))
        self._arrivals.put((received, message.mid, epoch))

    def _take(self) -> list[_Arrival]:
        """The next batch: as many as there are, at most `ingest_batch_size`, gathered for at most
        `ingest_batch_delay_s`; empty once the role stops."""
        first = self._arrivals.get()
        if first is None:
            return []
        batch = [first]
        deadline = time.monotonic() + self._settings.ingest_batch_delay_s
        while len(batch) < self._settings.ingest_batch_size:
            try:
                arrival = self._arrivals.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if arrival is None:
                self._arrivals.put(None)
                break
            batch.append(arrival)
        return batch

    def _commit(self, messages: list[Received]) -> Outcome | None:
        """Stores a batch, however long the database takes to come back (locked, full, restarted); nothing is
        acknowledged meanwhile. None if the role stops first."""
        while True:
            try:
                return self._store.store(messages, now_ms())
            except OperationalError as error:
                logger.error(
                    "The database does not take %d messages (%s); they wait. Free disk space or restore it.",
                    len(messages),
                    error.orig,
                )
                if self._stopping.wait(_RETRY_S):
                    return None

    def _acknowledge(self, batch: list[_Arrival], outcome: Outcome) -> None:
        for _, packet_id, epoch in batch:
            self._link.acknowledge(packet_id, epoch)
        for device, pairs in outcome.acks.items():
            self._link.publish(topic(device, "acks"), encode(Ack(device=device, pairs=tuple(pairs))))


class Instance:
    """Which of this machine's ingest processes this is: the lowest number that no other one holds.

    The broker knows a client's session by its id, so the id must be the same after a restart, and never
    that of another process that runs. A lock on a file is given back by the kernel whatever happens.
    """

    def __init__(self, number: int, file: IO[bytes]) -> None:
        self.number = number
        self._file = file

    @classmethod
    def claim(cls, folder: Path) -> Instance:
        """Raises `ConfigError` when all numbers are held."""
        for number in range(_MAX_INSTANCES):
            file = (folder / f"ingest-{number}.lock").open("wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            return cls(number, file)
        raise ConfigError(
            f"{_MAX_INSTANCES} ingest processes run over {folder} already.",
            remedy="Stop some of them.",
            subject=str(folder),
        )

    def release(self) -> None:
        """Gives the number back."""
        self._file.close()
