"""The alerts table: at most one open alert has a key. `fleet.alerts` decides, this writes it down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from cloud_hub.store import schema
from fleet.alerts import Change, OpenAlert


@dataclass(frozen=True)
class Alert:
    """One alert. `updated_at_ms`: when its condition was last found true; `resolved_at_ms` None: open."""

    id: int
    key: str
    rule: str
    severity: str
    model: str | None
    digest: str | None
    site: str | None
    device: str | None
    feature: str | None
    message: str
    value: float | None
    threshold: float | None
    opened_at_ms: int
    updated_at_ms: int
    resolved_at_ms: int | None


def alerts(connection: Connection, *, open_only: bool, limit: int) -> list[Alert]:
    """The newest alerts first."""
    query = select(schema.alerts).order_by(schema.alerts.c.id.desc()).limit(limit)
    if open_only:
        query = query.where(schema.alerts.c.resolved_at_ms.is_(None))
    return [Alert(**row._mapping) for row in connection.execute(query)]


def open_alerts(connection: Connection, rules: Sequence[str]) -> dict[str, Alert]:
    """The open alerts of these rules, by key."""
    query = select(schema.alerts).where(
        schema.alerts.c.resolved_at_ms.is_(None), schema.alerts.c.rule.in_(rules)
    )
    return {row.key: Alert(**row._mapping) for row in connection.execute(query)}


def as_open(found: Iterable[Alert]) -> dict[str, OpenAlert]:
    """Stored alerts as the rules see them."""
    return {alert.key: OpenAlert(alert.key, alert.updated_at_ms) for alert in found}


def raise_alert(
    connection: Connection,
    *,
    key: str,
    rule: str,
    severity: str,
    message: str,
    now_ms: int,
    model: str | None = None,
    digest: str | None = None,
    site: str | None = None,
    device: str | None = None,
    feature: str | None = None,
    value: float | None = None,
    threshold: float | None = None,
) -> None:
    """Opens the alert `key`, or updates the one that is open. Needs a writing transaction."""
    content = {
        "rule": rule,
        "severity": severity,
        "model": model,
        "digest": digest,
        "site": site,
        "device": device,
        "feature": feature,
        "message": message,
        "value": value,
        "threshold": threshold,
        "updated_at_ms": now_ms,
    }
    is_open = (schema.alerts.c.key == key) & schema.alerts.c.resolved_at_ms.is_(None)
    changed = connection.execute(update(schema.alerts).where(is_open).values(**content))
    if changed.rowcount == 0:
        connection.execute(insert(schema.alerts).values(key=key, opened_at_ms=now_ms, **content))


def resolve(connection: Connection, key: str, now_ms: int) -> None:
    """Resolves the alert `key`, if it is open."""
    is_open = (schema.alerts.c.key == key) & schema.alerts.c.resolved_at_ms.is_(None)
    connection.execute(update(schema.alerts).where(is_open).values(resolved_at_ms=now_ms))


def apply_changes(connection: Connection, changes: Iterable[Change], now_ms: int) -> None:
    """Writes down what `fleet.alerts.reconcile` decided."""
    for change in changes:
        found = change.measurement
        if change.act == "resolve":
            resolve(connection, found.key, now_ms)
            continue
        raise_alert(
            connection,
            key=found.key,
            rule=found.rule.name,
            severity=found.rule.severity,
            message=found.message,
            now_ms=now_ms,
            model=found.model,
            digest=found.digest,
            site=found.site,
            device=found.device,
            feature=found.feature,
            value=found.value,
            threshold=found.threshold,
        )
