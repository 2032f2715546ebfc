"""The ingest role end to end: real devices, real broker, a real process that may be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from paho.mqtt.enums import MQTTErrorCode

from cloud_hub.ingest.role import Instance
from cloud_hub.store.database import writing
from edgeops.errors import TransportError
from edgeops.messages import DeviceState, Event, ReportedState, UpdateStatus, encode
from edgeops.topics import topic
from edgeops_testkit.hub_mqtt import DeviceClient, IngestProcess, MqttHub, ingest_process, window
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def device(hub: MqttHub) -> Iterator[DeviceClient]:
    client = DeviceClient(hub.enrol("north-1"), hub.settings.mqtt_port).connect()
    yield client
    client.close()


def state(connection: int, online: bool) -> bytes:
    return encode(DeviceState(device="north-1", session=1, connection=connection, online=online, at_ms=1))


def test_windows_and_events_are_stored_and_acknowledged(hub: MqttHub, device: DeviceClient) -> None:
    with ingest_process(hub.settings):
        event = Event(device="north-1", session=1, sequence=2, at_ms=1, kind="note", detail={})
        device.send("windows", encode(window("north-1", 1)))
        device.send("events", encode(event))
        wait_until(lambda: device.acked == {(1, 1), (1, 2)}, 10, "both acknowledgements")
    assert hub.windows() == [("north-1", 1, 1)]
    assert hub.counters() == {"windows_stored": 1, "events_stored": 1}


def test_bad_messages_are_counted_once_and_the_good_ones_go_on(hub: MqttHub, device: DeviceClient) -> None:
    with ingest_process(hub.settings) as ingest:
        good = encode(window("north-1", 1))
        for payload in (b"", b"junk", good[:-1], bytes(1 << 20), good, good, encode(window("north-2", 1))):
            assert device.send("windows", payload) < 0x80
        assert device.publish(topic("north-1", "windows"), encode(window("north-1", 2)), qos=0) == 0
        wait_until(lambda: device.acked == {(1, 1), (1, 2)}, 10, "the acknowledgements")
        assert ingest.alive
    assert hub.windows() == [("north-1", 1, 1), ("north-1", 1, 2)]
    assert hub.counters() == {
        "windows_stored": 2,
        "windows_duplicate": 1,
        "messages_malformed": 4,
        "messages_foreign": 1,
    }


def test_what_was_sent_while_no_ingest_ran_is_there_afterwards(hub: MqttHub, device: DeviceClient) -> None:
    with ingest_process(hub.settings):
        device.send("windows", encode(window("north-1", 1)))
        wait_until(lambda: device.acked, 10, "the first acknowledgement")
    device.send("windows", encode(window("north-1", 2)))
    device.send("state", state(3, True), retain=True)
    with ingest_process(hub.settings):
        wait_until(lambda: device.acked == {(1, 1), (1, 2)}, 10, "the second acknowledgement")
        wait_until(lambda: hub.device("north-1").online, 10, "the state")
    assert hub.windows() == [("north-1", 1, 1), ("north-1", 1, 2)]
    assert hub.device("north-1").connection == 3


def test_a_hub_that_starts_learns_who_is_there(hub: MqttHub) -> None:
    """The broker retains `state`; a new subscriber is sent it. The will says when a device died."""
    device = DeviceClient(hub.enrol("north-1"), hub.settings.mqtt_port, will=state(5, False)).connect()
    device.send("state", state(5, True), retain=True)
    report = ReportedState(
        device="north-1",
        session=1,
        revision=1,
        generation=4,
        running=None,
        update=UpdateStatus(phase="downloading", generation=4, progress=0.5),
        at_ms=1,
    )
    with ingest_process(hub.settings):
        wait_until(lambda: hub.device("north-1").online, 10, "the retained state")
        device.send("reported", encode(report))
        wait_until(lambda: hub.device("north-1").update_phase == "downloading", 10, "the report")
        socket = device.client.socket()
        assert socket is not None
        socket.shutdown(2)  # no DISCONNECT: the broker publishes the will
        wait_until(lambda: not hub.device("north-1").online, 10, "the will")
    row = hub.device("north-1")
    assert (row.connection, row.reported_generation, row.update_progress) == (5, 4, 0.5)
    device.close()


def test_two_processes_share_the_windows(hub: MqttHub, device: DeviceClient) -> None:
    with ingest_process(hub.settings), ingest_process(hub.settings):
        for sequence in range(1, 41):
            device.send("windows", encode(window("north-1", sequence)))
        wait_until(lambda: len(device.acked) == 40, 10, "all acknowledgements")
    assert len(hub.windows()) == 40
    assert hub.counters() == {"windows_stored": 40}


def test_each_process_has_a_number_of_its_own_and_the_next_takes_it_over(hub: MqttHub) -> None:
    folder = hub.settings.state_dir
    first, second = Instance.claim(folder), Instance.claim(folder)
    assert (first.number, second.number) == (0, 1)
    first.release()
    third = Instance.claim(folder)
    assert third.number == 0
    second.release()
    third.release()


def test_a_database_that_is_busy_delays_and_loses_nothing(hub: MqttHub, device: DeviceClient) -> None:
    with ingest_process(hub.settings):
        with writing(hub.services.engine):
            device.send("windows", encode(window("north-1", 1)))
            assert device.acked == set()
        wait_until(lambda: device.acked == {(1, 1)}, 20, "the acknowledgement")
    assert hub.counters() == {"windows_stored": 1}


def send_until_acked(device: DeviceClient, sequences: set[int], disturb: list[int], action: object) -> None:
    """As an agent's spool does it: sends what is not acknowledged, again and again; `action` is called
    before each of the rounds in `disturb`."""
    assert callable(action)
    for number in range(60):
        if number in disturb:
            action()
        if device.client.is_connected():
            for sequence in sorted(sequences - {s for _, s in device.acked}):
                info = device.client.publish(
                    topic(device.name, "windows"), encode(window(device.name, sequence)), qos=1
                )
                assert info.rc in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN)
        try:
            wait_until(lambda: {s for _, s in device.acked} == sequences, 1, "all acknowledgements")
        except AssertionError:
            continue
        return
    raise AssertionError(f"never acknowledged: {sorted(sequences - {s for _, s in device.acked})[:5]} …")


@pytest.mark.chaos
def test_ingest_killed_in_the_middle_loses_nothing_and_counts_nothing_twice(
    hub: MqttHub, device: DeviceClient
) -> None:
    ingest = IngestProcess(hub.settings).start()
    sequences = set(range(1, 1501))

    def kill() -> None:
        before = len(hub.windows())
        for sequence in range(1, 301):
            device.client.publish(topic("north-1", "windows"), encode(window("north-1", sequence)), qos=1)
        wait_until(lambda: len(hub.windows()) > before or before >= 300, 10, "a batch to be stored")
        ingest.kill()
        ingest.start()

    try:
        send_until_acked(device, sequences, [0, 1, 2], kill)
    finally:
        ingest.stop()
    assert hub.windows() == [("north-1", 1, sequence) for sequence in sorted(sequences)]
    assert hub.counters()["windows_stored"] == len(sequences)


@pytest.mark.chaos
def test_a_killed_broker_loses_nothing_and_counts_nothing_twice(hub: MqttHub) -> None:
    device = DeviceClient(hub.enrol("north-1"), hub.settings.mqtt_port, reconnect=True).connect()
    sequences = set(range(1, 1001))

    def kill() -> None:
        pid = hub.broker.pid
        assert pid is not None
        for sequence in range(1, 301):
            device.client.publish(topic("north-1", "windows"), encode(window("north-1", sequence)), qos=1)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not hub.broker.running, 10, "the broker to die")
        hub.broker.start()
        hub.broker.wait_ready()

    with ingest_process(hub.settings) as ingest:
        send_until_acked(device, sequences, [0, 1], kill)
        assert ingest.alive
    device.close()
    assert hub.windows() == [("north-1", 1, sequence) for sequence in sorted(sequences)]
    assert hub.counters()["windows_stored"] == len(sequences)


def test_a_missing_broker_is_a_transport_error(hub: MqttHub) -> None:
    from cloud_hub.broker.link import HubLink

    hub.broker.stop()
    with pytest.raises(TransportError, match="edgeops hub serve"):
        HubLink(hub.settings, "hub:test").open(timeout_s=0.2)
