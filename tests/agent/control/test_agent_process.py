"""The whole agent as processes: enrolment, installation, upgrades under traffic, kills, and plain words."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeops.messages import BundleRef, Window
from edgeops_testkit.enrolled import DEVICE, Desk
from edgeops_testkit.fake_hub import flipped
from edgeops_testkit.system import Agent, Client, edgeops, edgeops_ok
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk.make(tmp_path)
    yield made
    made.hub.close()


@pytest.fixture
def agent(desk: Desk) -> Iterator[Agent]:
    """An enrolled device; its agent is not started yet."""
    made = Agent(DEVICE, desk.root / "device", {"EDGEOPS_AGENT_DRAIN_TIMEOUT_S": "3"})
    edgeops_ok(
        "agent", "enroll", "--name", DEVICE, "--trust", str(desk.builder.public), "--token", "-",
        home=made.daemon.home, stdin=desk.hub.token(),
    )  # fmt: skip
    yield made
    made.daemon.stop()


def runs(desk: Desk, ref: BundleRef, *, phase: str = "idle") -> bool:
    """Whether the hub was told that this bundle runs and has answered requests."""
    report = desk.hub.last_report()
    running = report.running if report else None
    return bool(
        report and running and running.bundle == ref and running.requests and report.update.phase == phase
    )


def start_with(desk: Desk, agent: Agent, version: str = "1.0.0") -> tuple[BundleRef, Client]:
    """Starts the agent, has it install that version, and sends it traffic."""
    ref = desk.bundle(version)
    agent.daemon.start()
    desk.hub.desire(DEVICE, 1, ref)
    wait_until(lambda: agent.status().get("running"), 30, lambda: f"{version} to run; {agent.daemon.tail()}")
    client = Client(agent)
    client.start()
    wait_until(lambda: runs(desk, ref), 30, lambda: f"{version} to answer; {desk.hub.last_report()}")
    return ref, client


def counted(desk: Desk, digest: str | None = None) -> int:
    """How many requests the hub knows of, each window once."""
    windows = {(e.session, e.sequence): e for e in desk.hub.entries if isinstance(e, Window)}
    return sum(w.requests for w in windows.values() if digest in (None, w.bundle.digest))


def no_gaps(desk: Desk) -> bool:
    """Whether every session's entries are numbered from 1 without a gap."""
    seen: dict[int, set[int]] = {}
    for entry in desk.hub.entries:
        seen.setdefault(entry.session, set()).add(entry.sequence)
    return all(numbers == set(range(1, len(numbers) + 1)) for numbers in seen.values())


def assert_counted(desk: Desk, client: Client) -> None:
    """What was answered reaches the hub, once; what failed may have been answered before it was cut."""
    wait_until(lambda: counted(desk) >= client.answered, 20, f"{client.answered} requests at the hub")
    assert counted(desk) <= client.sent and no_gaps(desk)


class KeepAlive(threading.Thread):
    """A client with one connection that it keeps as long as the server lets it."""

    def __init__(self, port: int, body: bytes) -> None:
        super().__init__(daemon=True)
        self._port, self._body = port, body
        self._ending = threading.Event()
        self.failures: list[str] = []
        self.answered = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._ending.is_set():
            try:
                connection.request("POST", "/v2/models/digits/infer", self._body)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            self.answered += response.status == 200
        connection.close()

    def finish(self) -> None:
        self._ending.set()
        self.join(timeout=20)
        assert not self.is_alive()


def infer_body() -> bytes:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
    return json.dumps({"inputs": [tensor]}).encode()


def test_an_upgrade_under_traffic_refuses_no_request_and_counts_every_one(desk: Desk, agent: Agent) -> None:
    first, client = start_with(desk, agent)
    steady = KeepAlive(agent.api_port, infer_body())
    steady.start()
    refs = [first]
    for generation, version in enumerate(("1.1.0", "1.2.0", "1.3.0"), start=2):
        refs.append(desk.bundle(version))
        desk.hub.desire(DEVICE, generation, refs[-1])
        wait_until(lambda: runs(desk, refs[-1]), 30, lambda: f"{refs[-1]}; {agent.daemon.tail()}")
    client.finish()
    steady.finish()
    assert client.failures == [] and steady.failures == []
    # For a moment both processes accept; each version comes in its turn all the same.
    assert list(dict.fromkeys(client.versions)) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    assert client.versions[-1] == "1.3.0"
    sent = client.answered + steady.answered
    wait_until(lambda: counted(desk) == sent, 20, lambda: f"{sent} requests at the hub, not {counted(desk)}")
    assert all(counted(desk, ref.digest) > 0 for ref in refs) and no_gaps(desk)
    kinds = [e.kind for e in desk.hub.entries if not isinstance(e, Window)]
    assert kinds == ["update_started", "activated", "confirmed"] * 4
    slots = {path.name for path in (agent.state_dir / "slots").iterdir()}
    assert slots == {refs[-1].digest, refs[-2].digest}


def test_a_bad_bundle_is_refused_and_the_running_version_goes_on(desk: Desk, agent: Agent) -> None:
    good, client = start_with(desk, agent)
    bad = desk.bundle("1.1.0")
    model = next(
        d for d, path in desk.hub.blobs.items() if "1.1.0" in str(path) and path.name == "model.onnx"
    )
    desk.hub.faults[f"/device/v1/blobs/{model}"] = [flipped]
    desk.hub.desire(DEVICE, 2, bad)
    report = wait_until(
        lambda: (r := desk.hub.last_report()) and r.rejected_generation == 2 and r, 30, "the refusal"
    )
    assert report.running is not None and report.running.bundle == good
    assert report.update.error is not None and report.update.error["kind"] == "artifact"
    assert report.update.target == bad
    desk.hub.desire(DEVICE, 3, desk.bundle("1.2.0"))
    wait_until(lambda: agent.status()["running"]["bundle"]["version"] == "1.2.0", 30, "the next version")
    client.finish()
    assert client.failures == []


def test_a_killed_serving_process_is_replaced_and_no_answer_goes_uncounted(desk: Desk, agent: Agent) -> None:
    ref, client = start_with(desk, agent)
    for _ in range(2):
        pid = agent.status()["serving"]["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda pid=pid: agent.status()["serving"]["pid"] not in (None, pid) and agent.status()["running"],
            30,
            lambda: f"another process; {agent.daemon.tail()}",
        )
    answered = client.answered
    wait_until(lambda: client.answered > answered, 10, "answers")
    client.finish()
    # Only what was in its hands when it died can have failed.
    assert len(client.failures) <= 2
    wait_until(
        lambda: counted(desk) >= client.answered, 20, lambda: f"{client.answered}, not {counted(desk)}"
    )
    assert counted(desk) <= client.sent and no_gaps(desk)
    assert agent.status()["active"]["target"]["digest"] == ref.digest


def test_a_killed_agent_comes_back_with_the_same_version_and_loses_nothing(desk: Desk, agent: Agent) -> None:
    ref, client = start_with(desk, agent)
    orphan = agent.status()["serving"]["pid"]
    agent.daemon.kill()
    wait_until(lambda: not desk.hub.states[-1].online, 40, "the broker to tell of its death")
    agent.daemon.start()
    wait_until(lambda: agent.status().get("running"), 30, lambda: f"it serves again; {agent.daemon.tail()}")
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), 20, "the orphan to end")
    answered = client.answered
    wait_until(lambda: client.answered > answered, 20, "answers")
    client.finish()
    wait_until(
        lambda: counted(desk) >= client.answered, 20, lambda: f"{client.answered}, not {counted(desk)}"
    )
    assert counted(desk) <= client.sent and no_gaps(desk)
    assert {entry.session for entry in desk.hub.entries} == {s.session for s in desk.hub.states}
    assert runs(desk, ref)
    assert (
        not list((agent.state_dir / "rings").glob("*"))
        or len(list((agent.state_dir / "rings").iterdir())) == 1
    )


def test_without_a_hub_it_serves_on_and_delivers_all_later(desk: Desk, agent: Agent) -> None:
    _, client = start_with(desk, agent)
    desk.hub.broker.stop()
    wait_until(lambda: not agent.status()["link"]["connected"], 40, "the link to break")
    wait_until(lambda: agent.status()["spool"]["pending"] >= 3, 30, "windows in the spool")
    # A restart without the hub: serving comes from what is installed.
    agent.daemon.stop()
    agent.daemon.start()
    wait_until(lambda: agent.status().get("running"), 30, "it serves without the hub")
    wait_until(lambda: agent.status()["running"]["requests"] > 0, 30, "it answers without the hub")
    client.finish()
    desk.hub.broker.start()
    wait_until(lambda: agent.status()["spool"]["pending"] == 0, 30, "the spool to empty")
    wait_until(
        lambda: counted(desk) >= client.answered, 20, lambda: f"{client.answered}, not {counted(desk)}"
    )
    assert counted(desk) <= client.sent and no_gaps(desk)


def test_metrics_and_status_say_what_is_true(desk: Desk, agent: Agent) -> None:
    ref, client = start_with(desk, agent)
    client.finish()
    where = ("--admin-port", str(agent.admin_port))
    told = edgeops_ok("agent", "status", "--json", *where, home=agent.daemon.home)
    seen: dict[str, Any] = json.loads(told)
    assert seen["running"]["bundle"]["digest"] == ref.digest
    assert seen["running"]["requests"] == client.answered
    plain = edgeops_ok("agent", "status", *where, home=agent.daemon.home)
    assert f"digits 1.0.0 (onnx-fp32), {client.answered} requests" in plain and "connected" in plain
    metrics = fetch(agent.admin_port, "/metrics")
    check = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
    assert f'edgeops_agent_requests_total{{name="digits",version="1.0.0"}} {float(client.answered)}' in (
        metrics.decode()
    )
    assert json.loads(fetch(agent.admin_port, "/healthz")) == {"status": "ok"}


def fetch(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200
    return body


def test_it_tells_systemd_that_it_is_ready_alive_and_stopping(
    desk: Desk, agent: Agent, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(20)
        agent.daemon.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        agent.daemon.start()
        assert [notified.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        agent.daemon.stop()
        heard = notified.recv(100)
        while heard == b"WATCHDOG=1":
            heard = notified.recv(100)
        assert heard == b"STOPPING=1"
    assert agent.daemon.process is not None and agent.daemon.process.returncode == 0


def test_what_keeps_it_from_starting_is_one_sentence(desk: Desk, agent: Agent, tmp_path: Path) -> None:
    home, env = agent.daemon.home, agent.daemon.env
    agent.daemon.start()
    wait_until(lambda: agent.status(), 20, "the agent to answer")
    second = edgeops("agent", "run", home=home, env=env)
    assert second.returncode == 6
    assert f"error: Another agent (process {agent.daemon.pid}) uses" in second.stderr
    agent.daemon.stop()

    with socket.socket() as other:
        other.bind(("127.0.0.1", agent.api_port))
        other.listen()
        taken = edgeops("agent", "run", home=home, env=env)
    assert taken.returncode == 6
    assert f"error: Port {agent.api_port} on 127.0.0.1 is taken already." in taken.stderr
    assert "Traceback" not in taken.stderr + second.stderr

    nobody = edgeops("agent", "status", "--admin-port", str(agent.admin_port), home=home)
    assert nobody.returncode == 5 and "No agent answers" in nobody.stderr
    stranger = edgeops("agent", "run", home=tmp_path / "empty")
    assert stranger.returncode == 6 and "Enrol it with edgeops agent enroll" in stranger.stderr
