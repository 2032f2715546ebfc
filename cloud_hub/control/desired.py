"""The desired side of the twin: what the hub wants each device to run, signed per device."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from cloud_hub.store.schema import desired, devices
from edgeops.errors import ConflictError, NotFoundError
from edgeops.messages import BundleRef, DesiredState
from edgeops.signing.desired import sign_desired
from edgeops.signing.keys import PrivateKey


@dataclass(frozen=True)
class Desired:
    """A row of `desired`: `published_generation` is the last one that the broker has taken."""

    device: str
    generation: int
    digest: str | None
    rollout: str | None
    published_generation: int


@dataclass(frozen=True)
class Publication:
    """One retained message that the broker should hold. An empty payload takes the old one away;
    `marks` is what to enter as published once the broker has it."""

    device: str
    payload: bytes
    marks: int


def assign(
    connection: Connection,
    signer: PrivateKey,
    device: str,
    bundle: BundleRef | None,
    rollout: str | None,
    now_ms: int,
) -> int:
    """Makes `bundle` (None: nothing) what the device should run; returns the generation in force.

    The generation grows by one, and a new envelope waits for the publisher; where digest and rollout are
    as they were, nothing changes. Needs a writing transaction. Raises `NotFoundError` for an unknown
    device and `ConflictError` for a revoked one.
    """
    found = connection.execute(select(devices.c.revoked_at_ms).where(devices.c.name == device)).one_or_none()
    if found is None:
        raise NotFoundError(f"There is no device {device!r}.", subject=device)
    if found.revoked_at_ms is not None:
        raise ConflictError(
            f"The device {device!r} is revoked.", remedy="Enrol it again first.", subject=device
        )
    query = select(desired).where(desired.c.device == device).with_for_update()
    current = connection.execute(query).one_or_none()
    digest = bundle.digest if bundle is not None else None
    if current is not None and (current.digest, current.rollout) == (digest, rollout):
        return int(current.generation)
    generation = current.generation + 1 if current is not None else 1
    envelope = sign_desired(
        signer,
        DesiredState(
            device=device, generation=generation, bundle=bundle, rollout=rollout, issued_at_ms=now_ms
        ),
    )
    values = {
        "generation": generation,
        "digest": digest,
        "rollout": rollout,
        "envelope": envelope,
        "updated_at_ms": now_ms,
    }
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(desired).values(device=device, published_generation=0, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[desired.c.device], set_=values))
    return generation


def desired_of(connection: Connection, device: str) -> Desired | None:
    """What a device should run, or None if nothing was ever assigned to it."""
    query = select(desired).where(desired.c.device == device)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Desired(row.device, row.generation, row.digest, row.rollout, row.published_generation)


def publications(connection: Connection, *, all_of_them: bool = False) -> list[Publication]:
    """What the broker has not got yet, or with `all_of_them` all that it should hold.

    For a revoked device that is an empty message, which takes the retained one away.
    """
    query = select(
        desired.c.device,
        desired.c.generation,
        desired.c.envelope,
        desired.c.published_generation,
        devices.c.revoked_at_ms,
    ).join(devices, devices.c.name == desired.c.device)
    if not all_of_them:
        query = query.where(
            (devices.c.revoked_at_ms.is_(None) & (desired.c.published_generation < desired.c.generation))
            | (devices.c.revoked_at_ms.is_not(None) & (desired.c.published_generation != 0))
        )
    return [
        Publication(row.device, row.envelope, row.generation)
        if row.revoked_at_ms is None
        else Publication(row.device, b"", 0)
        for row in connection.execute(query.order_by(desired.c.device))
    ]


def mark_published(connection: Connection, done: list[Publication]) -> None:
    """Enters what the broker has taken. A generation that was assigned meanwhile still waits."""
    for publication in done:
        statement = update(desired).where(desired.c.device == publication.device)
        connection.execute(statement.values(published_generation=publication.marks))
