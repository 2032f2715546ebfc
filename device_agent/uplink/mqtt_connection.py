"""One MQTT 5 connection over mutual TLS, from its first byte to its last.

paho runs in its own thread; everything it says comes to the event loop by a queue. There is no automatic
reconnect: each connection has a last will of its own, so each is a new client.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgeops.errors import AccessError, EdgeopsError, TransportError

KEEPALIVE_S = 20
_CLOSE_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Will:
    """What the broker publishes, retained, when this connection breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Message:
    """A message that came in."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Closed:
    """The connection is gone; nothing comes after this."""

    reason: str


class MqttConnection:
    """A connection as `client_id`, which the broker takes only from a certificate with that name."""

    def __init__(self, *, client_id: str, tls: ssl.SSLContext, will: Will, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._inbox: asyncio.Queue[Message | Closed] = asyncio.Queue()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._subscribed: asyncio.Future[None] = self._loop.create_future()
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = timeout_s
        client.tls_set_context(tls)
        client.will_set(will.topic, will.payload, qos=1, retain=True)
        client.on_connect = self._handle_connect
        client.on_disconnect = self._handle_disconnect
        client.on_subscribe = self._handle_subscribe
        client.on_message = self._handle_message
        self._client = client

    async def open(self, host: str, port: int, topics: Sequence[str]) -> None:
        """Connects and subscribes (QoS 1). Raises `TransportError` when the broker cannot be reached or does
        not answer in time, `AccessError` when it refuses this device."""
        try:
            await asyncio.to_thread(self._client.connect, host, port, KEEPALIVE_S, clean_start=True)
        except (OSError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise TransportError(
                f"The broker at {host}:{port} cannot be reached ({why}).",
                remedy="Check the network, and that the hub runs.",
                subject=f"{host}:{port}",
            ) from error
        self._client.loop_start()
        await self._answer(self._connected, "connect")
        self._client.subscribe([(topic, 1) for topic in topics])
        await self._answer(self._subscribed, "subscribe")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Sends with QoS 1 and does not wait; False when the connection is gone already."""
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    async def receive(self) -> Message | Closed:
        """The next message, or the end."""
        return await self._inbox.get()

    async def close(self, last_words: Will | None = None) -> None:
        """Publishes `last_words`, retained, waits a moment for the broker to take them, and disconnects in
        order, so that the broker drops the will. Safe to call on a connection that is gone."""
        if last_words is not None:
            info = self._client.publish(last_words.topic, last_words.payload, qos=1, retain=True)
            if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                await asyncio.to_thread(info.wait_for_publish, _CLOSE_TIMEOUT_S)
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def _answer(self, future: asyncio.Future[None], what: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await future
        except TimeoutError:
            raise TransportError(f"The broker did not answer in time to {what}.") from None

    def _tell(self, future: asyncio.Future[None], error: EdgeopsError | None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # nobody may be waiting for it any more

        self._loop.call_soon_threadsafe(settle)

    # These run in paho's thread.

    def _handle_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        error = _refused("this device", code) if code.is_failure else None
        self._tell(self._connected, error)

    def _handle_subscribe(
        self, _client: Client, _data: Any, _mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        failed = next((code for code in codes if code.is_failure), None)
        self._tell(self._subscribed, None if failed is None else _refused("a subscription", failed))

    def _handle_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        came = Message(message.topic, bytes(message.payload))
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, came)

    def _handle_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        gone = TransportError(f"The broker closed the connection ({code}).")
        self._tell(self._connected, gone)
        self._tell(self._subscribed, gone)
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, Closed(str(code)))


def _refused(what: str, code: ReasonCode) -> AccessError:
    return AccessError(
        f"The broker refused {what} ({code}).",
        remedy="The device may have been revoked; enrol it again.",
        subject="mqtt",
    )
