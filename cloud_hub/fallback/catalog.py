"""Which models the gateway can answer for: the published bundles with a cloud variant, in memory.

`refresh` reads the database; everything else answers from the last reading, so that no request waits for
the database, and the gateway goes on answering while that is away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sqlalchemy import Engine, select

from cloud_hub.store import schema
from cloud_hub.store.database import reading
from edgeops.canonical import sha256_bytes
from edgeops.contract import Contract
from edgeops.errors import ArtifactError, NotFoundError
from edgeops.manifest import Manifest, Variant

logger = logging.getLogger(__name__)

DEFAULT_ALIAS = "prod"


@dataclass(frozen=True)
class Served:
    """A bundle that the gateway answers for, and the variant that does."""

    digest: str
    manifest: Manifest
    variant: Variant

    @cached_property
    def contract(self) -> Contract:
        """What requests are held against: the same as on the device."""
        return Contract(self.manifest.fields.inputs)

    @property
    def name(self) -> str:
        return self.manifest.fields.name

    @property
    def version(self) -> str:
        return self.manifest.fields.version


@dataclass(frozen=True)
class _Reading:
    versions: dict[tuple[str, str], Served] = field(default_factory=dict)
    # (name, version) of what is published and cannot be served, and why.
    others: dict[tuple[str, str], str] = field(default_factory=dict)
    defaults: dict[str, Served] = field(default_factory=dict)


class Catalog:
    """The last reading of the registry. `refresh` may run in any one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bundles: dict[str, Served | str] = {}
        self._reading: _Reading | None = None

    @property
    def was_read(self) -> bool:
        """Whether the registry has been read at least once."""
        return self._reading is not None

    def refresh(self) -> None:
        """Reads names, lifecycle states and aliases, and new manifests. Blocks on the database."""
        bundles, aliases = schema.bundles.c, schema.aliases.c
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(bundles.digest, bundles.name, bundles.version, bundles.lifecycle)
            ).all()
            chosen = {
                row.name: row.digest
                for row in connection.execute(
                    select(aliases.name, aliases.digest).where(aliases.alias == DEFAULT_ALIAS)
                )
            }
            new = [row.digest for row in rows if row.digest not in self._bundles]
            for digest in new:
                query = select(bundles.manifest).where(bundles.digest == digest)
                self._bundles[digest] = _served(digest, bytes(connection.execute(query).scalar_one()))
        self._reading = self._arrange([tuple(row) for row in rows], chosen)

    def find(self, name: str, version: str | None = None) -> Served:
        """The bundle that answers for a model; without a version the one behind the alias `prod`, or else
        the highest in production. Raises `NotFoundError`."""
        known = self._reading or _Reading()
        served = known.defaults.get(name) if version is None else known.versions.get((name, version))
        if served is not None:
            return served
        if version is not None and (why := known.others.get((name, version))):
            raise NotFoundError(f"The hub does not answer for {name} {version}: {why}.", subject=name)
        if version is None and any(name == other for other, _ in (*known.versions, *known.others)):
            raise NotFoundError(
                f"{name!r} has no default version that the hub can answer for.",
                remedy=f"Name a version, or point the alias {DEFAULT_ALIAS} at one.",
                subject=name,
            )
        what = f"{name[:80]!r}" if version is None else f"{name[:80]!r} in version {version[:80]!r}"
        raise NotFoundError(
            f"There is no model {what} here.", remedy="Publish it with edgeops publish.", subject=name
        )

    def versions(self) -> dict[str, list[Served]]:
        """What can be served, by model, the highest version first."""
        models: dict[str, list[Served]] = {}
        for served in (self._reading or _Reading()).versions.values():
            models.setdefault(served.name, []).append(served)
        for each in models.values():
            each.sort(key=lambda served: precedence(served.version), reverse=True)
        return models

    def _arrange(self, rows: Sequence[tuple[str, str, str, str]], chosen: dict[str, str]) -> _Reading:
        result = _Reading()
        for digest, name, version, lifecycle in rows:
            bundle = self._bundles[digest]
            if lifecycle == "retired":
                result.others[name, version] = "it is retired"
                continue
            if isinstance(bundle, str):
                result.others[name, version] = bundle
                continue
            result.versions[name, version] = bundle
            if name in chosen:
                # Nothing else, even if what was chosen cannot be served: the operator named that one.
                if digest == chosen[name]:
                    result.defaults[name] = bundle
            elif lifecycle == "production":
                best = result.defaults.get(name)
                if best is None or precedence(version) > precedence(best.version):
                    result.defaults[name] = bundle
        return result


def precedence(version: str) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
    """A key that sorts semantic versions (https://semver.org, section 11): a pre-release comes before its
    release, and numeric identifiers come before others and are compared as numbers."""
    core, _, pre = version.partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    identifiers = tuple(
        (False, int(part), "") if part.isdigit() else (True, 0, part) for part in pre.split(".") if pre
    )
    return (major, minor, patch), not pre, identifiers


def _served(digest: str, data: bytes) -> Served | str:
    """The bundle as it can be served, or why it cannot."""
    if sha256_bytes(data) != digest:
        logger.error("The manifest of bundle %s in the database is not the one that was published.", digest)
        return "its manifest in the database was changed"
    try:
        manifest = Manifest.parse(data)
    except ArtifactError as error:
        logger.warning("Bundle %s cannot be served: %s", digest, error)
        return "its manifest cannot be read by this version of the hub"
    fallback = manifest.fields.fallback
    cloud = manifest.variants_for("cloud")
    if fallback is not None:
        return Served(digest, manifest, manifest.variant(fallback.variant))
    if cloud:
        return Served(digest, manifest, cloud[0])
    return "it has no cloud variant"
