"""kill -9 of each process, at each point of an update, under traffic.

Afterwards: exactly one verified version serves, the twin converges, every request that was answered is
counted once at the hub, and no window is missing.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.system import Agent, Client, System
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(600)]

VICTIMS = ("control", "serving", "broker", "hub")
# The points of an update at which something dies: each a phase that the agent has stored, in order.
POINTS = ("downloading", "verifying", "installing", "self_testing", "activating", "confirming")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("chaos"))
    try:
        system.start_hub()
        yield system
    finally:
        system.stop()


@pytest.mark.parametrize("victim", VICTIMS)
def test_nothing_is_lost_and_one_version_serves(system: System, victim: str) -> None:
    agent = system.add_agent(f"{victim}-device", site=victim)
    agent.daemon.start()
    versions = iter(range(1, 100))
    first = roll_out(system, agent, victim, next(versions))
    client = Client(agent)
    wait_until(lambda: client.send(np.zeros((1, 8, 8), np.float32)), 30, "the first version answers")
    client.start()
    wait_until(lambda: running(system, agent) == first, 30, "the twin shows the first version")

    struck: list[str] = []
    for point in POINTS:
        # A phase may pass before the killer sees it: then the next update is tried.
        for _ in range(5):
            digest = publish(system, victim, next(versions))
            hit = strike_at(
                agent, point, lambda: kill(system, agent, victim), lambda d=digest: assign(system, agent, d)
            )
            revive(system, agent)
            wait_until(
                lambda d=digest: running(system, agent) == d,
                60,
                lambda p=point: f"{victim} killed at {p}: the twin converges; agent: {agent.daemon.tail()}",
            )
            wait_until(lambda: agent.status().get("update", {}).get("phase") == "idle", 30, "the update ends")
            assert len(serving_pids(agent)) == 1
            if hit:
                struck.append(point)
                break
    client.finish()
    assert len(struck) >= 5, f"{victim} was killed only at {struck}"

    assert client.answered > 0 and len(set(client.versions)) >= 5
    if victim in ("broker", "hub"):
        assert client.failures == [], "the device serves on whatever happens to the hub"
    wait_until(lambda: agent.status()["spool"]["pending"] == 0, 60, "the spool is delivered")
    # A request that was recorded when its process died may have gone unanswered: it is counted, once.
    wait_until(lambda: counted(system, agent) >= client.answered, 30, "every answer is counted")
    assert client.answered <= counted(system, agent) <= client.sent
    assert system.device(agent.name)["telemetry"]["missing_windows"] == 0
    agent.daemon.stop()


def publish(system: System, victim: str, number: int) -> str:
    version = f"1.{VICTIMS.index(victim)}.{number}"
    folder = make_bundle(
        system.root / f"digits-{version}",
        version=version,
        key=system.builder.with_suffix(".key"),
        teacher=False,
    )
    digest: str = json.loads(system.cli("publish", str(folder), "--json"))["digest"]
    return digest


def assign(system: System, agent: Agent, digest: str) -> None:
    system.api(f"/api/v1/devices/{agent.name}/desired", {"digest": digest})


def roll_out(system: System, agent: Agent, victim: str, number: int) -> str:
    digest = publish(system, victim, number)
    assign(system, agent, digest)
    wait_until(lambda: running(system, agent) == digest, 60, lambda: f"first install: {agent.daemon.tail()}")
    return digest


def running(system: System, agent: Agent) -> str | None:
    try:
        seen = system.device(agent.name)
    except OSError:
        return None
    return seen["running"]["digest"] if seen["running"] else None


def counted(system: System, agent: Agent) -> int:
    return int(system.device(agent.name)["telemetry"]["requests"])


def strike_at(agent: Agent, point: str, strike: Callable[[], None], begin: Callable[[], None]) -> bool:
    """Begins an update and strikes when the stored phase is `point`. False if the phase was not seen."""
    begin()
    seen_busy = False
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        phase = agent.phase()
        if phase == point:
            strike()
            return True
        seen_busy = seen_busy or phase not in (None, "idle")
        if seen_busy and phase == "idle":
            return False
    return False


def kill(system: System, agent: Agent, victim: str) -> None:
    if victim == "control":
        agent.daemon.kill()
    elif victim == "serving":
        for pid in serving_pids(agent):
            os.kill(pid, signal.SIGKILL)
    elif victim == "broker":
        for process in psutil.Process(system.hub.pid).children(recursive=True):
            if process.name() == "mosquitto":
                process.kill()
    else:
        system.hub.kill()


def revive(system: System, agent: Agent) -> None:
    """What an init system does: starts what has died, but for serving processes and the broker."""
    if not agent.daemon.alive():
        agent.daemon.start()
    if not system.hub.alive():
        system.start_hub()


def serving_pids(agent: Agent) -> list[int]:
    home = str(agent.daemon.home)
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "pid"]):
        command = " ".join(process.info["cmdline"] or ())
        if "device_agent.serving" in command and (process.info["environ"] or {}).get("EDGEOPS_HOME") == home:
            found.append(int(process.info["pid"]))
    return found
