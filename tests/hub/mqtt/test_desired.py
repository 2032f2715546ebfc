"""The desired side of the twin: signed per device, growing generations, and the broker's retained copy."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import insert, update

from cloud_hub.broker.files import broker_folder
from cloud_hub.control.desired import assign, desired_of, publications
from cloud_hub.control.desired_publisher import DesiredPublisher
from cloud_hub.store import schema
from cloud_hub.store.database import reading, writing
from edgeops.errors import ConflictError, NotFoundError
from edgeops.messages import BundleRef
from edgeops.signing.desired import open_desired
from edgeops.topics import topic
from edgeops_testkit.hub_mqtt import BUNDLE, DeviceClient, MqttHub
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow

OTHER = BundleRef(name="digits", version="1.1.0", digest="d2" * 32)


@pytest.fixture
def published(hub: MqttHub) -> MqttHub:
    """A hub whose registry has two bundles."""
    with writing(hub.services.engine) as connection:
        for bundle in (BUNDLE, OTHER):
            connection.execute(
                insert(schema.bundles).values(
                    digest=bundle.digest,
                    name=bundle.name,
                    version=bundle.version,
                    manifest=b"{}",
                    signature=b"{}",
                    builder_key_id="",
                    lifecycle="draft",
                    size_bytes=0,
                    published_at_ms=0,
                    published_by="operator",
                )
            )
    return hub


def give(
    hub: MqttHub, name: str, bundle: BundleRef | None, *, rollout: str | None = None, now_ms: int = 1
) -> int:
    with writing(hub.services.engine) as connection:
        return assign(connection, hub.services.desired_key, name, bundle, rollout, now_ms)


@contextmanager
def publishing(hub: MqttHub) -> Iterator[Callable[[], None]]:
    """A publisher that runs in a loop of its own; yields a function that nudges it."""
    loop = asyncio.new_event_loop()
    publisher = DesiredPublisher(hub.services.engine, hub.settings)
    task = loop.create_task(publisher.run())
    thread = threading.Thread(target=_run_until_cancelled, args=(loop, task))
    thread.start()
    try:
        yield lambda: _nudge(loop, publisher)
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _nudge(loop: asyncio.AbstractEventLoop, publisher: DesiredPublisher) -> None:
    loop.call_soon_threadsafe(publisher.nudge)


def _run_until_cancelled(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        return


def retained(hub: MqttHub, name: str) -> bytes | None:
    """What the broker hands a device that subscribes to its `desired` now."""
    files = hub.root / name
    from edgeops_testkit.hub_mqtt import DeviceFiles

    own = DeviceFiles(name, files / "device.crt", files / "device.key", files / "ca.pem")
    device = DeviceClient(own, hub.settings.mqtt_port).connect()
    try:
        device.subscribe(topic(name, "desired"))
        # A retained message follows the SUBACK at once; what is asked for next comes after it.
        device.subscribe(topic(name, "acks"))
        found = [payload for where, payload in device.messages if where == topic(name, "desired")]
        return found[-1] if found else None
    finally:
        device.close()


def nothing_waits(hub: MqttHub, name: str, published_generation: int) -> bool:
    with reading(hub.services.engine) as connection:
        row = desired_of(connection, name)
        assert row is not None
        return row.published_generation == published_generation and publications(connection) == []


def is_retained(hub: MqttHub, name: str, bundle: BundleRef | None, generation: int) -> bool:
    data = retained(hub, name)
    if data is None:
        return False
    state = open_desired(data, hub.services.desired_key.public_key(), name)
    return state.bundle == bundle and state.generation == generation


def test_generations_grow_and_the_same_again_is_nothing_new(published: MqttHub) -> None:
    published.enrol("north-1")
    assert give(published, "north-1", BUNDLE) == 1
    assert give(published, "north-1", BUNDLE, now_ms=9) == 1
    assert give(published, "north-1", OTHER, rollout="r1") == 2
    assert give(published, "north-1", OTHER, rollout="r2") == 3
    assert give(published, "north-1", None) == 4
    with reading(published.services.engine) as connection:
        row = desired_of(connection, "north-1")
        assert row is not None
        assert (row.generation, row.digest, row.rollout, row.published_generation) == (4, None, None, 0)
        (waiting,) = publications(connection)
    state = open_desired(waiting.payload, published.services.desired_key.public_key(), "north-1")
    assert (state.generation, state.bundle, state.issued_at_ms) == (4, None, 1)


def test_nobody_and_the_revoked_get_nothing(published: MqttHub) -> None:
    with pytest.raises(NotFoundError):
        give(published, "north-1", BUNDLE)
    published.enrol("north-1")
    with writing(published.services.engine) as connection:
        connection.execute(update(schema.devices).values(revoked_at_ms=1))
    with pytest.raises(ConflictError):
        give(published, "north-1", BUNDLE)
    with reading(published.services.engine) as connection:
        assert desired_of(connection, "north-1") is None


def test_what_is_assigned_reaches_the_device(published: MqttHub) -> None:
    device = DeviceClient(published.enrol("north-1"), published.settings.mqtt_port).connect()
    device.subscribe(topic("north-1", "desired"))
    with publishing(published) as nudge:
        give(published, "north-1", BUNDLE)
        nudge()
        wait_until(lambda: len(device.messages) == 1, 10, "the first desired state")
        give(published, "north-1", OTHER)
        wait_until(lambda: len(device.messages) == 2, 10, "the second, without a nudge")
        wait_until(lambda: nothing_waits(published, "north-1", 2), 10, "the publication to be entered")
    key = published.services.desired_key.public_key()
    states = [open_desired(payload, key, "north-1") for _, payload in device.messages]
    assert [(state.generation, state.bundle) for state in states] == [(1, BUNDLE), (2, OTHER)]
    device.close()


def test_a_broker_that_lost_everything_gets_it_again(published: MqttHub) -> None:
    published.enrol("north-1")
    with publishing(published):
        give(published, "north-1", BUNDLE)
        wait_until(lambda: is_retained(published, "north-1", BUNDLE, 1), 10, "the retained message")
        pid = published.broker.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not published.broker.running, 10, "the broker to die")
        for file in broker_folder(published.settings).glob("mosquitto.db*"):
            file.unlink()
        published.broker.start()
        published.broker.wait_ready()
        wait_until(lambda: is_retained(published, "north-1", BUNDLE, 1), 15, "the retained message, again")


def test_a_hub_that_starts_publishes_everything_again(published: MqttHub) -> None:
    published.enrol("north-1")
    with publishing(published):
        give(published, "north-1", BUNDLE)
        wait_until(lambda: is_retained(published, "north-1", BUNDLE, 1), 10, "the retained message")
    published.broker.stop()
    (broker_folder(published.settings) / "mosquitto.db").unlink()
    published.broker.start()
    published.broker.wait_ready()
    assert retained(published, "north-1") is None
    with publishing(published):
        wait_until(lambda: is_retained(published, "north-1", BUNDLE, 1), 10, "the retained message, again")


def test_a_revoked_devices_message_is_taken_away(published: MqttHub) -> None:
    published.enrol("north-1")
    with publishing(published):
        give(published, "north-1", BUNDLE)
        wait_until(lambda: is_retained(published, "north-1", BUNDLE, 1), 10, "the retained message")
        with writing(published.services.engine) as connection:
            connection.execute(update(schema.devices).values(revoked_at_ms=1))
        wait_until(lambda: retained(published, "north-1") is None, 10, "the message to be taken away")
        wait_until(lambda: nothing_waits(published, "north-1", 0), 10, "that to be entered")
    assert retained(published, "north-1") is None
