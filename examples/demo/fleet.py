"""The demo's cast: a hub and six devices at three sites, each with its own folder, ports and processes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from edgeops.errors import TransportError
from examples.demo.cable import Cable
from examples.demo.hub_api import HubApi, until
from examples.demo.processes import Processes, free_ports

SITES = ("berlin", "lyon", "oslo")
DEVICES_PER_SITE = 2
WINDOW_INTERVAL_S = 1.0
DRIFT_SPAN_S = 15.0
MONITOR_INTERVAL_S = 2.0


@dataclass
class Device:
    """One device: its addresses and the cables between it and the hub."""

    name: str
    site: str
    home: Path
    api_port: int
    admin_port: int
    cables: dict[str, Cable] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    async def status(self) -> dict[str, Any]:
        """What the agent says of itself; empty while it does not answer."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"http://127.0.0.1:{self.admin_port}/status") as response,
            ):
                status: dict[str, Any] = await response.json()
                return status
        except (aiohttp.ClientError, TimeoutError):
            return {}


class Fleet:
    """Starts the hub and the devices, and knows how to reach them."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self._folder = folder
        self.hub_home = folder / "hub"
        api, device, gateway, mqtt = free_ports(4)
        self._ports = {"api": api, "device": device, "gateway": gateway, "mqtt": mqtt}
        self.hub_url = f"http://127.0.0.1:{api}"
        names = [(site, f"{site}-{n}") for site in SITES for n in range(1, DEVICES_PER_SITE + 1)]
        ports = iter(free_ports(2 * len(names)))
        self.devices = [Device(name, site, folder / name, next(ports), next(ports)) for site, name in names]

    async def start_hub(self, builder_key: Path) -> HubApi:
        """Starts the hub, which trusts bundles of this builder, and waits until it answers."""
        env = {f"EDGEOPS_HUB_{role.upper()}_PORT": str(port) for role, port in self._ports.items()}
        env |= {
            # Shorter than in earnest, so that one sitting sees it all.
            "EDGEOPS_HUB_CONTROL_INTERVAL_S": "0.5",
            "EDGEOPS_HUB_MONITOR_INTERVAL_S": str(MONITOR_INTERVAL_S),
            "EDGEOPS_HUB_DRIFT_SPAN_S": str(DRIFT_SPAN_S),
            "EDGEOPS_HUB_DEVICE_HOST": "127.0.0.1",
            "EDGEOPS_HUB_GATEWAY_HOST": "127.0.0.1",
            "EDGEOPS_HUB_MQTT_HOST": "127.0.0.1",
        }
        await self._processes.run("hub", "trust", str(builder_key), home=self.hub_home)
        await self._processes.start("hub", "hub", "serve", home=self.hub_home, env=env)
        token_file = self.hub_home / "state" / "hub" / "admin.token"
        deadline = time.monotonic() + 60
        await until(self._hub_answers, bool, timeout_s=60)
        if time.monotonic() > deadline or not token_file.exists():
            self._processes.require_alive()
            raise TransportError(
                "The hub did not answer within 60 s.", remedy=f"See {self._folder / 'hub.log'}."
            )
        return HubApi(self.hub_url, token_file.read_text().strip())

    async def start_device(self, device: Device, token: str, builder_key: Path) -> None:
        """Enrols a device with a token and starts its agent behind cables of its own."""
        for role in ("device", "gateway", "mqtt"):
            cable = device.cables[role] = Cable(self._ports[role])
            await cable.lay()
        env = self._device_env(device)
        await self._processes.run(
            "agent", "enroll", "--name", device.name, "--trust", str(builder_key), "--token", "-",
            home=device.home, env=env, stdin=token,
        )  # fmt: skip
        await self._processes.start(device.name, "agent", "run", home=device.home, env=env)

    def _device_env(self, device: Device) -> dict[str, str]:
        return {
            "EDGEOPS_AGENT_LISTEN_PORT": str(device.api_port),
            "EDGEOPS_AGENT_ADMIN_PORT": str(device.admin_port),
            "EDGEOPS_AGENT_HUB_URL": f"https://127.0.0.1:{device.cables['device'].port}",
            "EDGEOPS_AGENT_MQTT_HOST": "127.0.0.1",
            "EDGEOPS_AGENT_MQTT_PORT": str(device.cables["mqtt"].port),
            "EDGEOPS_AGENT_GATEWAY_URL": f"https://127.0.0.1:{device.cables['gateway'].port}",
            "EDGEOPS_AGENT_WINDOW_INTERVAL_S": str(WINDOW_INTERVAL_S),
            "EDGEOPS_AGENT_CONFIRM_AFTER_S": "2",
            "EDGEOPS_AGENT_RETRY_MAX_S": "2",
            "EDGEOPS_AGENT_CONNECT_TIMEOUT_S": "2",
        }

    async def _hub_answers(self) -> bool:
        self._processes.require_alive()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.get(f"{self.hub_url}/readyz") as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False
