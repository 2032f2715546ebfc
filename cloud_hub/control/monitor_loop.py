"""The monitor loop: drift of every bundle's features at every site, and the alerts that follow.

`fleet` decides; this reads windows and references, and writes scores and alerts down.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, insert, select

from cloud_hub.bundles import registry
from cloud_hub.bundles.blobs import BlobStore
from cloud_hub.control.alert_store import Alert, apply_changes, as_open, open_alerts
from cloud_hub.control.profile_cache import CONFIDENCE, ProfileCache, Source
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import reading, writing
from edgeops.errors import EdgeopsError
from edgeops.profiles import ReferenceFeature, ReferenceProfile
from fleet.alerts import (
    DEVICE_OFFLINE,
    DRIFT,
    Measurement,
    offline_measurement,
    persistent,
    reconcile,
    revoked_measurement,
)
from fleet.drift import Distance, Reference
from fleet.drift_verdict import DriftScore, Least, Place, drift_measurement, gone_measurement, judge_drift

logger = logging.getLogger(__name__)

# A tick takes in at most so many windows in one read, and so many reads; the rest waits for the next tick.
_WINDOWS_PER_READ = 1_000
_READS_PER_TICK = 20
_MAX_REFERENCE_BYTES = 16 << 20
_KEEP_SCORES_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True)
class _Model:
    """A bundle as the monitor knows it: `name version` for people, and its features' references."""

    label: str
    references: dict[str, Reference]


@dataclass(frozen=True)
class _Running:
    """Which bundles run at which sites, by the devices' reports; None stands for a device that has loaded
    nothing just now, such as one whose engine is being started again."""

    pairs: frozenset[tuple[str, str | None]]

    @classmethod
    def read(cls, connection: Connection) -> _Running:
        devices = schema.devices.c
        query = select(devices.site, devices.running_digest).where(devices.revoked_at_ms.is_(None)).distinct()
        return cls(frozenset((row.site, row.running_digest) for row in connection.execute(query)))

    def may_be(self, site: str, digest: str) -> bool:
        """False only if every device of the site says that it runs something else."""
        return (site, digest) in self.pairs or (site, None) in self.pairs


class Monitor:
    """The loop's memory between ticks: only what can be read again from the database, or is counted again
    within a few ticks (how often in a row something was found true)."""

    def __init__(self, engine: Engine, blobs: BlobStore, settings: HubSettings) -> None:
        self._engine = engine
        self._blobs = blobs
        self._settings = settings
        self._cache = ProfileCache(round(settings.drift_span_s * 1000))
        self._models: dict[str, _Model] = {}
        self._streaks: dict[str, int] = {}

    def tick(self, now_ms: int) -> tuple[DriftScore, ...]:
        """Takes in what came, judges everything, writes it down; returns the scores."""
        self._read_windows(now_ms)
        with reading(self._engine) as connection:
            running = _Running.read(connection)
        distances = self._distances(running, now_ms)
        least = Least(self._settings.drift_least_ks, self._settings.drift_least_psi)
        scores = judge_drift(distances, self._settings.drift_false_discovery_rate, least)
        with writing(self._engine) as connection:
            _write_scores(connection, scores, now_ms)
            known = open_alerts(connection, (DRIFT.name, DEVICE_OFFLINE.name))
            found = self._measurements(connection, scores, known, running, now_ms)
            streaks, measured = persistent(self._streaks, known.keys(), found)
            apply_changes(connection, reconcile(as_open(known.values()), measured, now_ms), now_ms)
        self._streaks = streaks
        return scores

    def _read_windows(self, now_ms: int) -> None:
        damaged = 0
        for _ in range(_READS_PER_TICK):
            with reading(self._engine) as connection:
                sites = _sites(connection)
                read, bad = self._cache.read(connection, sites, now_ms, _WINDOWS_PER_READ)
            damaged += bad
            if read < _WINDOWS_PER_READ:
                break
        if damaged:
            logger.warning("%d sketches were damaged and are left out of the drift statistics.", damaged)

    def _distances(self, running: _Running, now_ms: int) -> list[tuple[Place, Distance]]:
        found = []
        for source, features in self._cache.merged(now_ms).items():
            if not running.may_be(source.site, source.digest):
                continue
            references = self._model(source).references
            for name in sorted(features.keys() & references.keys()):
                if features[name].count:
                    place = Place(source.model, source.digest, source.site, name)
                    found.append((place, references[name].distance(features[name])))
        return found

    def _model(self, source: Source) -> _Model:
        """The bundle's references, from the signed bundle; none for one without, or unknown to this hub."""
        known = self._models.get(source.digest)
        if known is None:
            try:
                known = self._load(source.digest)
            except EdgeopsError as error:
                # Not remembered: the bundle may be published, or its blob restored, later.
                logger.warning("The drift of bundle %s cannot be judged: %s", source.digest[:12], error)
                return _Model(source.model, {})
            self._models[source.digest] = known
        return known

    def _load(self, digest: str) -> _Model:
        with reading(self._engine) as connection:
            manifest = registry.manifest_of(connection, digest)
        path = manifest.fields.reference_profile
        if path is None:
            return _Model(manifest.label, {})
        data = self._blobs.read(manifest.all_files()[path].sha256, _MAX_REFERENCE_BYTES)
        profile = ReferenceProfile.parse(data)
        features: dict[str, ReferenceFeature] = dict(profile.features)
        if profile.confidence is not None:
            features[CONFIDENCE] = profile.confidence
        return _Model(manifest.label, {name: Reference(feature) for name, feature in features.items()})

    def _measurements(
        self,
        connection: Connection,
        scores: tuple[DriftScore, ...],
        known: dict[str, Alert],
        running: _Running,
        now_ms: int,
    ) -> list[Measurement]:
        measured = [drift_measurement(each, self._models[each.place.digest].label) for each in scores]
        measured += _gone(known, running)
        for row in connection.execute(select(schema.devices)):
            if row.revoked_at_ms is not None:
                measured.append(revoked_measurement(row.name))
                continue
            found = offline_measurement(
                row.name,
                row.site,
                online=row.online,
                seen_at_ms=row.seen_at_ms,
                after_ms=round(self._settings.offline_alert_s * 1000),
                now_ms=now_ms,
            )
            measured += [found] if found is not None else []
        return measured


def _sites(connection: Connection) -> dict[str, str]:
    query = select(schema.devices.c.name, schema.devices.c.site)
    return {row.name: row.site for row in connection.execute(query)}


def _gone(known: dict[str, Alert], running: _Running) -> list[Measurement]:
    """Open drift alerts about bundles that no device of their site runs any more."""
    return [
        gone_measurement(Place(alert.model, alert.digest, alert.site, alert.feature))
        for alert in known.values()
        if alert.rule == DRIFT.name
        and alert.model is not None
        and alert.digest is not None
        and alert.site is not None
        and alert.feature is not None
        and not running.may_be(alert.site, alert.digest)
    ]


def _write_scores(connection: Connection, scores: tuple[DriftScore, ...], now_ms: int) -> None:
    table = schema.drift_scores
    if scores:
        rows = [
            {
                "at_ms": now_ms,
                "model": each.place.model,
                "digest": each.place.digest,
                "site": each.place.site,
                "feature": each.place.feature,
                "count": each.distance.count,
                "ks": each.distance.ks,
                "ks_threshold": each.ks_threshold,
                "psi": each.distance.psi,
                "psi_threshold": each.psi_threshold,
                "drifted": each.drifted,
            }
            for each in scores
        ]
        connection.execute(insert(table), rows)
    # Ids grow with time, so the oldest row tells whether there is anything to forget.
    too_old = now_ms - _KEEP_SCORES_MS
    oldest = connection.execute(select(table.c.at_ms).order_by(table.c.id).limit(1)).scalar_one_or_none()
    if oldest is not None and oldest < too_old:
        connection.execute(delete(table).where(table.c.at_ms < too_old))


def latest_scores(connection: Connection) -> list[dict[str, object]]:
    """The scores of the last tick that judged anything, by model, site and feature."""
    table = schema.drift_scores
    newest = connection.execute(select(func.max(table.c.at_ms))).scalar_one_or_none()
    query = select(table).where(table.c.at_ms == newest)
    rows = connection.execute(query.order_by(table.c.model, table.c.site, table.c.feature, table.c.digest))
    return [dict(row._mapping) for row in rows]
