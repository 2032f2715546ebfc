"""The registry: bundles by name and version, verified before they are known, immutable after.

Files are blobs by digest, so a bundle is published by its signature alone once its blobs are there.
The hub trusts no uploader: what counts is that a builder whose key lies in the hub's builders folder
signed exactly these bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Engine, Row, insert, select, update

from cloud_hub import audit
from cloud_hub.bundles.blobs import BlobStore
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import writing
from edgeops.canonical import sha256_bytes
from edgeops.errors import ArtifactError, ConflictError, NotFoundError
from edgeops.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, MEASUREMENTS_FILE, Manifest
from edgeops.messages import BundleRef
from edgeops.signing.keys import load_public_keys
from edgeops.signing.oms import SignedStatement, check_manifest, verify_signature

Lifecycle = Literal["draft", "staging", "production", "deprecated", "retired"]
LIFECYCLES: tuple[Lifecycle, ...] = get_args(Lifecycle)
Alias = Literal["prod", "staging", "canary"]
ALIASES: tuple[Alias, ...] = get_args(Alias)
MAX_MEASUREMENTS_BYTES = 4 << 20


@dataclass(frozen=True)
class Bundle:
    """A published bundle."""

    digest: str
    name: str
    version: str
    lifecycle: str
    size_bytes: int
    builder_key_id: str
    published_at_ms: int
    published_by: str

    @property
    def ref(self) -> BundleRef:
        """The bundle as messages name it."""
        return BundleRef(name=self.name, version=self.version, digest=self.digest)


def publish(
    engine: Engine,
    blobs: BlobStore,
    settings: HubSettings,
    *,
    digest: str,
    signature: bytes,
    measurements: bytes | None,
    actor: str,
    now_ms: int,
) -> tuple[Bundle, bool]:
    """Verifies the bundle with that digest and makes it known, in the lifecycle state `staging`.

    All its files but `model.sig` and `measurements.json` must be stored as blobs already. Returns the
    bundle, and whether it is new; publishing the same digest again changes nothing. Raises
    `ArtifactError` whose `subject` is the offending file, and `ConflictError` when the version exists
    with another digest.
    """
    statement = verify_signature(signature, _trusted(settings))
    if not blobs.has(digest):
        raise _missing(MANIFEST_FILE, digest)
    data = blobs.read(digest, MAX_MANIFEST_BYTES)
    manifest = check_manifest(statement, data)
    size_bytes = len(data) + _check_files(blobs, manifest)
    _check_measurements(statement, measurements)
    name, version = manifest.fields.name, manifest.fields.version
    with writing(engine) as connection:
        known = connection.execute(
            select(schema.bundles).where(schema.bundles.c.name == name, schema.bundles.c.version == version)
        ).one_or_none()
        if known is not None:
            return _published_before(known, digest), False
        values: dict[str, Any] = {
            "digest": digest,
            "name": name,
            "version": version,
            "lifecycle": "staging",
            "size_bytes": size_bytes,
            "builder_key_id": statement.key_id,
            "published_at_ms": now_ms,
            "published_by": actor,
        }
        connection.execute(
            insert(schema.bundles).values(
                manifest=data, signature=signature, measurements=measurements, **values
            )
        )
        detail = {"digest": digest, "builder_key_id": statement.key_id}
        audit.record(connection, actor, "bundle.publish", f"{name} {version}", detail, now_ms)
    return Bundle(**values), True


def bundles(connection: Connection, *, name: str | None = None) -> list[Bundle]:
    """All bundles, the newest first; of one model only, if `name` is given."""
    query = select(schema.bundles).order_by(schema.bundles.c.published_at_ms.desc(), schema.bundles.c.digest)
    if name is not None:
        query = query.where(schema.bundles.c.name == name)
    return [_bundle(row) for row in connection.execute(query)]


def bundle_of(connection: Connection, name: str, version: str) -> Bundle:
    """One bundle by name and version, or `NotFoundError`."""
    where = (schema.bundles.c.name == name) & (schema.bundles.c.version == version)
    row = connection.execute(select(schema.bundles).where(where)).one_or_none()
    if row is None:
        raise NotFoundError(
            f"There is no bundle {name} {version}.",
            remedy="Publish it with edgeops publish.",
            subject=f"{name} {version}",
        )
    return _bundle(row)


def bundle_by_digest(connection: Connection, digest: str) -> Bundle:
    """One bundle by its identity, or `NotFoundError`."""
    return _bundle(_row(connection, digest))


def manifest_of(connection: Connection, digest: str) -> Manifest:
    """A published bundle's manifest, or `NotFoundError`."""
    return Manifest.parse(_row(connection, digest).manifest)


def signature_of(connection: Connection, digest: str) -> bytes:
    """A published bundle's `model.sig`, or `NotFoundError`."""
    return bytes(_row(connection, digest).signature)


def measurements_of(connection: Connection, digest: str) -> dict[str, Any] | None:
    """What was measured of a bundle and where, if it came with that."""
    data = _row(connection, digest).measurements
    return None if data is None else dict(json.loads(data))


def aliases_of(connection: Connection, name: str) -> dict[str, str]:
    """A model's aliases: the digest behind each."""
    rows = connection.execute(select(schema.aliases).where(schema.aliases.c.name == name))
    return {row.alias: row.digest for row in rows}


def set_alias(
    connection: Connection, *, name: str, alias: Alias, digest: str, actor: str, now_ms: int
) -> None:
    """Points a model's alias at one of its bundles. Raises `NotFoundError`, and `ConflictError` when the
    bundle is another model's."""
    target = bundle_by_digest(connection, digest)
    if target.name != name:
        raise ConflictError(f"{target.name} {target.version} is not a version of {name}.", subject=alias)
    mine = (schema.aliases.c.name == name) & (schema.aliases.c.alias == alias)
    values = {"digest": digest, "updated_at_ms": now_ms}
    changed = connection.execute(update(schema.aliases).where(mine).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(schema.aliases).values(name=name, alias=alias, **values))
    detail = {"digest": digest, "version": target.version}
    audit.record(connection, actor, "alias.set", f"{name} {alias}", detail, now_ms)


def set_lifecycle(
    connection: Connection, *, digest: str, lifecycle: Lifecycle, actor: str, now_ms: int
) -> None:
    """Moves a bundle to a lifecycle state. Raises `NotFoundError`, and `ConflictError` for a retired one:
    that is final."""
    known = bundle_by_digest(connection, digest)
    if known.lifecycle == lifecycle:
        return
    if known.lifecycle == "retired":
        raise ConflictError(
            f"{known.name} {known.version} is retired.", remedy="Publish a new version.", subject=digest
        )
    connection.execute(
        update(schema.bundles).where(schema.bundles.c.digest == digest).values(lifecycle=lifecycle)
    )
    detail = {"from": known.lifecycle, "to": lifecycle}
    audit.record(connection, actor, "bundle.lifecycle", f"{known.name} {known.version}", detail, now_ms)


def _trusted(settings: HubSettings) -> Any:
    keys = load_public_keys(settings.builders_path)
    if not keys:
        raise ArtifactError(
            "This hub trusts no builder yet, so it can accept no bundle.",
            remedy="Add the builder's public key with edgeops hub trust BUILDER.pub.",
            subject=str(settings.builders_path),
        )
    return keys


def _check_files(blobs: BlobStore, manifest: Manifest) -> int:
    total = 0
    for entry in manifest.all_files().values():
        if not blobs.has(entry.sha256):
            raise _missing(entry.path, entry.sha256)
        # The store vouches for the digest; the size is the manifest's own claim.
        size = blobs.path(entry.sha256).stat().st_size
        if size != entry.size_bytes:
            raise ArtifactError(
                f"{entry.path} has {size} bytes, and {MANIFEST_FILE} says {entry.size_bytes}.",
                remedy="Build and sign the bundle again.",
                subject=entry.path,
            )
        total += size
    return total


def _check_measurements(statement: SignedStatement, measurements: bytes | None) -> None:
    signed = statement.digests.get(MEASUREMENTS_FILE)
    got = sha256_bytes(measurements) if measurements is not None else None
    if got != signed:
        what = "is missing" if got is None else "is not the file that was signed"
        raise ArtifactError(
            f"{MEASUREMENTS_FILE} {what}.",
            remedy="Publish the bundle as it was built.",
            subject=MEASUREMENTS_FILE,
        )
    if measurements is not None:
        try:
            fits = isinstance(json.loads(measurements), dict)
        except (ValueError, RecursionError):
            fits = False
        if not fits:
            raise ArtifactError(
                f"{MEASUREMENTS_FILE} is not a JSON object.",
                remedy="Build the bundle again.",
                subject=MEASUREMENTS_FILE,
            )


def _published_before(known: Row[Any], digest: str) -> Bundle:
    if known.digest != digest:
        raise ConflictError(
            f"{known.name} {known.version} was published already, with other content.",
            remedy="A version never changes: build this one with a new version number.",
            subject=f"{known.name} {known.version}",
            details={"published_digest": known.digest, "digest": digest},
        )
    return _bundle(known)


def _row(connection: Connection, digest: str) -> Row[Any]:
    row = connection.execute(select(schema.bundles).where(schema.bundles.c.digest == digest)).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no bundle with the digest {digest}.", subject=digest)
    return row


def _bundle(row: Row[Any]) -> Bundle:
    return Bundle(
        digest=row.digest,
        name=row.name,
        version=row.version,
        lifecycle=row.lifecycle,
        size_bytes=row.size_bytes,
        builder_key_id=row.builder_key_id,
        published_at_ms=row.published_at_ms,
        published_by=row.published_by,
    )


def _missing(path: str, digest: str) -> ArtifactError:
    return ArtifactError(
        f"{path} ({digest}) was not uploaded.",
        remedy="Publish the bundle with edgeops publish.",
        subject=path,
    )
