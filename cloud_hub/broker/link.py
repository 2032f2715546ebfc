"""The hub's own MQTT 5 connections to its broker: one way to make them.

They go through the broker's Unix socket (see `cloud_hub.broker.files`), so whoever may open it is the hub.
Client ids begin with `hub:`; a device's id is its name, and no name has a colon.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cloud_hub.broker.files import socket_path
from cloud_hub.settings import HubSettings
from edgeops.errors import TransportError

logger = logging.getLogger(__name__)

KEEPALIVE_S = 30
# The broker is on this machine and starts within 50 ms: it pays to ask often.
_RECONNECT_MIN_S = 1
_RECONNECT_MAX_S = 2
# Publications under way at once; the broker takes as many (see `broker_files.MAX_INFLIGHT_MESSAGES`).
_MAX_INFLIGHT = 1_000

OnMessage = Callable[[MQTTMessage, int], None]


class HubLink:
    """A connection to the broker that comes back by itself, with a thread of its own.

    `epoch` counts the connections so far, `session_present` says whether the broker still had this
    client's session at the last one. Subscriptions (topic filter, QoS) are made anew at each connection,
    since a broker that was killed forgets them. `on_message(message, epoch)` and `on_connected()` run on
    the link's thread and must not block.
    """

    def __init__(
        self,
        settings: HubSettings,
        client_id: str,
        *,
        subscriptions: Sequence[tuple[str, int]] = (),
        on_message: OnMessage | None = None,
        on_connected: Callable[[], None] | None = None,
        manual_ack: bool = False,
        session_expiry_s: int = 0,
        receive_maximum: int = 100,
    ) -> None:
        self._path = str(socket_path(settings))
        self._subscriptions = list(subscriptions)
        self._on_message = on_message
        self._on_connected = on_connected
        self._keep_session = session_expiry_s > 0
        self._connected = threading.Event()
        # The broker has confirmed the subscriptions: from now on nothing that is published is missed.
        self._subscribed = threading.Event()
        self._refusal: str | None = None
        self._refused: set[int] = set()
        self.epoch = 0
        self.session_present = False

        self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._properties.SessionExpiryInterval = session_expiry_s
        self._properties.ReceiveMaximum = receive_maximum
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            transport="unix",
            manual_ack=manual_ack,
        )
        client.max_inflight_messages_set(_MAX_INFLIGHT)
        client.reconnect_delay_set(_RECONNECT_MIN_S, _RECONNECT_MAX_S)
        client.on_connect = self._handle_connect
        client.on_disconnect = self._handle_disconnect
        client.on_subscribe = self._handle_subscribe
        client.on_message = self._handle_message
        client.on_publish = self._handle_publish
        self._client = client

    def open(self, timeout_s: float = 10.0) -> None:
        """Connects and subscribes. Raises `TransportError` if the broker does not answer in time, or
        refuses."""
        self._client.connect_async(
            self._path,
            keepalive=KEEPALIVE_S,
            clean_start=not self._keep_session,
            properties=self._properties,
        )
        self._client.loop_start()
        ready = self._subscribed if self._subscriptions else self._connected
        if not ready.wait(timeout_s):
            self.close()
            why = f"refused the hub ({self._refusal})" if self._refusal else "does not answer"
            raise TransportError(
                f"The broker {why}.",
                remedy="Check that edgeops hub serve runs on this machine, and its log.",
                subject=self._path,
            )

    def close(self) -> None:
        """Disconnects and ends the thread. The broker keeps the session if one was asked for."""
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection that is open now."""
        return self._connected.is_set()

    def acknowledge(self, packet_id: int, epoch: int) -> None:
        """PUBACK for a message that arrived in connection `epoch` (only with `manual_ack`).

        Does nothing once that connection is gone: the broker sends the message again, and a broker
        that forgot the session may have given its packet id to another message. A message of QoS 0 has no
        packet id (0) and needs none.
        """
        if packet_id and epoch == self.epoch and self._connected.is_set():
            self._client.ack(packet_id, 1)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Sends with QoS 1 and does not wait; what is under way when the connection breaks may be lost."""
        self._client.publish(topic, payload, qos=1, retain=retain)

    def publish_and_wait(
        self, messages: Sequence[tuple[str, bytes]], *, retain: bool, timeout_s: float = 10.0
    ) -> list[bool]:
        """Sends with QoS 1; says for each message whether the broker has taken it in time.

        One that was not taken may still get there, ahead of what is published later.
        """
        sent = [self._client.publish(topic, payload, qos=1, retain=retain) for topic, payload in messages]
        deadline = time.monotonic() + timeout_s
        return [self._was_taken(info, deadline) for info in sent]

    def _was_taken(self, info: MQTTMessageInfo, deadline: float) -> bool:
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        info.wait_for_publish(max(0.0, deadline - time.monotonic()))
        if info.mid in self._refused:
            self._refused.discard(info.mid)
            return False
        return info.is_published()

    def _handle_connect(
        self,
        client: Client,
        _userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            return
        self.epoch += 1
        self.session_present = flags.session_present
        if self._subscriptions:
            client.subscribe(self._subscriptions)
        self._connected.set()
        if self._on_connected is not None:
            self._on_connected()

    def _handle_disconnect(
        self,
        _client: Client,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._connected.clear()
        self._subscribed.clear()
        if reason.is_failure:
            logger.warning("The connection to the broker broke (%s); trying again.", reason)

    def _handle_subscribe(
        self,
        _client: Client,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refused = [reason for reason in reasons if reason.is_failure]
        if refused:
            self._refusal = f"a subscription: {refused[0]}"
            logger.error("The broker refused a subscription (%s).", refused[0])
        else:
            self._subscribed.set()

    def _handle_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        if self._on_message is not None:
            self._on_message(message, self.epoch)

    def _handle_publish(
        self, _client: Client, _userdata: object, mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        # Runs before the message's own info is marked as published.
        if reason.is_failure:
            self._refused.add(mid)
            logger.warning("The broker refused a publication (%s).", reason)


def probe(settings: HubSettings, *, timeout_s: float) -> None:
    """Connects once and disconnects. Raises `TransportError` if the broker does not answer in time."""
    link = HubLink(settings, f"hub:probe:{os.getpid()}")
    link.open(timeout_s)
    link.close()


def take_over(settings: HubSettings, client_id: str, *, timeout_s: float = 10.0) -> None:
    """Ends the connection and the session of whichever client bears this id (MQTT 5, 3.1.4: the server
    closes the older connection), by connecting under it for a moment. Raises `TransportError`."""
    link = HubLink(settings, client_id)
    link.open(timeout_s)
    link.close()
