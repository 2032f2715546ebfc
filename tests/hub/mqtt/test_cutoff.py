"""Revoked means out: at once, on connections that are open, and however the device tries to come back."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest

from cloud_hub.broker.cutoff import cut_off
from cloud_hub.broker.link import HubLink
from cloud_hub.trust.enrolment import revoke
from edgeops.clock import now_ms
from edgeops.messages import DeviceState, encode
from edgeops.topics import all_devices, topic
from edgeops_testkit.hub_core import token
from edgeops_testkit.hub_mqtt import DeviceClient, DeviceFiles, MqttHub, ingest_process
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow

NOT_AUTHORIZED = 0x87
CONNECT = bytes.fromhex("100e00044d5154540502003c00000178")
DISCONNECT = bytes.fromhex("e000")


def revoke_device(hub: MqttHub, name: str) -> None:
    """As the operators' API does it."""
    revoke(
        hub.services.engine,
        hub.services.authority,
        device=name,
        actor="operator",
        now_ms=now_ms(),
        on_revoked=lambda device: cut_off(hub.settings, device),
    )


def is_let_in(hub: MqttHub, files: DeviceFiles) -> bool:
    return bool(tls_answer(hub, files.context())[0])


def tls_answer(
    hub: MqttHub, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bytes, ssl.SSLSession | None, bool]:
    """The broker's answer to CONNECT, the TLS session, and whether it was a resumed one."""
    with socket.create_connection(("127.0.0.1", hub.settings.mqtt_port), timeout=10) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as tls:
                tls.sendall(CONNECT)
                answer = tls.recv(64)
                # A connection that ends in order: the server may keep its session.
                tls.sendall(DISCONNECT)
                assert tls.recv(64) == b""
                return answer, tls.session, bool(tls.session_reused)
        except (ssl.SSLError, ConnectionError):
            return b"", None, False


@pytest.fixture
def device(hub: MqttHub) -> Iterator[DeviceClient]:
    client = DeviceClient(hub.enrol("north-1"), hub.settings.mqtt_port).connect()
    yield client
    client.close()


def test_the_connection_ends_and_none_follows(hub: MqttHub, device: DeviceClient) -> None:
    files = hub.enrol("north-2")
    other = DeviceClient(files, hub.settings.mqtt_port).connect()
    revoke_device(hub, "north-1")
    wait_until(lambda: device.disconnects, 5, "the connection to end")
    own = DeviceFiles("north-1", *(hub.root / "north-1" / n for n in ("device.crt", "device.key", "ca.pem")))
    assert not is_let_in(hub, own)
    assert is_let_in(hub, hub.enrol("north-3"))
    assert other.send("windows", b"x") < 0x80 and other.disconnects == []
    other.close()


def test_several_revoked_within_a_second_are_all_kept_out(hub: MqttHub) -> None:
    """The list's time has whole seconds, so these lists bear the same one."""
    files = [hub.enrol(f"north-{number}") for number in range(4)]
    for each in files:
        assert is_let_in(hub, each)
    for each in files:
        revoke_device(hub, each.name)
    assert [is_let_in(hub, each) for each in files] == [False] * 4


def test_it_stays_out_when_the_broker_starts_again(hub: MqttHub) -> None:
    files = hub.enrol("north-1")
    hub.broker.stop()
    revoke_device(hub, "north-1")  # with no broker there is nothing to tell
    hub.broker.start()
    hub.broker.wait_ready()
    assert not is_let_in(hub, files)


def test_a_tls_session_from_before_does_not_let_it_back_in(hub: MqttHub) -> None:
    """A resumed session skips the certificate's check, so the broker must resume none."""
    files = hub.enrol("north-1")
    context = files.context()
    answer, session, _ = tls_answer(hub, context)
    assert answer
    answer, _, resumed = tls_answer(hub, context, session)
    assert answer and not resumed
    revoke_device(hub, "north-1")
    assert tls_answer(hub, context, session)[0] == b""


def test_a_connection_that_was_half_open_can_do_nothing(hub: MqttHub) -> None:
    """TLS done before the revocation, MQTT only after it: the certificate is not checked again."""
    files = hub.enrol("north-1")
    link = HubLink(hub.settings, "hub:test")
    link.open()
    with (
        socket.create_connection(("127.0.0.1", hub.settings.mqtt_port), timeout=10) as raw,
        files.context().wrap_socket(raw, server_hostname="127.0.0.1") as tls,
    ):
        # TLS 1.3: the server has checked the certificate once it answers, so let it answer something.
        revoke_device(hub, "north-1")
        try:
            tls.sendall(CONNECT)
            let_in = bool(tls.recv(64))
            if let_in:
                tls.sendall(publish(topic("north-1", "windows")))
                assert tls.recv(64)[-1] == NOT_AUTHORIZED
        except (ssl.SSLError, ConnectionError):
            let_in = False
    link.close()
    assert not is_let_in(hub, files)


def publish(to: str) -> bytes:
    """PUBLISH, QoS 1, packet id 1, no properties, one byte (MQTT 5, 3.3)."""
    body = len(to).to_bytes(2) + to.encode() + b"\x00\x01\x00x"
    return bytes([0x32, len(body)]) + body


def test_it_counts_as_offline_and_its_retained_state_is_gone(hub: MqttHub) -> None:
    birth = DeviceState(device="north-1", session=1, connection=1, online=True, at_ms=1)
    device = DeviceClient(hub.enrol("north-1"), hub.settings.mqtt_port, will=encode(birth)).connect()
    with ingest_process(hub.settings):
        device.send("state", encode(birth), retain=True)
        wait_until(lambda: hub.device("north-1").online, 10, "the birth to be stored")
        revoke_device(hub, "north-1")
        device.close()
        assert not hub.device("north-1").online
        seen: list[str] = []
        link = HubLink(
            hub.settings,
            "hub:test",
            subscriptions=[(all_devices("state"), 1), (all_devices("events"), 1)],
            on_message=lambda message, _epoch: seen.append(message.topic),
        )
        link.open()
        assert all(link.publish_and_wait([(topic("north-9", "events"), b"last")], retain=False))
        wait_until(lambda: seen, 10, "what the broker retains, and the last message")
        link.close()
        assert seen == [topic("north-9", "events")]


def test_a_name_that_enrols_again_is_let_in_with_its_new_certificate(
    hub: MqttHub, device: DeviceClient
) -> None:
    from cloud_hub.trust.enrolment import enroll
    from edgeops_testkit.hub_core import DeviceKey

    revoke_device(hub, "north-1")
    key = DeviceKey.new()
    content = token(hub.services, labels={"site": "north"}, reenroll=True)
    issued = enroll(
        hub.services.engine,
        hub.services.authority,
        token_id=content["id"],
        secret=content["secret"],
        device="north-1",
        csr_pem=key.csr().encode(),
        now_ms=now_ms(),
        on_revoked=lambda name: cut_off(hub.settings, name),
    )
    old = DeviceFiles("north-1", *(hub.root / "north-1" / n for n in ("device.crt", "device.key", "ca.pem")))
    new = DeviceFiles.write(
        hub.root / "north-1-new", "north-1", issued.pem, key.pem, hub.services.authority.ca_pem
    )
    assert not is_let_in(hub, old)
    client = DeviceClient(new, hub.settings.mqtt_port).connect()
    assert client.send("windows", b"x") < 0x80
    client.close()
