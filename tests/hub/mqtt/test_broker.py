"""The broker as a child process: started, found again, stopped, and what it says when it cannot start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cloud_hub.broker import files as broker_files
from cloud_hub.broker.link import probe
from cloud_hub.broker.process import Broker, find_mosquitto, running_pid
from cloud_hub.settings import HubSettings
from edgeops.errors import ConfigError, TransportError
from edgeops.messages import MAX_MESSAGE_BYTES
from edgeops.topics import topic
from edgeops_testkit.hub_core import open_hub
from edgeops_testkit.hub_mqtt import DeviceClient, MqttHub
from edgeops_testkit.waiting import wait_until

DEPLOY = Path(__file__).parents[3] / "deploy" / "mosquitto"


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_it_runs_as_another_user_and_keeps_its_files_to_itself(hub: MqttHub) -> None:
    pid = hub.broker.pid
    assert pid is not None and pid == running_pid(hub.settings)
    folder = broker_files.broker_folder(hub.settings)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()} == {0o600}
    if os.geteuid() == 0:
        assert Path(f"/proc/{pid}").stat().st_uid != 0


@pytest.mark.slow
def test_it_stops_and_starts_again(hub: MqttHub) -> None:
    pid = hub.broker.pid
    assert pid is not None
    hub.broker.stop()
    assert gone(pid) and running_pid(hub.settings) is None
    with pytest.raises(TransportError, match="does not answer"):
        probe(hub.settings, timeout_s=0.2)
    hub.broker.start()
    hub.broker.wait_ready()
    assert hub.broker.running and hub.broker.pid != pid
    hub.broker.start()  # nothing happens while it runs
    assert hub.broker.pid == running_pid(hub.settings)


@pytest.mark.slow
def test_a_broker_that_died_is_started_again(hub: MqttHub) -> None:
    pid = hub.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not hub.broker.running, 10, "the broker to die")
    hub.broker.start()
    hub.broker.wait_ready()
    assert hub.broker.running


@pytest.mark.slow
@pytest.mark.chaos
def test_the_broker_of_a_killed_hub_is_found_and_stopped(tmp_path: Path) -> None:
    program = """
import sys, time
from cloud_hub.broker.process import Broker
from cloud_hub.settings import HubSettings
broker = Broker(HubSettings.model_validate_json(sys.argv[1]))
broker.start()
broker.wait_ready()
print(broker.pid, flush=True)
sys.stdin.read()
"""
    with open_hub(tmp_path) as services:
        settings = services.settings
        command = [sys.executable, "-P", "-c", program, settings.model_dump_json()]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as earlier:
            assert earlier.stdout is not None
            left_behind = int(earlier.stdout.readline())
            earlier.kill()
        broker = Broker(settings)
        try:
            assert not gone(left_behind)
            broker.start()
            broker.wait_ready()
            assert gone(left_behind)
            assert broker.pid == running_pid(settings) != left_behind
        finally:
            broker.stop()
            if not gone(left_behind):
                os.kill(left_behind, signal.SIGKILL)


@pytest.mark.slow
def test_a_pid_file_that_names_another_process_harms_nobody(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services, subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            folder = broker_files.broker_folder(services.settings)
            folder.mkdir(exist_ok=True)
            (folder / broker_files.PID).write_text(f"{bystander.pid}\n")
            broker = Broker(services.settings)
            broker.start()
            broker.wait_ready()
            broker.stop()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services, socket.create_server(("127.0.0.1", 0)) as other:
        settings = services.settings.model_copy(update={"mqtt_port": other.getsockname()[1]})
        with pytest.raises(ConfigError, match=rf"port {settings.mqtt_port} .* is taken") as raised:
            Broker(settings).start()
        assert raised.value.remedy is not None and "EDGEOPS_HUB_MQTT_PORT" in raised.value.remedy


def test_a_missing_mosquitto_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get install mosquitto"):
        find_mosquitto([str(tmp_path)])
    (tmp_path / "mosquitto").write_text("#!/bin/sh\n")
    (tmp_path / "mosquitto").chmod(0o755)
    assert find_mosquitto([]) == tmp_path / "mosquitto"


@pytest.mark.slow
def test_a_broker_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services:
        services.authority.files.server.key.write_bytes(b"no key")
        broker = Broker(services.settings)
        broker.start()
        with pytest.raises(ConfigError, match="server key file") as raised:
            broker.wait_ready()
        assert raised.value.details["status"] != 0
        broker.stop()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    settings = HubSettings(state_dir=tmp_path / ("x" * 100))
    with pytest.raises(ConfigError, match="longer than the 103 bytes"):
        broker_files.socket_path(settings)


@pytest.mark.slow
def test_there_is_no_way_in_but_the_two(hub: MqttHub) -> None:
    process = psutil.Process(hub.broker.pid)
    listening = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", hub.settings.mqtt_port)]
    assert {c.laddr for c in process.net_connections("unix") if c.laddr} == {broker_files.SOCKET}


@pytest.mark.slow
def test_a_packet_above_the_limit_ends_its_connection(hub: MqttHub) -> None:
    device = DeviceClient(hub.enrol("north-1"), hub.settings.mqtt_port).connect()
    other = DeviceClient(hub.enrol("north-2"), hub.settings.mqtt_port).connect()
    try:
        assert device.send("windows", bytes(MAX_MESSAGE_BYTES)) < 0x80
        device.client.publish(topic("north-1", "windows"), bytes(broker_files.MAX_PACKET_BYTES), qos=1)
        wait_until(lambda: device.disconnects, 10, "the connection to end")
        assert other.send("windows", b"small") < 0x80
    finally:
        device.close()
        other.close()


def test_what_deploy_shows_is_what_the_hub_writes() -> None:
    settings = HubSettings(state_dir=Path("/var/lib/edgeops/hub"))
    assert (DEPLOY / "mosquitto.conf").read_text() == broker_files.configuration(settings)
    assert (DEPLOY / "openssl.cnf").read_text() == broker_files.openssl_configuration()
    assert (DEPLOY / "devices.acl").read_text() == broker_files.device_acl(["a-revoked-device"])
    assert (DEPLOY / "hub.acl").read_text() == broker_files.hub_acl()
