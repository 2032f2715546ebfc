"""A hub's storage as whoever holds its disk sees it: blobs, database, and the door to the broker."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_hub.broker.link import HubLink
from cloud_hub.settings import HubSettings
from edgeops.manifest import Manifest
from edgeops.settings import load
from edgeops.topics import topic
from edgeops_testkit.system import System


@dataclass(frozen=True)
class HubStorage:
    """The state folder of a system's hub, which may run meanwhile."""

    folder: Path

    @classmethod
    def of(cls, system: System) -> HubStorage:
        return cls(system.hub.home / "state" / "hub")

    def blob(self, sha256: str) -> Path:
        """The file of a blob."""
        (found,) = (self.folder / "blobs" / "sha256").rglob(sha256)
        return found

    def file_of(self, digest: str, path: str) -> Path:
        """The blob behind one file of a published bundle."""
        manifest = Manifest.parse(self.value("SELECT manifest FROM bundles WHERE digest = ?", digest))
        return self.blob(manifest.all_files()[path].sha256)

    def value(self, query: str, *parameters: object) -> Any:
        """The first column of the first row."""
        with self._database() as connection:
            return connection.execute(query, parameters).fetchone()[0]

    def execute(self, statement: str, *parameters: object) -> None:
        """Changes the database behind the hub's back."""
        with self._database() as connection, connection:
            assert connection.execute(statement, parameters).rowcount == 1

    def events(self, device: str, kind: str) -> list[dict[str, Any]]:
        """What a device told of that kind, in order."""
        query = "SELECT detail_json FROM events WHERE device = ? AND kind = ? ORDER BY session, sequence"
        with self._database() as connection:
            return [json.loads(row[0]) for row in connection.execute(query, (device, kind))]

    def counter(self, name: str) -> int:
        """One of the hub's counters; 0 if it has not counted yet."""
        with self._database() as connection:
            row = connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def publish(self, device: str, channel: Any, payload: bytes) -> None:
        """Publishes, retained, as the hub does, through its socket to the broker."""
        link = HubLink(load(HubSettings, state_dir=self.folder), "hub:intruder")
        link.open()
        try:
            assert link.publish_and_wait([(topic(device, channel), payload)], retain=True) == [True]
        finally:
            link.close()

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.folder / "hub.db", timeout=15)) as connection:
            yield connection
