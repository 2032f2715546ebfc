"""`edgeops hub serve` as a whole: real processes, a real broker, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cloud_hub.broker.process import running_pid
from cloud_hub.processes.prepare import prepare
from cloud_hub.settings import HubSettings
from cloud_hub.trust.access import read_operator_token
from edgeops.errors import ConfigError
from edgeops.settings import load
from edgeops_testkit.waiting import free_port, wait_until

EDGEOPS = str(Path(sys.executable).with_name("edgeops"))
READY_TIMEOUT_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass
class Hub:
    """A hub as a process of its own, started as an operator does."""

    root: Path
    settings: HubSettings
    process: subprocess.Popen[str] | None = None

    def environment(self) -> dict[str, str]:
        ports = {
            f"EDGEOPS_HUB_{name.upper()}": str(getattr(self.settings, name))
            for name in ("api_port", "device_port", "gateway_port", "mqtt_port")
        }
        return {**os.environ, "EDGEOPS_HOME": str(self.root), **ports}

    def start(self) -> dict[str, object]:
        """Starts it and returns what it says when it is ready."""
        with (self.root / "hub.log").open("a") as log:
            self.process = subprocess.Popen(
                [EDGEOPS, "hub", "serve", "--json"],
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        ready: dict[str, object] = json.loads(line)
        return ready

    def log(self) -> str:
        return (self.root / "hub.log").read_text()

    def processes(self) -> dict[str, int]:
        """Process ids by role, and the broker's, as they run now."""
        assert self.process is not None
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                command = child.cmdline()
            except psutil.Error:
                continue  # it has just died
            if "cloud_hub.processes.role" in command:
                found[command[command.index("cloud_hub.processes.role") + 1]] = child.pid
            elif command and command[0].endswith("mosquitto"):
                found["broker"] = child.pid
        return found

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=60)

    def status(self, method: str, path: str) -> int:
        """The status of an answer, after redirections."""
        url = f"http://127.0.0.1:{self.settings.api_port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.settings.api_port}/readyz", timeout=5
            ) as got:
                return bool(got.status == 200)
        except OSError:
            return False


def alive(pids: dict[str, int]) -> set[str]:
    """Those that still run. A number that the kernel gave to something else does not count."""
    running = set()
    for name, pid in pids.items():
        try:
            command = psutil.Process(pid).cmdline()
        except psutil.Error:
            continue
        if "cloud_hub.processes.role" in command or (command and command[0].endswith("mosquitto")):
            running.add(name)
    return running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    ports = {f"{name}_port": free_port() for name in ("api", "device", "gateway", "mqtt")}
    made = Hub(tmp_path, load(HubSettings, state_dir=tmp_path / "state" / "hub", **ports))
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


def test_it_starts_answers_and_ends_without_a_trace(hub: Hub) -> None:
    ready = hub.start()
    assert ready["event"] == "ready"
    assert ready["api_url"] == f"http://127.0.0.1:{hub.settings.api_port}"
    assert hub.answers()
    assert [hub.status("GET", path) for path in ("/api/v1/nothing", "/api/v1/devices")] == [404, 401]
    # The dashboard takes every other path, and must not answer for the API.
    assert hub.status("DELETE", "/api/v1/devices") == 405
    assert hub.status("GET", "/") == 200, "the sign-in page"
    pids = hub.processes()
    assert set(pids) == {"api", "control", "gateway", "ingest", "broker"}
    assert hub.stop() == 0
    assert alive(pids) == set()
    assert list((hub.settings.state_dir / "run").glob("*.pid")) == []
    token = read_operator_token(hub.settings)
    assert token not in hub.log()
    secret_modes = {path.stat().st_mode & 0o777 for path in hub.settings.state_dir.rglob("admin.token")}
    assert secret_modes == {0o600}
    # Everything is there for a second start, which makes nothing anew.
    again = hub.start()
    assert read_operator_token(hub.settings) == token
    assert again["state_dir"] == ready["state_dir"]


@pytest.mark.chaos
def test_what_dies_is_started_again(hub: Hub) -> None:
    hub.start()
    before = hub.processes()
    for name, pid in before.items():
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda name=name, pid=pid: hub.processes().get(name, pid) != pid,  # type: ignore[misc]
            READY_TIMEOUT_S,
            f"a new {name}",
        )
    wait_until(hub.answers, READY_TIMEOUT_S, "the operators' API")
    after = hub.processes()
    assert set(after) == set(before)
    assert set(after.values()).isdisjoint(before.values())


@pytest.mark.chaos
def test_a_killed_hub_leaves_nothing_that_the_next_one_cannot_clear(hub: Hub) -> None:
    hub.start()
    pids = hub.processes()
    # One role does not end when it is asked to, as if it hung.
    os.kill(pids["ingest"], signal.SIGSTOP)
    assert hub.process is not None
    hub.process.kill()
    hub.process.wait(timeout=30)
    wait_until(lambda: alive(pids) <= {"ingest", "broker"}, 60, "the roles end with their supervisor")
    assert alive(pids) == {"ingest", "broker"}, "a stopped process and mosquitto outlive it"
    hub.start()
    assert alive(pids) == set()
    assert running_pid(hub.settings) == hub.processes().get("broker"), hub.log()
    assert hub.answers()


def test_two_hubs_cannot_share_a_folder(hub: Hub) -> None:
    hub.start()
    assert hub.process is not None
    second = subprocess.run(
        [EDGEOPS, "hub", "serve", "--json"],
        env=hub.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == ConfigError.exit_code
    assert f"process {hub.process.pid}" in json.loads(second.stdout)["error"]["message"]
    assert hub.answers()


@pytest.mark.parametrize("name", ["api_port", "device_port", "gateway_port", "mqtt_port"])
def test_a_taken_port_stops_the_start(hub: Hub, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(hub.settings, name)))
        taken.listen()
        refused = failing_start(hub)
    assert refused["subject"] == name
    assert str(getattr(hub.settings, name)) in str(refused["message"])
    assert f"EDGEOPS_HUB_{name.upper()}" in str(refused["remedy"])


def test_a_missing_broker_is_told_in_one_sentence(hub: Hub, tmp_path: Path) -> None:
    """In a mount namespace in which mosquitto's program is not there."""
    script = 'mount --bind /dev/null $(command -v mosquitto || echo /usr/sbin/mosquitto) && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", EDGEOPS, "hub", "serve", "--json"]
    done = subprocess.run(
        command, env=hub.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    if "not permitted" in done.stderr or "ermission denied" in done.stderr:
        pytest.skip("this user may not mount")
    assert done.returncode == ConfigError.exit_code, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["subject"] == "mosquitto" and "apt-get install mosquitto" in error["remedy"]
    assert not (hub.settings.state_dir / "hub.db").exists(), "nothing is begun"


def test_a_nearly_full_disk_stops_the_start(tmp_path: Path) -> None:
    settings = load(HubSettings, state_dir=tmp_path, free_disk_bytes=1 << 60)
    with pytest.raises(ConfigError, match="MiB free") as caught:
        prepare(settings)
    assert caught.value.subject == str(tmp_path)
    assert not (tmp_path / "hub.db").exists()


def failing_start(hub: Hub) -> dict[str, object]:
    done = subprocess.run(
        [EDGEOPS, "hub", "serve", "--json"],
        env=hub.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert running_pid(hub.settings) is None
    error: dict[str, object] = json.loads(done.stdout)["error"]
    return error
