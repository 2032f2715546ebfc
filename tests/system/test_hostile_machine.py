"""A machine that fails: full disks, damaged files, places that nobody can write to.

Each is told in one sentence that says what to do; nothing else is printed, and nothing is corrupted.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeops.errors import ConfigError
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.storage import HubStorage
from edgeops_testkit.system import Agent, Client, Daemon, System, edgeops
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(300)]

GARBAGE = b"garbage \xff\x00" * 500


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own, in memory, for what lies below `folder`."""
    folder.mkdir(parents=True)
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False
        ).returncode
    ):
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        # Lazily: a process that has not quite ended must not leave the mount behind.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes the disk's last byte; returns the file to delete."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return path


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A hub and a device (`pump-7`), each on a small disk of its own."""
    root = tmp_path_factory.mktemp("machine")
    with mounted(root / "hub", "48m"), mounted(root / "pump-7", "24m"):
        made = System(root, hub_env={"EDGEOPS_HUB_FREE_DISK_BYTES": str(1 << 20)})
        try:
            made.start_hub()
            ring = {"EDGEOPS_AGENT_RING_SIZE_BYTES": str(1 << 20)}
            agent = made.add_agent("pump-7", env={**ring, "EDGEOPS_AGENT_CONFIRM_AFTER_S": "0.2"})
            agent.daemon.start()
            install(made, agent, "1.0.0")
            yield made
        finally:
            made.stop()


@pytest.fixture
def agent(system: System) -> Iterator[Agent]:
    """The device, serving and connected; so it is again afterwards."""
    found = system.agents["pump-7"]
    comes_up(system, found)
    yield found
    comes_up(system, found)


def comes_up(system: System, agent: Agent) -> None:
    if not system.hub.alive():
        system.start_hub()
    if not agent.daemon.alive():
        agent.daemon.start()
    wait_until(
        lambda: (seen := agent.status()) and seen["running"] and seen["link"]["connected"],
        60,
        lambda: agent.daemon.tail(),
    )


def publish(system: System, version: str) -> str:
    folder = make_bundle(
        system.root / "bundles", version=version, key=system.builder.with_suffix(".key"), teacher=False
    )
    digest: str = json.loads(system.cli("publish", str(folder), "--json"))["digest"]
    return digest


def install(system: System, agent: Agent, version: str) -> str:
    digest = publish(system, version)
    system.api(f"/api/v1/devices/{agent.name}/desired", {"digest": digest})
    runs(system, agent, digest)
    return digest


def runs(system: System, agent: Agent, digest: str) -> None:
    def is_running() -> bool:
        running = system.device(agent.name)["running"]
        return bool(running) and running["digest"] == digest

    wait_until(is_running, 60, lambda: f"{digest} runs; {agent.daemon.tail()}")


def refused_start(daemon: Daemon) -> str:
    """What a start says that must fail because of the machine: one sentence and its remedy."""
    done = edgeops(*daemon.args, home=daemon.home, env=daemon.env)
    assert done.returncode == ConfigError.exit_code, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def served(client: Client, more: int = 20) -> None:
    """Requests go on being answered."""
    answered = client.answered
    wait_until(lambda: client.answered >= answered + more, 30, "requests are answered")


# --- Disks.


def test_a_full_disk_delays_updates_and_telemetry_and_stops_no_request(system: System, agent: Agent) -> None:
    digest = publish(system, "1.1.0")
    client = Client(agent)
    before = system.device("pump-7")["telemetry"]["requests"]
    client.start()
    served(client)
    filler = fill(agent.daemon.home)
    system.api("/api/v1/devices/pump-7/desired", {"digest": digest})
    told = wait_until(lambda: agent.status()["telemetry"]["last_error"], 30, "the agent says so")
    assert "the disk is full" in told and "Free some space there." in told
    served(client, 100)
    said = edgeops("agent", "status", "--admin-port", str(agent.admin_port), home=agent.daemon.home).stdout
    assert f"Error     {told}" in said
    assert agent.daemon.alive() and agent.status()["active"]["target"]["digest"] != digest
    filler.unlink()
    runs(system, agent, digest)
    client.finish()
    assert client.failures == []
    counts(system, agent, before + client.answered)


def counts(system: System, agent: Agent, requests: int) -> None:
    """The hub has counted each request once, and no window is missing."""
    wait_until(
        lambda: system.device(agent.name)["telemetry"]["requests"] >= requests,
        30,
        lambda: f"{requests} requests at the hub, not {system.device(agent.name)['telemetry']}",
    )
    wait_until(lambda: agent.status()["spool"]["pending"] == 0, 30, "the spool is delivered")
    telemetry = system.device(agent.name)["telemetry"]
    assert (telemetry["requests"], telemetry["missing_windows"]) == (requests, 0)


def test_an_agent_does_not_start_on_a_full_disk_and_says_why(agent: Agent) -> None:
    agent.daemon.stop()
    filler = fill(agent.daemon.home)
    try:
        said = refused_start(agent.daemon)
    finally:
        filler.unlink()
    assert "the disk is full. Free some space there." in said


def test_a_hub_s_full_disk_loses_no_window_and_is_told_in_a_sentence(system: System, agent: Agent) -> None:
    before = system.device("pump-7")["telemetry"]["requests"]
    client = Client(agent)
    filler = fill(system.hub.home)
    folder = make_bundle(
        system.root / "bundles", version="1.2.0", key=system.builder.with_suffix(".key"), teacher=False
    )
    commands = (("hub", "token"), ("hub", "login"), ("publish", str(folder)), ("hub", "revoke", "pump-7"))
    for command in commands:
        done = edgeops(*command, home=system.hub.home, env=system.cli_env)
        assert (done.returncode, done.stdout) == (ConfigError.exit_code, ""), (command, done.stderr)
        assert "is full" in done.stderr and "Free some space there" in done.stderr
    client.start()
    served(client, 100)
    wait_until(lambda: agent.status()["spool"]["pending"] > 0, 30, "telemetry waits at the device")
    system.cli("fleet", "devices")
    client.finish()
    filler.unlink()
    assert client.failures == []
    counts(system, agent, before + client.answered)
    assert not system.device("pump-7")["revoked"]
    assert "Traceback" not in system.hub.log.read_text()
    with closing(sqlite3.connect(HubStorage.of(system).folder / "hub.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- The agent's files.


def test_a_damaged_file_of_the_agent_is_named(agent: Agent) -> None:
    agent.daemon.stop()
    identity = agent.state_dir / "identity"
    names = ("enrolment.json", "device.key", "device.crt", "ca.pem", "desired.pub")
    builder = next((identity / "builders").iterdir())
    for path in (*(identity / name for name in names), builder):
        content = path.read_bytes()
        path.write_bytes(GARBAGE)
        said = refused_start(agent.daemon)
        path.write_bytes(content)
        assert str(path) in said
        assert "Restore it, or enrol the device again with edgeops agent enroll --force." in said


def test_a_certificate_damaged_under_a_running_agent_is_told_and_stops_no_request(agent: Agent) -> None:
    path = agent.state_dir / "identity" / "device.crt"
    content = path.read_bytes()
    path.write_bytes(GARBAGE)
    try:
        error = agent.status()["certificate"]["error"]
        client = Client(agent)
        assert client.send(np.zeros((1, 8, 8), np.float32)) is not None
    finally:
        path.write_bytes(content)
    assert error["subject"] == str(path) and "enrol the device again" in error["remedy"]
    assert "expires_at_ms" in agent.status()["certificate"]


@pytest.mark.parametrize("content", [b"[]", b"", GARBAGE])
def test_a_damaged_identity_can_be_replaced(system: System, agent: Agent, content: bytes) -> None:
    agent.daemon.stop()
    (agent.state_dir / "identity" / "enrolment.json").write_bytes(content)
    enroll = ("agent", "enroll", "--name", "pump-7", "--trust", str(system.builder.with_suffix(".pub")))
    token = system.cli("hub", "token", "--reenroll")
    done = edgeops(*enroll, "--token", "-", "--force", home=agent.daemon.home, stdin=token)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["update.json", "spool.db"])
def test_a_damaged_state_of_the_agent_can_be_moved_away(agent: Agent, name: str) -> None:
    agent.daemon.stop()
    path = agent.state_dir / name
    path.write_bytes(GARBAGE)
    said = refused_start(agent.daemon)
    assert str(path) in said and "Move " in said
    path.rename(path.with_suffix(".damaged"))
    agent.daemon.start()
    wait_until(lambda: agent.status().get("running"), 30, lambda: agent.daemon.tail())
    assert path.exists()


@pytest.mark.parametrize("name", ["manifest.json", "model.sig", "variants/onnx-fp32/model.onnx"])
def test_a_damaged_slot_is_never_served_and_mends_itself(system: System, agent: Agent, name: str) -> None:
    digest = agent.status()["running"]["bundle"]["digest"]
    agent.daemon.stop()
    path = agent.state_dir / "slots" / digest / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    told = len(HubStorage.of(system).events("pump-7", "slot_damaged"))
    agent.daemon.start()
    wait_until(lambda: agent.status().get("running"), 60, lambda: agent.daemon.tail())
    assert agent.status()["running"]["bundle"]["digest"] == digest
    assert path.read_bytes() == content
    (event,) = wait_until(
        lambda: HubStorage.of(system).events("pump-7", "slot_damaged")[told:], 30, "the hub hears of it"
    )
    assert event["error"]["subject"] == name


def test_what_is_none_of_the_agent_s_files_does_not_keep_it_from_serving(agent: Agent) -> None:
    agent.daemon.stop()
    state = agent.state_dir
    strange = ("rings/a.ring", "rings/b.new", "run/a.json", "slots/a", "staging/a", "identity/a")
    for name in strange:
        (state / name).write_bytes(GARBAGE)
    blocked = state / "rings" / "c.ring"
    blocked.mkdir()
    agent.daemon.start()
    wait_until(lambda: agent.status().get("running"), 30, lambda: agent.daemon.tail())
    # What it cannot remove it names, and serves on.
    wait_until(lambda: str(blocked) in (agent.status()["telemetry"]["last_error"] or ""), 30, "it is named")
    blocked.rmdir()
    wait_until(lambda: agent.status()["telemetry"]["last_error"] is None, 30, "telemetry goes on")
    assert "Traceback" not in agent.daemon.tail()


def test_a_status_port_that_is_taken_is_named(agent: Agent) -> None:
    agent.daemon.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", agent.admin_port))
        other.listen()
        said = refused_start(agent.daemon)
    assert f"Port {agent.admin_port} on 127.0.0.1 is taken already." in said
    assert "EDGEOPS_AGENT_ADMIN_PORT" in said


# --- The hub's files.


def test_the_hub_makes_anew_what_it_can(system: System, agent: Agent) -> None:
    folder, connections = HubStorage.of(system).folder, agent.status()["link"]["connections"]
    system.hub.stop()
    for name in ("authority/server.crt", "authority/server.key", "authority/revoked.crl"):
        (folder / name).write_bytes(GARBAGE)
    for name in ("broker/mosquitto.db", "run/api.pid"):
        (folder / name).write_bytes(GARBAGE)
    system.start_hub()
    wait_until(lambda: agent.status()["link"]["connections"] > connections, 60, "the device comes back")
    assert "Traceback" not in system.hub.log.read_text()


def test_a_damaged_file_of_the_hub_is_named(system: System) -> None:
    """The last one that needs the hub: it does not run afterwards."""
    system.hub.stop()
    folder, kept = HubStorage.of(system).folder, system.root / "kept"
    shutil.copytree(folder, kept)
    damages: list[tuple[str, Callable[[Path], Any]]] = [
        ("hub.db", lambda path: path.write_bytes(GARBAGE)),
        ("hub.db", lambda path: path.write_bytes(path.read_bytes()[:40_000])),
        ("admin.token", lambda path: path.write_bytes(GARBAGE)),
        ("authority/ca.crt", lambda path: path.write_bytes(GARBAGE)),
        ("authority/desired.key", lambda path: path.write_bytes(GARBAGE)),
        ("builders", lambda path: next(path.iterdir()).write_bytes(GARBAGE)),
        ("blobs", lambda path: (shutil.rmtree(path), path.write_bytes(b""))),
        ("broker", lambda path: (shutil.rmtree(path), path.write_bytes(b""))),
    ]
    for name, damage in damages:
        damage(folder / name)
        assert str(folder / name) in refused_start(system.hub)
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    # Where a role finds it, the role says it, and the hub which role it was.
    lock = folder / "ingest-0.lock"
    lock.unlink()
    lock.mkdir()
    done = edgeops(*system.hub.args, home=system.hub.home, env=system.hub.env)
    assert done.returncode == ConfigError.exit_code and "Traceback" not in done.stderr, done.stderr
    assert f"{lock} cannot be used (Is a directory)." in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: The hub's role ingest ended")


@pytest.mark.parametrize("command", [("hub", "serve"), ("agent", "run"), ("hub", "trust", "KEY")])
def test_a_place_that_nobody_can_write_to_is_named(system: System, command: tuple[str, ...]) -> None:
    home = system.root / "a-file"
    home.write_bytes(b"")
    key = str(system.builder.with_suffix(".pub"))
    arguments = [key if part == "KEY" else part for part in command]
    said = refused_start(Daemon(tuple(arguments), home, {}, system.root / "log"))
    assert str(home) in said


@pytest.mark.parametrize(
    ("command", "file"), [(("hub", "serve"), "hub.toml"), (("agent", "run"), "agent.toml")]
)
@pytest.mark.parametrize("content", [b"port = [", b"\xff\xfe", b"no_such_setting = 1"])
def test_a_settings_file_that_cannot_be_read_is_named(
    tmp_path: Path, command: tuple[str, ...], file: str, content: bytes
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / file).write_bytes(content)
    assert str(tmp_path / "config" / file) in refused_start(Daemon(command, tmp_path, {}, tmp_path / "log"))
