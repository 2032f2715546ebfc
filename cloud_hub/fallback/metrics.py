"""What Prometheus sees of one gateway process. The sums over all of them are in the database, and the
operators' metrics show those (`cloud_hub.metrics`)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class GatewayMetrics:
    """The metrics of one gateway, in a registry of their own. Label values come from closed sets: published
    models, known reasons, kinds of errors."""

    def __init__(self, *, engines: Callable[[], int], dropped: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "edgeops_gateway_requests",
            "Well-formed requests to a published model, by outcome (ok, or the error's kind).",
            ("model", "reason", "outcome"),
            registry=self._registry,
        )
        self._durations = Histogram(
            "edgeops_gateway_request_duration_seconds",
            "Time from a decoded request to its answer, waiting for the engine included.",
            ("model",),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._rejected = Counter(
            "edgeops_gateway_rejected_requests",
            "Requests refused: malformed, unknown model, or a caller who may not ask; by kind.",
            ("kind",),
            registry=self._registry,
        )
        self._loads = Counter(
            "edgeops_gateway_engine_loads",
            "Loads of a cloud variant, by outcome (ok, or the error's kind).",
            ("outcome",),
            registry=self._registry,
        )
        loaded = Gauge(
            "edgeops_gateway_engines", "Engine processes loaded or being loaded.", registry=self._registry
        )
        loaded.set_function(engines)
        self._registry.register(_Dropped(dropped))

    def answered(self, model: str, reason: str, outcome: str, elapsed_s: float) -> None:
        """Counts a request to a published model."""
        self._requests.labels(model, reason, outcome).inc()
        self._durations.labels(model).observe(elapsed_s)

    def rejected(self, kind: str) -> None:
        """Counts a refused request."""
        self._rejected.labels(kind).inc()

    def loaded(self, outcome: str) -> None:
        """Counts a load of an engine."""
        self._loads.labels(outcome).inc()

    def exposition(self) -> bytes:
        """The text format of all metrics."""
        return generate_latest(self._registry)


class _Dropped(Collector):
    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def collect(self) -> list[CounterMetricFamily]:
        family = CounterMetricFamily(
            "edgeops_gateway_ledger_dropped",
            "Requests that are missing from the hub's sums, since its database was away for too long.",
        )
        family.add_metric([], self._dropped())
        return [family]
