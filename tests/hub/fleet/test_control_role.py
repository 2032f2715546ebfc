"""The control role as the supervisor runs it, with a real broker and a device behind it."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloud_hub.control import role as control
from cloud_hub.control import rollouts
from cloud_hub.settings import HubSettings
from cloud_hub.store.database import reading, writing
from edgeops.clock import now_ms
from edgeops.errors import ConfigError, TransportError
from edgeops.messages import BundleRef, DeviceState, ReportedState, RunningBundle, UpdateStatus, encode
from edgeops.signing.desired import open_desired
from edgeops.topics import topic
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.hub_core import open_hub
from edgeops_testkit.hub_fleet import FleetHub
from edgeops_testkit.hub_mqtt import DeviceClient, MqttHub, mqtt_hub
from edgeops_testkit.waiting import wait_until_async
from fleet.rollout_types import Spec


@asynccontextmanager
async def running(settings: HubSettings) -> AsyncIterator[None]:
    """The role, in this loop, until the block ends."""
    ready = asyncio.Event()
    task = asyncio.create_task(control.serve(settings, ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


@pytest.mark.slow
def test_an_approved_rollout_reaches_the_device_signed_and_completes(tmp_path: Path) -> None:
    with mqtt_hub(tmp_path, control_interval_s=0.05, monitor_interval_s=0.05) as hub:
        device = DeviceClient(hub.enrol("d1"), hub.settings.mqtt_port).connect()
        try:
            phase, installed = asyncio.run(_install(hub, device, tmp_path))
        finally:
            device.close()
    assert (phase, installed.version) == ("completed", "1.0.0")


async def _install(hub: MqttHub, device: DeviceClient, root: Path) -> tuple[str, BundleRef]:
    """A rollout to one device. Returns its last phase, and the bundle that the device was told to run."""
    fleet = FleetHub(hub.services, now_ms=now_ms())
    published = fleet.publish(make_bundle(root / "built", key=root / "builder.key", teacher=False))
    await asyncio.to_thread(device.subscribe, topic("d1", "desired"))
    with writing(hub.services.engine) as connection:
        spec = Spec(candidate=published.ref, strategy="all-at-once", alias="prod")
        rollout_id = rollouts.create(connection, spec, "operator", now_ms()).rollout.id
        rollouts.approve(connection, hub.services.desired_key, rollout_id, "operator", now_ms())

    def desired() -> bytes | None:
        return next((data for where, data in list(device.messages) if where.endswith("/desired")), None)

    def phase() -> str:
        with reading(hub.services.engine) as connection:
            return rollouts.load(connection, rollout_id).rollout.state.phase

    async with running(hub.settings):
        envelope = await wait_until_async(desired, 20, "the desired state to reach the device")
        wanted = open_desired(envelope, hub.services.desired_key.public_key(), "d1")
        assert wanted.bundle is not None
        running_bundle = RunningBundle(
            bundle=wanted.bundle, variant="onnx-fp32", loaded_at_ms=now_ms(), requests=3
        )
        status = UpdateStatus(phase="idle", generation=wanted.generation)
        report = ReportedState(
            device="d1",
            session=1,
            revision=1,
            generation=wanted.generation,
            running=running_bundle,
            update=status,
            at_ms=now_ms(),
        )
        birth = DeviceState(device="d1", session=1, connection=1, online=True, at_ms=now_ms())
        fleet.hear("d1", "state", encode(birth))
        fleet.hear("d1", "reported", encode(report))
        await wait_until_async(lambda: phase() == "completed", 20, "the rollout to complete")
        assert wanted.bundle == published.ref
        return phase(), wanted.bundle


def test_only_one_control_role_runs_on_a_state(tmp_path: Path) -> None:
    async def start() -> None:
        async with running(services.settings):
            pytest.fail("a second one started")

    with open_hub(tmp_path) as services, (services.settings.state_dir / "control.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="Another control role"):
            asyncio.run(start())


@pytest.mark.slow
def test_a_missing_broker_is_said_as_what_it_is(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services, pytest.raises(TransportError):
        asyncio.run(control.serve(services.settings, lambda: None))
