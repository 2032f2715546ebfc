"""A prepared hub with enrolled devices and published bundles, whose devices speak through the real ingest.

There is no broker here: what a device would publish is handed to `IngestStore`, as the ingest role does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from cloud_hub.bundles import registry
from cloud_hub.bundles.registry import Bundle
from cloud_hub.control import control_loop
from cloud_hub.control.desired import desired_of
from cloud_hub.control.monitor_loop import Monitor
from cloud_hub.ingest.store import IngestStore, Received
from cloud_hub.store import schema
from cloud_hub.store.database import reading
from cloud_hub.trust import enrolment
from cloud_hub.trust.access import Services
from edgeops.canonical import sha256_bytes
from edgeops.messages import (
    BundleRef,
    DeviceState,
    ReportedState,
    RunningBundle,
    UpdateStatus,
    Window,
    encode,
)
from edgeops.sketches import kll_of, profile_of
from edgeops.topics import Channel, topic
from edgeops_testkit.bundles import digits_data
from edgeops_testkit.hub_core import DeviceKey, bundle_blobs, token
from fleet.alerts import DRIFT

START_MS = 1_800_000_000_000
Array = npt.NDArray[np.floating]


@dataclass
class FleetHub:
    """The hub and what its devices do. `now_ms` is the clock of everything here; the test moves it."""

    services: Services
    now_ms: int = START_MS
    sequence: int = 0
    revision: int = 0
    bundles: dict[str, BundleRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = IngestStore(self.services.engine)
        self.restart_monitor()

    def restart_monitor(self) -> None:
        """A monitor that remembers nothing, as after a restart of the control role."""
        self.monitor = Monitor(self.services.engine, self.services.blobs, self.services.settings)

    def publish(self, folder: Path) -> Bundle:
        """Uploads and publishes a bundle."""
        blobs = bundle_blobs(folder)
        for data in blobs.values():
            self.services.blobs.put(sha256_bytes(data), [data])
        bundle, _ = registry.publish(
            self.services.engine,
            self.services.blobs,
            self.services.settings,
            digest=sha256_bytes(blobs["manifest.json"]),
            signature=(folder / "model.sig").read_bytes(),
            measurements=(folder / "measurements.json").read_bytes(),
            actor="operator",
            now_ms=self.now_ms,
        )
        self.bundles[bundle.version] = bundle.ref
        return bundle

    def enroll(self, name: str, site: str) -> None:
        """Enrols a device and brings it online."""
        found = token(self.services, labels={"site": site}, at_ms=self.now_ms)
        enrolment.enroll(
            self.services.engine,
            self.services.authority,
            token_id=found["id"],
            secret=found["secret"],
            device=name,
            csr_pem=DeviceKey.new().csr().encode(),
            now_ms=self.now_ms,
            on_revoked=lambda _device: None,
        )
        self.connect(name)

    def revoke(self, name: str) -> None:
        """Revokes a device."""
        enrolment.revoke(
            self.services.engine,
            self.services.authority,
            device=name,
            actor="operator",
            now_ms=self.now_ms,
            on_revoked=lambda _device: None,
        )

    def connect(self, name: str, *, online: bool = True) -> None:
        """The device's birth, or its last will."""
        self.revision += 1
        state = DeviceState(
            device=name, session=1, connection=self.revision, online=online, at_ms=self.now_ms
        )
        self.hear(name, "state", encode(state))

    def wanted(self, name: str) -> BundleRef | None:
        """What the device should run."""
        with reading(self.services.engine) as connection:
            found = desired_of(connection, name)
        if found is None or found.digest is None:
            return None
        return next(ref for ref in self.bundles.values() if ref.digest == found.digest)

    def report(
        self, name: str, bundle: BundleRef | None, *, requests: int = 0, rejected: bool = False
    ) -> None:
        """The device says what it has loaded, and whether it refuses what it should run."""
        self.revision += 1
        with reading(self.services.engine) as connection:
            found = desired_of(connection, name)
        generation = found.generation if found is not None else 0
        running = None
        if bundle is not None:
            running = RunningBundle(
                bundle=bundle, variant="onnx-fp32", loaded_at_ms=self.now_ms, requests=requests
            )
        error = {"kind": "artifact", "message": "The self-test failed."} if rejected else None
        reported = ReportedState(
            device=name,
            session=1,
            revision=self.revision,
            generation=generation,
            running=running,
            update=UpdateStatus(phase="idle", generation=generation, error=error),
            at_ms=self.now_ms,
            rejected_generation=generation if rejected else 0,
        )
        self.hear(name, "reported", encode(reported))

    def window(
        self,
        name: str,
        bundle: BundleRef,
        *,
        requests: int = 50,
        errors: int = 0,
        wrong: int = 0,
        images: Array | None = None,
        confidence: Array | None = None,
        start_ms: int | None = None,
    ) -> None:
        """A window of telemetry, with a label for every request. `images` gives the features' sketches."""
        self.sequence += 1
        rows = images.reshape(len(images), -1) if images is not None else np.empty((0, 64))
        start = start_ms if start_ms is not None else self.now_ms
        window = Window(
            device=name,
            session=1,
            sequence=self.sequence,
            start_ms=start,
            end_ms=start + 1,
            bundle=bundle,
            variant="onnx-fp32",
            requests=requests,
            errors={"inference": errors} if errors else {},
            rejected=0,
            latency=kll_of(np.full(requests, 1.0)),
            confidence=kll_of(confidence if confidence is not None else np.empty(0)),
            classes={},
            features={"mean": profile_of(rows.mean(axis=1)), "std": profile_of(rows.std(axis=1))}
            if images is not None
            else {},
            fallbacks={},
            labels_seen=requests,
            labels_right=requests - wrong,
        )
        self.hear(name, "windows", encode(window))

    def tick(self, seconds: float = 2.0) -> list[str]:
        """One turn of the rollout loop, `seconds` later."""
        self.now_ms += round(seconds * 1000)
        return control_loop.tick(self.services.engine, self.services.desired_key, self.now_ms)

    def look(self, seconds: float = 10.0) -> None:
        """One turn of the monitor loop, `seconds` later."""
        self.now_ms += round(seconds * 1000)
        self.monitor.tick(self.now_ms)

    def look_again_and_again(self, seconds: float = 10.0) -> None:
        """As many turns as an alert about drift takes to open, in `seconds` together."""
        for _ in range(DRIFT.opens_after):
            self.look(seconds / DRIFT.opens_after)

    def rows(self, table: str) -> list[dict[str, object]]:
        """Every row of a table, by id where it has one."""
        found = schema.metadata.tables[table]
        with reading(self.services.engine) as connection:
            query = select(found).order_by(*found.primary_key.columns)
            return [dict(row._mapping) for row in connection.execute(query)]

    def hear(self, name: str, channel: Channel, payload: bytes) -> None:
        """What a device published, as the ingest role hands it over."""
        outcome = self.store.store([Received(topic(name, channel), payload)], self.now_ms)
        assert not outcome.counts["messages_malformed"], "the test sends what devices send"


def images(count: int, *, seed: int, shifted: bool = False) -> Array:
    """Digits drawn at random from what the bundles' reference was made of; `shifted`: brighter and noisy."""
    rng = np.random.default_rng(seed)
    train, _, _, _ = digits_data()
    drawn = train[rng.integers(0, len(train), count)]
    if shifted:
        drawn = np.clip(drawn * 0.6 + 0.25 + rng.normal(0, 0.05, drawn.shape), 0, 1)
    return drawn
