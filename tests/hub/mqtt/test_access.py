"""Who may do what at the broker: devices by certificate, the hub by its socket, nobody else at all."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_hub.broker.link import HubLink
from edgeops.errors import BadRequestError
from edgeops.topics import CHANNELS, DEVICE_READS, DEVICE_WRITES, Channel, topic
from edgeops_testkit.hub_core import DeviceKey
from edgeops_testkit.hub_mqtt import DeviceClient, DeviceFiles, MqttHub
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow

NOT_AUTHORIZED = 0x87
# MQTT 5, 3.1: CONNECT, clean start, keep alive 60 s, client id "x".
CONNECT = bytes.fromhex("100e00044d5154540502003c00000178")


@pytest.fixture
def device(hub: MqttHub) -> Iterator[DeviceClient]:
    client = DeviceClient(hub.enrol("north-1"), hub.settings.mqtt_port).connect()
    yield client
    client.close()


@pytest.fixture
def link(hub: MqttHub) -> Iterator[HubLink]:
    opened = HubLink(hub.settings, "hub:test")
    opened.open()
    yield opened
    opened.close()


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_device_writes_its_own_four_topics_and_nothing_else(device: DeviceClient, channel: Channel) -> None:
    own = device.publish(topic("north-1", channel), b"payload")
    assert own < 0x80 if channel in DEVICE_WRITES else own == NOT_AUTHORIZED
    assert device.publish(topic("north-2", channel), b"payload") == NOT_AUTHORIZED
    assert device.publish(f"edgeops/v1/elsewhere/{channel}", b"payload") == NOT_AUTHORIZED


def test_a_device_reads_its_own_two_topics_and_nothing_else(device: DeviceClient, link: HubLink) -> None:
    device.subscribe("#")
    device.subscribe("$share/ingest/edgeops/v1/devices/+/windows")
    messages = [(topic(name, channel), b"x") for name in ("north-1", "north-2") for channel in CHANNELS]
    assert all(link.publish_and_wait([*messages, (topic("north-1", "acks"), b"last")], retain=False))
    # Deliveries keep their order, so what is not here by now does not come.
    wait_until(lambda: (topic("north-1", "acks"), b"last") in device.messages, 10, "the last message")
    assert {where for where, _ in device.messages} == {topic("north-1", channel) for channel in DEVICE_READS}


def test_the_name_in_the_certificate_is_the_client_id(hub: MqttHub, device: DeviceClient) -> None:
    """A device that asks for another's client id neither ends its connection nor takes its session."""
    thief = DeviceClient(hub.enrol("north-2"), hub.settings.mqtt_port, client_id="north-1").connect()
    try:
        assert thief.send("windows", b"x") < 0x80
        assert device.send("windows", b"x") < 0x80
        assert device.disconnects == []
    finally:
        thief.close()


def test_no_name_gains_the_hubs_rights(hub: MqttHub, link: HubLink) -> None:
    """Rights hang on the socket. And a name like those of the hub's clients cannot be had at all, which
    keeps devices from taking over their sessions."""
    authority = hub.services.authority
    for name in ("hub", "hub-test", "hub:other", "+", "#", "north-1/desired"):
        key = DeviceKey.new()
        issued = authority.issue_device(key.csr().encode(), name)
        folder = hub.root / f"files-{len(name)}-{ord(name[0])}"
        files = DeviceFiles.write(folder, name, issued.pem, key.pem, authority.ca_pem)
        client = DeviceClient(files, hub.settings.mqtt_port)
        client.client.connect("127.0.0.1", hub.settings.mqtt_port)
        client.client.loop_start()
        wait_until(lambda c=client: c.connects, 10, "an answer")  # type: ignore[misc]
        assert client.publish(topic("north-1", "desired"), b"forged") == NOT_AUTHORIZED
        assert client.publish(topic("north-1", "windows"), b"forged") == NOT_AUTHORIZED
        client.close()
    with pytest.raises(BadRequestError):
        hub.enrol("hub:test")
    assert link.connected and link.epoch == 1


def foreign_files(hub: MqttHub, tmp_path: Path) -> DeviceFiles:
    """A certificate for the same name from an authority that is not this hub's."""
    from cloud_hub.settings import HubSettings
    from cloud_hub.trust.authority import prepare

    other = prepare(HubSettings(state_dir=tmp_path / "other"))
    key = DeviceKey.new()
    issued = other.issue_device(key.csr().encode(), "north-1")
    return DeviceFiles.write(
        hub.root / "foreign", "north-1", issued.pem, key.pem, hub.services.authority.ca_pem
    )


def answer_to(hub: MqttHub, context: ssl.SSLContext | None) -> bytes:
    """What the broker answers to CONNECT; nothing if it refuses the connection."""
    with socket.create_connection(("127.0.0.1", hub.settings.mqtt_port), timeout=10) as raw:
        try:
            if context is None:
                raw.sendall(CONNECT)
                return raw.recv(4)
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
                tls.sendall(CONNECT)
                return tls.recv(4)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_only_certificates_of_this_hubs_authority_are_let_in(hub: MqttHub, tmp_path: Path) -> None:
    own = hub.enrol("north-1")
    nobody = ssl.create_default_context(cafile=own.ca)
    server = ssl.create_default_context(cafile=own.ca)
    server_files = hub.services.authority.files.server
    server.load_cert_chain(server_files.certificate, server_files.key)
    old = own.context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert answer_to(hub, own.context())[:1] == b"\x20"
    assert answer_to(hub, foreign_files(hub, tmp_path).context()) == b""
    assert answer_to(hub, nobody) == b""
    assert answer_to(hub, server) == b""
    assert answer_to(hub, old) == b""
    assert answer_to(hub, None) == b""


def test_the_hub_says_that_the_broker_is_the_authoritys(hub: MqttHub, tmp_path: Path) -> None:
    """A device that trusts another authority does not talk to this broker."""
    own = hub.enrol("north-1")
    foreign_files(hub, tmp_path)
    context = ssl.create_default_context(cafile=tmp_path / "other" / "authority" / "ca.crt")
    context.load_cert_chain(own.certificate, own.key)
    with (
        socket.create_connection(("127.0.0.1", hub.settings.mqtt_port), timeout=10) as raw,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")
