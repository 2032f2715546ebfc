"""What Prometheus sees of the hub (https://prometheus.io/docs/practices/naming/).

Everything that is in the database is read at the scrape, so it is right whichever role process answers
and however often it was restarted. Only HTTP requests are counted here, in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, Engine, case, func, select

from cloud_hub.ingest.store import COUNTERS
from cloud_hub.store import schema
from cloud_hub.store.database import reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class HubMetrics:
    """The metrics of one role process, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_DatabaseCollector(engine))
        self._requests = Counter(
            "edgeops_hub_http_requests",
            "HTTP requests answered, by side, route and status.",
            ("side", "method", "route", "status"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "edgeops_hub_http_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ("side", "route"),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )

    def observe(self, side: str, scope: Mapping[str, Any], status: int, elapsed_s: float) -> None:
        """Counts one HTTP request. Routes are templates, and unknown paths and methods share one label
        value each, so that callers cannot make up new time series."""
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(side, method, route, str(status)).inc()
        self._durations.labels(side, route).observe(elapsed_s)

    def exposition(self) -> bytes:
        """The text format of all metrics. Reads the database."""
        return generate_latest(self._registry)


class _DatabaseCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        # Registering must not read a database that may not be there yet.
        return []

    def collect(self) -> Iterable[Metric]:
        with reading(self._engine) as connection:
            return [
                _devices(connection),
                _ingest(connection),
                _grouped(
                    connection,
                    GaugeMetricFamily(
                        "edgeops_hub_bundles", "Published bundles, by lifecycle state.", labels=["lifecycle"]
                    ),
                    schema.bundles.c.lifecycle,
                ),
                _grouped(
                    connection,
                    GaugeMetricFamily("edgeops_hub_rollouts", "Rollouts, by phase.", labels=["phase"]),
                    schema.rollouts.c.phase,
                ),
                _open_alerts(connection),
                *_fallbacks(connection),
            ]


def _devices(connection: Connection) -> Metric:
    family = GaugeMetricFamily("edgeops_hub_devices", "Enrolled devices, by state.", labels=["state"])
    columns = schema.devices.c
    state = case((columns.revoked_at_ms.is_not(None), "revoked"), (columns.online, "online"), else_="offline")
    found = {row[0]: row[1] for row in connection.execute(select(state, func.count()).group_by(state))}
    for name in ("online", "offline", "revoked"):
        family.add_metric([name], found.get(name, 0))
    return family


def _ingest(connection: Connection) -> Metric:
    family = CounterMetricFamily(
        "edgeops_hub_ingest", "What became of devices' messages, by outcome.", labels=["outcome"]
    )
    columns = schema.counters.c
    found = {row.name: row.value for row in connection.execute(select(columns.name, columns.value))}
    for outcome in COUNTERS:
        family.add_metric([outcome], found.get(outcome, 0))
    return family


def _grouped(connection: Connection, family: GaugeMetricFamily, column: Any) -> Metric:
    for row in connection.execute(select(column, func.count()).group_by(column).order_by(column)):
        family.add_metric([row[0]], row[1])
    return family


def _open_alerts(connection: Connection) -> Metric:
    family = GaugeMetricFamily("edgeops_hub_alerts_open", "Open alerts, by severity.", labels=["severity"])
    severity = schema.alerts.c.severity
    query = select(severity, func.count()).where(schema.alerts.c.resolved_at_ms.is_(None)).group_by(severity)
    for row in connection.execute(query.order_by(severity)):
        family.add_metric([row[0]], row[1])
    return family


def _fallbacks(connection: Connection) -> list[Metric]:
    columns = schema.fallback_minutes.c
    labels = ["model", "reason"]
    requests = CounterMetricFamily(
        "edgeops_hub_fallback_requests", "Requests that devices sent to the hub's models.", labels=labels
    )
    errors = CounterMetricFamily("edgeops_hub_fallback_errors", "Those that failed.", labels=labels)
    sums = (func.sum(columns.requests), func.sum(columns.errors))
    query = select(columns.model, columns.reason, *sums).group_by(columns.model, columns.reason)
    for model, reason, total, failed in connection.execute(query.order_by(columns.model, columns.reason)):
        requests.add_metric([model, reason], total)
        errors.add_metric([model, reason], failed)
    return [requests, errors]
