"""What the bar above every page shows: open alerts, and rollouts under way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from cloud_hub.api.rollout_views import RolloutSummary, summary
from cloud_hub.control import rollouts
from cloud_hub.store import schema
from cloud_hub.store.database import reading


@dataclass(frozen=True)
class Pulse:
    """Open alerts by severity, and the rollouts that hold devices now, the oldest first."""

    alerts: Counter[str]
    under_way: tuple[RolloutSummary, ...]

    @property
    def open_alerts(self) -> int:
        """All of them."""
        return self.alerts.total()


def load_pulse(engine: Engine) -> Pulse:
    """Reads it."""
    alerts = schema.alerts.c
    counts = (
        select(alerts.severity, func.count()).where(alerts.resolved_at_ms.is_(None)).group_by(alerts.severity)
    )
    with reading(engine) as connection:
        found = Counter({row[0]: int(row[1]) for row in connection.execute(counts)})
        under_way = tuple(
            summary(rollouts.load(connection, each)) for each in rollouts.active_ids(connection)
        )
    return Pulse(found, under_way)
