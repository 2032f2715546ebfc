"""The agent's figures, for people (`/status`) and for Prometheus (`/metrics`). Every one is measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from device_agent.core.update_types import PHASES
from device_agent.processes.supervisor import Supervisor
from device_agent.telemetry.drain import Telemetry
from device_agent.telemetry.spool import Spool
from device_agent.updates.download import Downloader
from device_agent.updates.updater import Updater
from device_agent.uplink.identity import Identity
from device_agent.uplink.link import Link
from device_agent.uplink.twin import Twin
from edgeops import __version__
from edgeops.errors import ConfigError


@dataclass(frozen=True)
class Parts:
    """What the figures are read from."""

    identity: Identity
    spool: Spool
    updater: Updater
    supervisor: Supervisor
    twin: Twin
    link: Link
    telemetry: Telemetry
    downloader: Downloader
    listen: str
    started_at_ms: int


def status(parts: Parts) -> dict[str, Any]:
    """The agent's state as JSON-ready data."""
    state = parts.updater.state
    child = parts.supervisor.child(state.launch)
    return {
        "device": parts.identity.device,
        "agent_version": __version__,
        "hub_url": parts.identity.enrolment.hub_url,
        "session": parts.spool.session,
        "started_at_ms": parts.started_at_ms,
        "listen": parts.listen,
        "generation": state.generation,
        "rejected_generation": state.rejected_generation,
        "running": _plain(parts.twin.running()),
        "update": _plain(parts.twin.update_status()),
        "desired": _plain(state.desired),
        "active": _plain(state.active),
        "previous": _plain(state.previous),
        "serving": {
            "health": state.health,
            "pid": child.pid if child is not None else None,
            "load_ms": child.ready.load_ms if child is not None and child.ready is not None else None,
            "crashes": len(state.crashes),
        },
        "link": asdict(parts.link.figures),
        "twin": asdict(parts.twin.figures),
        "telemetry": asdict(parts.telemetry.figures),
        "spool": {"pending": parts.spool.count(), "used_bytes": parts.spool.used_bytes()},
        "certificate": _certificate(parts.identity),
    }


def _certificate(identity: Identity) -> dict[str, Any]:
    try:
        expires_at_ms = _ms(identity.certificate().not_valid_after_utc.timestamp())
        return {"expires_at_ms": expires_at_ms, "renewal_due_ms": identity.renewal_due_ms()}
    except ConfigError as error:
        return {"error": error.to_dict()}


def registry(parts: Parts) -> CollectorRegistry:
    """A registry that reads the parts whenever it is asked."""
    made = CollectorRegistry()
    made.register(_AgentCollector(parts))
    ProcessCollector(registry=made)
    return made


class _AgentCollector(Collector):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        parts, state, link = self._parts, self._parts.updater.state, self._parts.link.figures
        info = InfoMetricFamily("edgeops_agent", "The agent and the device it runs on.")
        info.add_metric([], {"version": __version__, "device": parts.identity.device})
        yield info
        yield _gauge("connected", "Whether the link to the hub's broker stands.", link.connected)
        yield _counter("connections", "Connections to the broker that stood.", link.connections)
        yield _counter("connection_failures", "Attempts to connect that failed.", link.failures)
        yield _counter("messages_published", "Windows and events sent, repeats included.", link.published)
        yield _counter("messages_resent", "Windows and events sent again for want of an answer.", link.resent)
        yield _counter("messages_acknowledged", "Windows and events committed by the hub.", link.acknowledged)
        yield _counter("messages_malformed", "Incoming messages that were none of ours.", link.malformed)
        desired = parts.twin.figures
        yield _counter("desired_accepted", "Desired states that were rightly signed.", desired.accepted)
        yield _counter("desired_refused", "Desired states that were refused.", desired.refused)
        yield _gauge("spool_entries", "Messages the hub has not committed.", parts.spool.count())
        yield _gauge("spool_bytes", "Space that the spool's entries take.", parts.spool.used_bytes())
        telemetry = parts.telemetry.figures
        yield _counter("windows", "Telemetry windows closed.", telemetry.windows)
        yield _counter("events", "Events stored.", telemetry.events)
        yield _counter("events_refused", "Events that a full spool did not take.", telemetry.refused_events)
        download = parts.downloader
        yield _counter("download_bytes", "Bytes of bundles fetched from the hub.", download.fetched_bytes)
        yield _counter("reused_bytes", "Bytes of bundles copied from other slots.", download.reused_bytes)
        yield _gauge("desired_generation", "The last desired generation accepted.", state.generation)
        yield _gauge("rejected_generation", "The last generation refused.", state.rejected_generation)
        phase = GaugeMetricFamily(
            "edgeops_agent_update_phase", "1 for the phase the update machine is in.", labels=["phase"]
        )
        for name in PHASES:
            phase.add_metric([name], float(name == state.phase))
        yield phase
        yield from self._serving()

    def _serving(self) -> Iterable[Metric]:
        supervisor, running = self._parts.supervisor.figures, self._parts.twin.running()
        yield _counter("serving_starts", "Serving processes started.", supervisor.starts)
        yield _counter("serving_crashes", "Serving processes that ended by themselves.", supervisor.crashes)
        yield _gauge("serving", "Whether a serving process accepts requests.", running is not None)
        bundle = GaugeMetricFamily(
            "edgeops_agent_running_bundle",
            "1 for the bundle whose weights are loaded and serve.",
            labels=["name", "version", "digest", "variant"],
        )
        requests = CounterMetricFamily(
            "edgeops_agent_requests",
            "Requests answered by the present serving process.",
            labels=["name", "version"],
        )
        if running is not None:
            ref = running.bundle
            bundle.add_metric([ref.name, ref.version, ref.digest, running.variant], 1)
            requests.add_metric([ref.name, ref.version], running.requests)
        yield bundle
        yield requests
        try:
            expiry = self._parts.identity.certificate().not_valid_after_utc.timestamp()
        except ConfigError:
            return  # a damaged file has no end to tell; `/status` says what is wrong with it
        yield _gauge("certificate_expiry_timestamp_seconds", "When the client certificate ends.", expiry)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"edgeops_agent_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"edgeops_agent_{name}", text, value=float(value))


def _plain(value: object) -> Any:
    return None if value is None else msgspec.to_builtins(value)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
