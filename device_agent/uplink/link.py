"""The link to the hub: state, desired and reported, and the spool's way out.

An entry leaves the spool only upon the hub's own `acks`. What is not acknowledged is sent again after each
reconnect and after a while; the hub knows duplicates by (session, sequence). The device works on without a
link for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from device_agent.telemetry.spool import Spool
from device_agent.uplink.mqtt_connection import Closed, Message, MqttConnection, Will
from edgeops import __version__, clock, topics
from edgeops.errors import BadRequestError, EdgeopsError
from edgeops.messages import Ack, DeviceState, ReportedState, decode, encode

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinkTerms:
    """Where the broker is, and how patient the link is. `in_flight` bounds the entries that wait for the
    hub's acknowledgement at any time."""

    host: str
    port: int
    connect_timeout_s: float
    retry_min_s: float
    retry_max_s: float
    ack_timeout_s: float
    in_flight: int


@dataclass
class LinkFigures:
    """What happened on the link since the agent started."""

    connected: bool = False
    connections: int = 0
    failures: int = 0
    published: int = 0
    resent: int = 0
    acknowledged: int = 0
    malformed: int = 0
    last_error: dict[str, object] | None = None


class Link:
    """Keeps one connection to the hub's broker. `tls` makes the context anew for each, since certificates
    change; `on_desired` gets each payload of the `desired` topic; `report` makes the reported state."""

    def __init__(
        self,
        *,
        device: str,
        terms: LinkTerms,
        tls: Callable[[], ssl.SSLContext],
        spool: Spool,
        on_desired: Callable[[bytes], None],
        report: Callable[[], ReportedState],
    ) -> None:
        self.figures = LinkFigures()
        self._device = device
        self._terms = terms
        self._tls = tls
        self._spool = spool
        self._on_desired = on_desired
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._report_due = False
        # Entries on their way, and when they were sent; and the last one that was ever sent.
        self._sent: dict[tuple[int, int], float] = {}
        self._after = (0, 0)

    def wake(self) -> None:
        """There may be something new in the spool. Any thread may call."""
        self._loop.call_soon_threadsafe(self._wake.set)

    def report(self) -> None:
        """The reported state has changed."""
        self._report_due = True
        self._wake.set()

    async def run(self) -> None:
        """Connects, and connects again, until cancelled; then says goodbye, so that the hub knows at once."""
        attempt = 0
        while True:
            try:
                await self._one_connection()
                attempt = 0
            except EdgeopsError as error:
                attempt += 1
                self.figures.failures += 1
                if self.figures.last_error is None or self.figures.last_error["message"] != error.message:
                    _log.warning("No link to the hub: %s", error)
                self.figures.last_error = error.to_dict()
            delay = min(self._terms.retry_max_s, self._terms.retry_min_s * 2 ** min(attempt, 30))
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    async def _one_connection(self) -> None:
        """Returns when a connection that stood has ended; raises if there never was one."""
        number = await asyncio.to_thread(self._spool.next_connection)
        connection = MqttConnection(
            client_id=self._device,
            tls=self._tls(),
            will=self._state(number, online=False),
            timeout_s=self._terms.connect_timeout_s,
        )
        stood = False
        try:
            inbound = [topics.topic(self._device, channel) for channel in topics.DEVICE_READS]
            await connection.open(self._terms.host, self._terms.port, inbound)
            birth = self._state(number, online=True)
            connection.publish(birth.topic, birth.payload, retain=True)
            stood = self.figures.connected = True
            self.figures.connections += 1
            self.figures.last_error = None
            self._sent, self._after, self._report_due = {}, (0, 0), True
            sender = asyncio.create_task(self._send_for_ever(connection))
            try:
                await self._receive(connection, sender)
            finally:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sender
        finally:
            self.figures.connected = False
            await asyncio.shield(connection.close(self._state(number, online=False) if stood else None))

    async def _receive(self, connection: MqttConnection, sender: asyncio.Task[None]) -> None:
        while True:
            receiving = asyncio.ensure_future(connection.receive())
            try:
                await asyncio.wait((receiving, sender), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not receiving.done():
                    receiving.cancel()
            if sender.done():
                sender.result()  # it never returns, so this raises what ended it
            message = receiving.result()
            if isinstance(message, Closed):
                _log.info("The link to the hub broke: %s", message.reason)
                return
            await self._take(message)

    async def _take(self, message: Message) -> None:
        parsed = topics.parse(message.topic)
        if parsed is None or parsed.device != self._device:
            self.figures.malformed += 1
        elif parsed.channel == "desired":
            self._on_desired(message.payload)
        elif parsed.channel == "acks":
            await self._acknowledged(message.payload)

    async def _acknowledged(self, payload: bytes) -> None:
        try:
            ack = decode(payload, Ack)
        except BadRequestError as error:
            self.figures.malformed += 1
            _log.warning("An acknowledgement that is none: %s", error)
            return
        if ack.device != self._device:
            self.figures.malformed += 1
            return
        self.figures.acknowledged += await asyncio.to_thread(self._spool.acknowledge, ack.pairs)
        for pair in ack.pairs:
            self._sent.pop(pair, None)
        self._wake.set()

    async def _send_for_ever(self, connection: MqttConnection) -> None:
        while True:
            self._wake.clear()
            if self._report_due:
                self._report_due = False
                payload = encode(self._report())
                connection.publish(topics.topic(self._device, "reported"), payload, retain=True)
            self._send_again_what_is_late()
            await self._send_entries(connection)
            timeout = None
            if self._sent:
                timeout = max(0.05, min(self._sent.values()) + self._terms.ack_timeout_s - time.monotonic())
            # Not wait_for: in Python 3.11 that can swallow a cancellation which comes with the wake-up
            # (https://github.com/python/cpython/issues/86296), and the sender would outlive its connection.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    def _send_again_what_is_late(self) -> None:
        """One late entry takes all that are on their way back to the start, so that order is kept."""
        if self._sent and min(self._sent.values()) + self._terms.ack_timeout_s <= time.monotonic():
            self.figures.resent += len(self._sent)
            self._sent, self._after = {}, (0, 0)

    async def _send_entries(self, connection: MqttConnection) -> None:
        room = self._terms.in_flight - len(self._sent)
        if room <= 0:
            return
        for entry in await asyncio.to_thread(self._spool.pending, room, after=self._after):
            if not connection.publish(topics.topic(self._device, entry.channel), entry.payload):
                return
            self._after = (entry.session, entry.sequence)
            self._sent[self._after] = time.monotonic()
            self.figures.published += 1

    def _state(self, number: int, *, online: bool) -> Will:
        state = DeviceState(
            device=self._device,
            session=self._spool.session,
            connection=number,
            online=online,
            at_ms=clock.now_ms(),
            agent_version=__version__,
        )
        return Will(topics.topic(self._device, "state"), encode(state))
