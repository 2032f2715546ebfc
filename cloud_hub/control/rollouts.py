"""Rollouts in the database: the shell around `fleet.rollout`, for the API and for the control loop alike.

A step, the new state, its effects and the audit entry are one transaction: a kill at any instant leaves all
or nothing of them, and nothing has to be repeated after a restart.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, insert, or_, select, update

from cloud_hub import audit
from cloud_hub.bundles import registry
from cloud_hub.control.alert_store import raise_alert, resolve
from cloud_hub.control.desired import assign
from cloud_hub.control.evidence_store import fleet, look, newest_window
from cloud_hub.store import schema
from edgeops.errors import ConflictError, NotFoundError
from edgeops.signing.keys import PrivateKey
from fleet.plan import make_plan
from fleet.rollout import step
from fleet.rollout_types import (
    HOLDING,
    Abort,
    Approve,
    Assign,
    ClearAlert,
    Effect,
    Event,
    Log,
    Pause,
    Plan,
    Promote,
    RaiseAlert,
    Resume,
    Rollout,
    SetProduction,
    Spec,
    Start,
    State,
)

CONTROL_LOOP = "control loop"


@dataclass(frozen=True)
class StoredRollout:
    """A rollout and its row's times."""

    rollout: Rollout
    created_at_ms: int
    updated_at_ms: int
    created_by: str


_LOOK = "look"


@dataclass(frozen=True)
class LogEntry:
    """What happened to a rollout: a `transition`, a `look` at the evidence, or a `device`'s progress."""

    id: int
    at_ms: int
    kind: str
    detail: dict[str, Any]


def create(connection: Connection, spec: Spec, actor: str, now_ms: int) -> StoredRollout:
    """Writes down a rollout as a draft, with the plan as it would be now. Nothing moves before `approve`.

    Raises `NotFoundError` for an empty cohort, `ConflictError` for a plan that cannot be judged or a
    candidate that is retired.
    """
    candidate = registry.bundle_by_digest(connection, spec.candidate.digest)
    if candidate.lifecycle == "retired":
        raise ConflictError(
            f"{candidate.name} {candidate.version} is retired.",
            remedy="Roll out another version.",
            subject=candidate.digest,
        )
    rollout_id = f"r-{secrets.token_hex(5)}"
    plan = _plan(connection, rollout_id, spec)
    rollout = Rollout(id=rollout_id, spec=spec, state=State(plan=plan))
    connection.execute(
        insert(schema.rollouts).values(
            id=rollout.id,
            model=spec.candidate.name,
            candidate_digest=spec.candidate.digest,
            spec_json=_json(spec),
            created_at_ms=now_ms,
            created_by=actor,
            **_columns(rollout, now_ms),
        )
    )
    detail = {"candidate": msgspec.to_builtins(spec.candidate), "strategy": spec.strategy}
    audit.record(connection, actor, "rollout.create", rollout.id, detail, now_ms)
    return StoredRollout(rollout, now_ms, now_ms, actor)


def load(connection: Connection, rollout_id: str) -> StoredRollout:
    """One rollout, or `NotFoundError`."""
    query = select(schema.rollouts).where(schema.rollouts.c.id == rollout_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFoundError(
            f"There is no rollout {rollout_id!r}.",
            remedy="edgeops fleet rollout status lists them.",
            subject=rollout_id,
        )
    return _stored(row)


def rollouts(connection: Connection, *, limit: int) -> list[StoredRollout]:
    """The newest rollouts first."""
    query = select(schema.rollouts).order_by(schema.rollouts.c.created_at_ms.desc(), schema.rollouts.c.id)
    return [_stored(row) for row in connection.execute(query.limit(limit))]


def active_ids(connection: Connection) -> list[str]:
    """The rollouts that the control loop moves, the oldest first."""
    query = select(schema.rollouts.c.id).where(schema.rollouts.c.phase.in_(sorted(HOLDING)))
    return list(connection.execute(query.order_by(schema.rollouts.c.created_at_ms)).scalars())


def log(connection: Connection, rollout_id: str, *, limit: int) -> list[LogEntry]:
    """What happened to a rollout, the newest first: the newest `limit` transitions and device entries, and at
    most `limit` looks, thinned out evenly over the whole rollout with the newest among them.

    A long canary's looks would push everything else out of one list.
    """
    table = schema.rollout_log
    mine = table.c.rollout == rollout_id
    others = select(table).where(mine, table.c.kind != _LOOK).order_by(table.c.id.desc()).limit(limit)
    looks = (mine, table.c.kind == _LOOK)
    count = connection.execute(select(func.count()).select_from(table).where(*looks)).scalar_one()
    total = int(count)
    stride = max(1, -(-total // max(1, limit - 1)))
    # Counted from the oldest, so that the choice stays the same while more come.
    age = func.row_number().over(order_by=table.c.id)
    ranked = select(table.c.id, age.label("age")).where(*looks).subquery()
    chosen = (
        select(table)
        .join(ranked, ranked.c.id == table.c.id)
        .where(or_((ranked.c.age - 1) % stride == 0, ranked.c.age == total))
    )
    rows = [*connection.execute(others), *connection.execute(chosen)]
    entries = [LogEntry(row.id, row.at_ms, row.kind, json.loads(row.detail_json)) for row in rows]
    return sorted(entries, key=lambda entry: entry.id, reverse=True)


def approve(
    connection: Connection, signer: PrivateKey, rollout_id: str, actor: str, now_ms: int
) -> StoredRollout:
    """Lets a draft go, with the plan as it is now. Raises `ConflictError` when another rollout holds one of
    the devices."""
    stored = load(connection, rollout_id)
    plan = stored.rollout.state.plan
    if stored.rollout.state.phase == "draft":
        plan = _plan(connection, rollout_id, stored.rollout.spec)
        _refuse_held(connection, rollout_id, plan)
    return _act(connection, signer, stored, Approve(actor, plan), actor, now_ms)


def promote(
    connection: Connection, signer: PrivateKey, rollout_id: str, actor: str, now_ms: int
) -> StoredRollout:
    """Promotes by an operator's word, whatever the evidence."""
    return _act(connection, signer, load(connection, rollout_id), Promote(actor), actor, now_ms)


def pause(
    connection: Connection, signer: PrivateKey, rollout_id: str, actor: str, reason: str, now_ms: int
) -> StoredRollout:
    """Holds a rollout."""
    return _act(connection, signer, load(connection, rollout_id), Pause(actor, reason), actor, now_ms)


def resume(
    connection: Connection, signer: PrivateKey, rollout_id: str, actor: str, now_ms: int
) -> StoredRollout:
    """Lets a held rollout go on."""
    return _act(connection, signer, load(connection, rollout_id), Resume(actor), actor, now_ms)


def abort(
    connection: Connection, signer: PrivateKey, rollout_id: str, actor: str, reason: str, now_ms: int
) -> StoredRollout:
    """Ends a rollout; the devices that it moved return."""
    return _act(connection, signer, load(connection, rollout_id), Abort(actor, reason), actor, now_ms)


def turn(connection: Connection, signer: PrivateKey, rollout_id: str, now_ms: int) -> StoredRollout:
    """The control loop's turn: starts a rollout that is approved, looks at one that is under way."""
    stored = load(connection, rollout_id)
    phase = stored.rollout.state.phase
    if phase not in HOLDING:
        return stored  # it ended since the loop listed it
    if phase == "approved":
        return apply(connection, signer, stored, Start(newest_window(connection)), now_ms)
    return apply(connection, signer, stored, look(connection, stored.rollout), now_ms)


def apply(
    connection: Connection, signer: PrivateKey, stored: StoredRollout, event: Event, now_ms: int
) -> StoredRollout:
    """One step of the machine: the new state is stored, then its effects are performed.

    Needs a writing transaction, in which `stored` was loaded. Raises `IllegalTransitionError` when the phase
    does not know the event; nothing has changed then.
    """
    before = stored.rollout
    after, effects = step(before, event, now_ms)
    if after != before:
        connection.execute(
            update(schema.rollouts).where(schema.rollouts.c.id == before.id).values(**_columns(after, now_ms))
        )
    _perform(connection, signer, after, effects, now_ms)
    return StoredRollout(after, stored.created_at_ms, now_ms, stored.created_by)


def _act(
    connection: Connection, signer: PrivateKey, stored: StoredRollout, event: Event, actor: str, now_ms: int
) -> StoredRollout:
    result = apply(connection, signer, stored, event, now_ms)
    detail: dict[str, str] = {"from": stored.rollout.state.phase, "to": result.rollout.state.phase}
    if isinstance(event, Pause | Abort) and event.reason:
        detail["reason"] = event.reason
    action = f"rollout.{type(event).__name__.lower()}"
    audit.record(connection, actor, action, result.rollout.id, detail, now_ms)
    return result


def _perform(
    connection: Connection, signer: PrivateKey, rollout: Rollout, effects: Iterable[Effect], now_ms: int
) -> None:
    model = rollout.spec.candidate.name
    revoked = _revoked(connection)
    for effect in effects:
        match effect:
            case Assign():
                # A device may have been revoked since the last look: there is nothing to tell it any more.
                if effect.device not in revoked:
                    assign(connection, signer, effect.device, effect.bundle, rollout.id, now_ms)
            case Log():
                connection.execute(
                    insert(schema.rollout_log).values(
                        rollout=rollout.id,
                        at_ms=now_ms,
                        kind=effect.kind,
                        detail_json=json.dumps(effect.detail),
                    )
                )
            case RaiseAlert():
                raise_alert(
                    connection,
                    key=effect.key,
                    rule=effect.rule,
                    severity=effect.severity,
                    message=effect.message,
                    model=model,
                    digest=rollout.spec.candidate.digest,
                    now_ms=now_ms,
                )
            case ClearAlert():
                resolve(connection, effect.key, now_ms)
            case SetProduction():
                _set_production(connection, effect, now_ms)


def _set_production(connection: Connection, effect: SetProduction, now_ms: int) -> None:
    bundle = effect.bundle
    registry.set_lifecycle(
        connection, digest=bundle.digest, lifecycle="production", actor=CONTROL_LOOP, now_ms=now_ms
    )
    if effect.alias is not None:
        registry.set_alias(
            connection,
            name=bundle.name,
            alias=effect.alias,
            digest=bundle.digest,
            actor=CONTROL_LOOP,
            now_ms=now_ms,
        )


def _plan(connection: Connection, rollout_id: str, spec: Spec) -> Plan:
    members, wanted = fleet(connection)
    return make_plan(rollout_id, spec, members, wanted)


def _refuse_held(connection: Connection, rollout_id: str, plan: Plan) -> None:
    names = {each.name for each in plan.devices}
    for other_id in active_ids(connection):
        other = load(connection, other_id).rollout
        shared = sorted(names & {each.name for each in other.state.plan.devices})
        if shared and other_id != rollout_id:
            raise ConflictError(
                f"The rollout {other_id} holds {shared[0]}"
                + (f" and {len(shared) - 1} more of these devices." if len(shared) > 1 else "."),
                remedy=f"Wait for it, or end it with edgeops fleet rollout abort {other_id}.",
                subject=other_id,
                details={"devices": shared},
            )


def _revoked(connection: Connection) -> set[str]:
    query = select(schema.devices.c.name).where(schema.devices.c.revoked_at_ms.is_not(None))
    return set(connection.execute(query).scalars())


def _columns(rollout: Rollout, now_ms: int) -> dict[str, Any]:
    baseline = rollout.state.plan.baseline
    return {
        "baseline_digest": baseline.digest if baseline is not None else None,
        "state_json": _json(rollout.state),
        "phase": rollout.state.phase,
        "updated_at_ms": now_ms,
    }


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


def _stored(row: Row[Any]) -> StoredRollout:
    rollout = Rollout(
        id=row.id,
        spec=msgspec.json.decode(row.spec_json, type=Spec),
        state=msgspec.json.decode(row.state_json, type=State),
    )
    return StoredRollout(rollout, row.created_at_ms, row.updated_at_ms, row.created_by)
