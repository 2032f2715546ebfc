"""A hub whose storage or keys fell into wrong hands: devices refuse, say what was wrong, and serve on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloud_hub.client import HubClient
from edgeops.bundle import walk
from edgeops.canonical import canonical_json, sha256_bytes, sha256_file
from edgeops.errors import AccessError, ArtifactError
from edgeops.manifest import MANIFEST_FILE, SIGNATURE_FILE
from edgeops.messages import BundleRef, DesiredState
from edgeops.signing.desired import sign_desired
from edgeops.signing.keys import load_private_key
from edgeops_testkit.bundles import DEVICE_VARIANT, make_bundle
from edgeops_testkit.keys import make_keys
from edgeops_testkit.oms import seal, statement_over
from edgeops_testkit.storage import HubStorage
from edgeops_testkit.system import Agent, Client, System
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MODEL = f"variants/{DEVICE_VARIANT}/model.onnx"


@dataclass
class Scene:
    """A hub, and a device of it that serves under traffic."""

    system: System
    storage: HubStorage
    agent: Agent
    client: Client
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1000)))

    def publish(self, *, key: Path | None = None) -> str:
        """Publishes a new version, signed by the builder or by `key`; returns its digest."""
        return self.publish_folder(self.bundle(key))

    def bundle(self, key: Path | None = None) -> Path:
        number = next(self.numbers)
        return make_bundle(
            self.system.root / "bundles",
            version=f"1.0.{number}",
            key=key or self.system.builder.with_suffix(".key"),
            teacher=False,
        )

    def publish_folder(self, folder: Path) -> str:
        with HubClient(self.system.url, self.system.token) as client:
            return client.publish(folder, lambda *_: None).digest

    def assign(self, digest: str) -> None:
        self.system.api(f"/api/v1/devices/{self.agent.name}/desired", {"digest": digest})

    def seen(self) -> dict[str, Any]:
        return self.system.device(self.agent.name)

    def running(self) -> str | None:
        running = self.seen()["running"]
        return running["digest"] if running else None

    def install(self) -> str:
        """A good desired state takes effect."""
        digest = self.publish()
        self.assign(digest)
        wait_until(lambda: self.running() == digest, 60, lambda: f"{digest} runs; {self.agent.daemon.tail()}")
        wait_until(lambda: self.agent.status()["update"]["phase"] == "idle", 30, "the update is confirmed")
        return digest

    def refuses(self, digest: str, before: str) -> dict[str, Any]:
        """Assigns a bundle that the device must refuse; returns the error that it tells."""
        self.assign(digest)
        error = wait_until(lambda: self.refusal(digest), 30, lambda: self.agent.daemon.tail())
        assert self.running() == before
        assert not (self.agent.state_dir / "slots" / digest).exists()
        events = wait_until(
            lambda: [
                e for e in self.storage.events(self.agent.name, "bundle_refused") if e["digest"] == digest
            ],
            30,
            "the hub hears of it",
        )
        assert [event["error"] for event in events] == [error]
        return error

    def refusal(self, digest: str) -> dict[str, Any] | None:
        update = self.seen()["update"]
        if update["target_digest"] == digest and update["phase"] == "idle":
            error: dict[str, Any] | None = update["error"]
            return error
        return None


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    system = System(tmp_path_factory.mktemp("hostile"))
    try:
        system.start_hub()
        agent = system.add_agent("pump-7", env={"EDGEOPS_AGENT_CONFIRM_AFTER_S": "0.2"})
        agent.daemon.start()
        made = Scene(system, HubStorage.of(system), agent, Client(agent, interval_s=0.02))
        made.install()
        made.client.start()
        yield made
        made.client.finish()
    finally:
        system.stop()


@pytest.fixture(autouse=True)
def _serves_on(scene: Scene) -> Iterator[None]:
    """Whatever a test does to the hub: no request fails, and the next good desired state takes effect."""
    yield
    answered = scene.client.answered
    scene.install()
    wait_until(lambda: scene.client.answered > answered, 10, "traffic")
    assert scene.client.failures == []


def other_bytes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def one_more(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [other_bytes, one_more])
def test_a_replaced_file_is_refused_by_name(scene: Scene, damage: Callable[[Path], None]) -> None:
    before, digest = scene.running(), scene.publish()
    assert before is not None
    damage(scene.storage.file_of(digest, MODEL))
    error = scene.refuses(digest, before)
    assert (error["kind"], error["subject"]) == (ArtifactError.kind, MODEL)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_file_that_the_hub_lost_is_waited_for(scene: Scene, change: Callable[[Path], None]) -> None:
    """A download that ends too early is no proof of anything: it goes on when the file is whole again."""
    before, digest = scene.running(), scene.publish()
    blob = scene.storage.file_of(digest, MODEL)
    content = blob.read_bytes()
    change(blob)
    scene.assign(digest)
    error = wait_until(lambda: scene.seen()["update"]["error"], 30, lambda: scene.agent.daemon.tail())
    assert error["subject"] == MODEL
    assert scene.running() == before
    blob.write_bytes(content)
    wait_until(lambda: scene.running() == digest, 30, lambda: scene.agent.daemon.tail())


def test_a_swapped_manifest_is_refused(scene: Scene) -> None:
    before, digest, other = scene.running(), scene.publish(), scene.publish()
    assert before is not None
    shutil.copyfile(scene.storage.blob(other), scene.storage.blob(digest))
    error = scene.refuses(digest, before)
    assert (error["kind"], error["subject"]) == (ArtifactError.kind, MANIFEST_FILE)


def test_another_bundle_s_signature_is_refused(scene: Scene) -> None:
    before, digest, other = scene.running(), scene.publish(), scene.publish()
    assert before is not None
    signature = scene.storage.value("SELECT signature FROM bundles WHERE digest = ?", other)
    scene.storage.execute("UPDATE bundles SET signature = ? WHERE digest = ?", signature, digest)
    error = scene.refuses(digest, before)
    assert (error["kind"], error["subject"]) == (ArtifactError.kind, SIGNATURE_FILE)


def test_a_builder_whom_only_the_hub_trusts_is_refused(scene: Scene, tmp_path: Path) -> None:
    before, stranger = scene.running(), make_keys(tmp_path, "stranger")
    assert before is not None
    scene.system.cli("hub", "trust", str(stranger.public))
    error = scene.refuses(scene.publish(key=stranger.private), before)
    assert (error["kind"], error["subject"]) == (ArtifactError.kind, SIGNATURE_FILE)


@pytest.mark.parametrize("schema", ["0.9", "2.0"])
def test_another_schema_is_refused_though_the_builder_signed_it(scene: Scene, schema: str) -> None:
    """The hub would not publish it, so it is put into its storage by hand."""
    before, published, folder = scene.running(), scene.publish(), scene.bundle()
    assert before is not None
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes()) | {"schema_version": schema}
    (folder / MANIFEST_FILE).write_bytes(canonical_json(manifest))
    digests = {path: sha256_file(folder / path) for path in walk(folder) if path != SIGNATURE_FILE}
    signature = seal(statement_over(digests), load_private_key(scene.system.builder.with_suffix(".key")))
    data = (folder / MANIFEST_FILE).read_bytes()
    digest = sha256_bytes(data)
    for path, sha256 in digests.items():
        place = scene.storage.folder / "blobs" / "sha256" / sha256[:2] / sha256
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / path, place)
    scene.storage.execute(
        "UPDATE bundles SET digest = ?, manifest = ?, signature = ?, version = ? WHERE digest = ?",
        digest, data, json.dumps(signature).encode(), manifest["version"], published,
    )  # fmt: skip
    error = scene.refuses(digest, before)
    assert (error["kind"], error["subject"]) == (ArtifactError.kind, MANIFEST_FILE)


REFUSED = AccessError.kind, "desired"


def refusal_of(scene: Scene, envelope: bytes) -> tuple[str, str]:
    """Puts an envelope on the device's topic: it is refused and nothing changes. Returns the kind and the
    subject of the error that the hub hears."""
    before, generation = scene.running(), scene.agent.status()["generation"]
    told = len(scene.storage.events(scene.agent.name, "desired_refused"))
    scene.storage.publish(scene.agent.name, "desired", envelope)
    events = wait_until(
        lambda: scene.storage.events(scene.agent.name, "desired_refused")[told:], 30, "the hub hears of it"
    )
    (error,) = (event["error"] for event in events)
    assert scene.running() == before
    assert scene.agent.status()["generation"] == generation
    return error["kind"], error["subject"]


def envelope_of(scene: Scene, device: str) -> bytes:
    return bytes(scene.storage.value("SELECT envelope FROM desired WHERE device = ?", device))


def test_an_older_desired_state_is_refused_after_a_restart_too(scene: Scene) -> None:
    older = envelope_of(scene, scene.agent.name)
    running = scene.install()
    assert refusal_of(scene, older) == REFUSED
    # It is retained: the device meets it again, and must know that it is old.
    scene.client.finish()
    scene.agent.daemon.stop()
    scene.agent.daemon.start()
    wait_until(lambda: scene.agent.status().get("twin", {}).get("refused"), 30, "it comes again")
    wait_until(lambda: scene.agent.status()["running"], 30, lambda: scene.agent.daemon.tail())
    assert scene.agent.status()["running"]["bundle"]["digest"] == running
    scene.client = Client(scene.agent, interval_s=0.02)
    scene.client.start()


def test_a_desired_state_by_another_key_is_refused(scene: Scene, tmp_path: Path) -> None:
    forged = DesiredState(
        device=scene.agent.name,
        generation=scene.agent.status()["generation"] + 1,
        bundle=BundleRef(name="digits", version="1.0.1", digest=scene.publish()),
        rollout=None,
        issued_at_ms=0,
    )
    key = load_private_key(make_keys(tmp_path, "thief").private)
    assert refusal_of(scene, sign_desired(key, forged)) == REFUSED


def test_another_device_s_desired_state_is_refused(scene: Scene) -> None:
    scene.system.add_agent("pump-8")
    digest = scene.publish()
    scene.system.api("/api/v1/devices/pump-8/desired", {"digest": digest})
    assert refusal_of(scene, envelope_of(scene, "pump-8")) == REFUSED
