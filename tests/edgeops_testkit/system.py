"""A whole system for tests: a real hub and real agents as processes, and a client that counts what it saw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeops_testkit.waiting import free_port, wait_until

EDGEOPS = str(Path(sys.executable).with_name("edgeops"))


def edgeops(
    *args: str, home: Path, env: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs an `edgeops` command to its end."""
    return subprocess.run(
        [EDGEOPS, *args],
        env=_environment(home, env or {}),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def edgeops_ok(*args: str, home: Path, env: dict[str, str] | None = None, stdin: str = "") -> str:
    """Runs a command that must succeed; returns what it printed."""
    done = edgeops(*args, home=home, env=env, stdin=stdin)
    assert done.returncode == 0, f"edgeops {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment(home: Path, extra: dict[str, str]) -> dict[str, str]:
    # Libraries that see this variable behave otherwise than they do for users (NiceGUI does).
    inherited = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    return {**inherited, "EDGEOPS_HOME": str(home), "PYTHONSAFEPATH": "1", **extra}


def get_json(url: str, *, token: str | None = None, body: object | None = None, timeout_s: float = 10) -> Any:
    """GET, or POST when there is a body."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {token}"} if token else {}),
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return json.loads(response.read())


@dataclass
class Daemon:
    """A long-running `edgeops` command that can be killed and started again."""

    args: tuple[str, ...]
    home: Path
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    executable: str = EDGEOPS

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [self.executable, *self.args],
                env=_environment(self.home, self.env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9, of this process alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self) -> None:
        """Asks it to end; after 15 s its whole group is killed."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


@dataclass
class System:
    """A hub (started) and any number of agents, all below one folder."""

    root: Path
    hub_env: dict[str, str] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = {role: free_port() for role in ("api", "device", "gateway", "mqtt")}
        env = {f"EDGEOPS_HUB_{role.upper()}_PORT": str(port) for role, port in self.ports.items()}
        env |= {f"EDGEOPS_HUB_{role}_HOST": "127.0.0.1" for role in ("DEVICE", "GATEWAY", "MQTT")}
        env |= {"EDGEOPS_HUB_CONTROL_INTERVAL_S": "0.2", "EDGEOPS_HUB_MONITOR_INTERVAL_S": "1"}
        home = self.root / "hub"
        self.hub = Daemon(("hub", "serve"), home, env | self.hub_env, self.root / "hub.log")
        self.url = f"http://127.0.0.1:{self.ports['api']}"
        self.builder = self.root / "builder"
        self.cli_env = {"EDGEOPS_HUB_URL": self.url}

    def start_hub(self) -> None:
        """Starts the hub and waits until it is ready."""
        if not self.builder.with_suffix(".key").exists():
            edgeops_ok("keys", "new", "builder", "--out", str(self.root), home=self.root)
            edgeops_ok("hub", "trust", str(self.builder.with_suffix(".pub")), home=self.hub.home)
        self.hub.start()
        wait_until(self.hub_ready, 60, lambda: f"the hub is ready; its log ends: {self.hub.tail()}")

    def hub_ready(self) -> bool:
        assert self.hub.alive(), self.hub.tail()
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    @property
    def token(self) -> str:
        return (self.hub.home / "state" / "hub" / "admin.token").read_text().strip()

    def api(self, path: str, body: object | None = None) -> Any:
        return get_json(f"{self.url}{path}", token=self.token, body=body)

    def cli(self, *args: str) -> str:
        """An operator's command, on the hub's machine."""
        return edgeops_ok(*args, home=self.hub.home, env=self.cli_env)

    def add_agent(self, name: str, *, site: str = "lab", env: dict[str, str] | None = None) -> Agent:
        """Enrols a device; the agent is not started yet."""
        token = json.loads(self.cli("hub", "token", "--site", site, "--json"))["token"]
        agent = Agent(name, self.root / name, env or {})
        arguments = ("--name", name, "--trust", str(self.builder.with_suffix(".pub")), "--token", "-")
        edgeops_ok("agent", "enroll", *arguments, home=agent.daemon.home, env=agent.daemon.env, stdin=token)
        self.agents[name] = agent
        return agent

    def device(self, name: str) -> dict[str, Any]:
        seen: dict[str, Any] = self.api(f"/api/v1/devices/{name}")
        return seen

    def stop(self) -> None:
        for agent in self.agents.values():
            agent.daemon.stop()
        self.hub.stop()


class Agent:
    """A device agent as a process."""

    def __init__(self, name: str, home: Path, env: dict[str, str]) -> None:
        self.name = name
        self.api_port, self.admin_port = free_port(), free_port()
        settings = {
            "EDGEOPS_AGENT_LISTEN_PORT": str(self.api_port),
            "EDGEOPS_AGENT_ADMIN_PORT": str(self.admin_port),
            "EDGEOPS_AGENT_WINDOW_INTERVAL_S": "0.5",
            "EDGEOPS_AGENT_CONFIRM_AFTER_S": "1",
            "EDGEOPS_AGENT_RETRY_MAX_S": "1",
            "EDGEOPS_AGENT_RETRY_MIN_S": "0.1",
        }
        self.daemon = Daemon(("agent", "run"), home, settings | env, home.parent / f"{name}.log")
        self.url = f"http://127.0.0.1:{self.api_port}"

    def status(self) -> dict[str, Any]:
        """The agent's own status, or an empty one while it does not answer."""
        try:
            seen: dict[str, Any] = get_json(f"http://127.0.0.1:{self.admin_port}/status", timeout_s=5)
        except (OSError, ValueError):
            return {}
        return seen

    @property
    def state_dir(self) -> Path:
        return self.daemon.home / "state" / "agent"

    def phase(self) -> str | None:
        """The update machine's phase as it stands on the disk."""
        try:
            return str(json.loads((self.state_dir / "update.json").read_bytes())["phase"])
        except (OSError, ValueError, KeyError):
            return None


class Client(threading.Thread):
    """An application: sends digits to one agent without a pause and counts what became of each request."""

    def __init__(self, agent: Agent, *, interval_s: float = 0.005) -> None:
        super().__init__(daemon=True)
        self.agent = agent
        self.sent = 0
        self.answered = 0
        self.failures: list[str] = []
        self.versions: list[str] = []
        self._interval_s = interval_s
        self._ending = threading.Event()

    def run(self) -> None:
        rng = np.random.default_rng(7)
        while not self._ending.is_set():
            self.send(rng.random((1, 8, 8), dtype=np.float32))
            self._ending.wait(self._interval_s)

    def send(self, image: np.ndarray) -> dict[str, Any] | None:
        """One request; its answer, or None when it failed."""
        tensor = {
            "name": "image",
            "datatype": "FP32",
            "shape": [1, *image.shape],
            "data": image.ravel().tolist(),
        }
        self.sent += 1
        try:
            answer = get_json(f"{self.agent.url}/v2/models/digits/infer", body={"inputs": [tensor]})
        except (OSError, ValueError) as error:
            self.failures.append(f"{time.time():.3f} {error!r}")
            return None
        self.answered += 1
        if not self.versions or self.versions[-1] != answer["model_version"]:
            self.versions.append(answer["model_version"])
        assert isinstance(answer, dict)
        return answer

    def finish(self) -> None:
        """Stops after the request under way."""
        self._ending.set()
        self.join(timeout=30)
        assert not self.is_alive()
