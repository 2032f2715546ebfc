"""The audit log: who did what to what, in order. Written in the transaction of the act itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from cloud_hub.store import schema


@dataclass(frozen=True)
class AuditEntry:
    """One act. `id` grows with time; `detail` is what the act was told."""

    id: int
    at_ms: int
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


def record(
    connection: Connection, actor: str, action: str, subject: str, detail: Mapping[str, Any], now_ms: int
) -> None:
    """Adds an entry within the caller's transaction, so that there is no act without its entry.

    `action` is `thing.verb`, such as `bundle.publish`. `detail` must be JSON and hold no secret.
    """
    connection.execute(
        insert(schema.audit).values(
            at_ms=now_ms,
            actor=actor,
            action=action,
            subject=subject,
            detail_json=json.dumps(dict(detail), sort_keys=True),
        )
    )


def entries(connection: Connection, *, limit: int, before_id: int | None = None) -> list[AuditEntry]:
    """The newest entries first, at most `limit`, all with an id below `before_id` if that is given."""
    query = select(schema.audit).order_by(schema.audit.c.id.desc()).limit(limit)
    if before_id is not None:
        query = query.where(schema.audit.c.id < before_id)
    return [
        AuditEntry(row.id, row.at_ms, row.actor, row.action, row.subject, json.loads(row.detail_json))
        for row in connection.execute(query)
    ]
