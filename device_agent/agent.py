"""The control process: it puts the parts together, starts them in order and ends them in order.

No engine is imported here, so nothing native can take this process down: link, updates, spool and twin go on
whatever happens to the process that serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from device_agent.admin import STALE_S, admin_app, serve_admin
from device_agent.core.update_types import Policy, Restarted
from device_agent.figures import Parts
from device_agent.layout import Layout
from device_agent.processes import leftovers
from device_agent.processes.child import COMMAND
from device_agent.processes.listener import Listener, listening_socket
from device_agent.processes.notify import Notifier
from device_agent.processes.supervisor import Supervisor, Terms
from device_agent.settings import AgentSettings
from device_agent.telemetry.collector import TelemetryCollector
from device_agent.telemetry.drain import Telemetry
from device_agent.telemetry.spool import Spool
from device_agent.updates.download import Downloader
from device_agent.updates.slots import Slots
from device_agent.updates.updater import Hands, StateFile, Updater
from device_agent.uplink.identity import Identity, load_identity
from device_agent.uplink.link import Link, LinkTerms
from device_agent.uplink.renewal import keep_renewed
from device_agent.uplink.twin import Twin
from edgeops import clock

_log = logging.getLogger(__name__)
# A process that was started a moment before its agent was killed is not on record yet.
_PORT_WAIT_S = 1.0


async def run_agent(settings: AgentSettings, *, serving_command: Sequence[str] = COMMAND) -> None:
    """Runs the agent until SIGTERM or SIGINT. Serving starts from what is installed; the hub may be away.

    Raises `ConfigError` at once when the device is not enrolled, another agent uses the state folder, or a
    port is taken.
    """
    notifier = Notifier()
    layout = Layout(settings.state_dir.absolute())
    layout.make()
    with layout.lock(), contextlib.ExitStack() as stack:
        identity = load_identity(layout.identity)
        admin = listening_socket(settings.admin_host, settings.admin_port, "admin_port")
        stack.callback(admin.close)
        # Processes of an agent that was killed drain by themselves. They let go of the port at once and of
        # their connections by and by, so there is no need to wait for their end.
        left = leftovers.living(layout.run)
        ending = asyncio.create_task(asyncio.to_thread(leftovers.end, left, settings.drain_timeout_s))
        wait_s = settings.drain_timeout_s + _PORT_WAIT_S if left else _PORT_WAIT_S
        listener = await asyncio.to_thread(
            Listener, settings.listen_host, settings.listen_port, wait_s=wait_s
        )
        stack.callback(listener.close)
        spool = Spool(layout.spool_file, identity.device, size_bytes=settings.spool_size_bytes)
        stack.callback(spool.close)
        collector = TelemetryCollector(
            layout.rings, spool, device=identity.device, interval_s=settings.window_interval_s
        )
        stack.callback(collector.close)
        agent = _Agent(settings, layout, identity, spool, collector, listener, serving_command)
        await agent.run(admin, notifier)
        await ending


class _Agent:
    """The parts, joined."""

    def __init__(
        self,
        settings: AgentSettings,
        layout: Layout,
        identity: Identity,
        spool: Spool,
        collector: TelemetryCollector,
        listener: Listener,
        serving_command: Sequence[str],
    ) -> None:
        enrolment = identity.enrolment
        self._settings = settings
        self._identity = identity
        self._hub_url = settings.hub_url or enrolment.hub_url
        self._updater = Updater(StateFile(layout.update_file), _policy(settings))
        self._slots = Slots(layout.slots, layout.staging, identity.builders)
        self._downloader = Downloader(
            hub_url=self._hub_url,
            tls=identity.tls_context,
            slots=self._slots,
            keys=identity.builders,
            memory_bytes=settings.serving_memory_bytes,
            bundle_size_bytes=settings.bundle_size_bytes,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.download_timeout_s,
        )
        self._telemetry = Telemetry(collector, spool, lambda: self._link.wake())
        self._supervisor = Supervisor(
            layout=layout,
            slots=self._slots,
            listener=listener,
            terms=_terms(settings, identity),
            session=spool.session,
            tell=self._updater.tell,
            command=serving_command,
        )
        self._twin = Twin(
            identity=identity,
            session=spool.session,
            state=lambda: self._updater.state,
            child=self._supervisor.child,
            requests=self._telemetry.requests,
            progress=lambda: self._downloader.progress,
            tell=self._updater.tell,
            emit=self._telemetry.emit,
        )
        self._link = Link(
            device=identity.device,
            terms=_link_terms(settings, identity),
            tls=identity.tls_context,
            spool=spool,
            on_desired=self._twin.take,
            report=self._twin.reported,
        )
        self._parts = Parts(
            identity=identity,
            spool=spool,
            updater=self._updater,
            supervisor=self._supervisor,
            twin=self._twin,
            link=self._link,
            telemetry=self._telemetry,
            downloader=self._downloader,
            listen=f"http://{settings.listen_host}:{settings.listen_port}",
            started_at_ms=clock.now_ms(),
        )

    async def run(self, admin: socket.socket, notifier: Notifier) -> None:
        """Runs all parts until a signal comes, or one of them fails (which is a bug, and is raised)."""
        hands = Hands(
            self._downloader, self._slots, self._supervisor, self._telemetry.emit, self._link.report
        )
        self._updater.tell(Restarted())
        renewal = keep_renewed(
            self._identity,
            self._hub_url,
            timeout_s=self._settings.connect_timeout_s,
            retry_min_s=self._settings.retry_min_s,
            retry_max_s=self._settings.retry_max_s,
        )
        work: list[Coroutine[Any, Any, None]] = [
            self._updater.run(hands),
            self._telemetry.run(),
            self._report_requests(),
            renewal,
            serve_admin(admin_app(self._parts), admin),
        ]
        if notifier.watchdog_s is not None:
            work.append(self._keep_watchdog(notifier, notifier.watchdog_s))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        link = asyncio.create_task(self._link.run())
        tasks = [asyncio.create_task(part) for part in work]
        stopping = asyncio.create_task(stop.wait())
        _log.info("The agent of %s runs; the local API is %s.", self._identity.device, self._parts.listen)
        notifier.ready()
        try:
            await asyncio.wait((*tasks, link, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            notifier.stopping()
            stopping.cancel()
            await _end(tasks)
            # What is open is answered, and what was answered is counted, before the hub hears goodbye.
            await self._supervisor.close()
            await asyncio.to_thread(self._telemetry.drain, flush=True)
            await _end([link])
        for task in (*tasks, link):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _report_requests(self) -> None:
        """Reports again while requests are answered: the hub counts a device as updated once it has."""
        told = -1
        while True:
            await asyncio.sleep(self._settings.window_interval_s)
            running = self._twin.running()
            answered = running.requests if running is not None else 0
            if answered != told:
                told = answered
                self._link.report()

    async def _keep_watchdog(self, notifier: Notifier, period_s: float) -> None:
        """Tells systemd that all is well, as long as it is."""
        while True:
            if time.monotonic() - self._telemetry.beat_s < STALE_S:
                notifier.alive()
            await asyncio.sleep(period_s / 3)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _policy(settings: AgentSettings) -> Policy:
    return Policy(
        retry_min_ms=round(settings.retry_min_s * 1000),
        retry_max_ms=round(settings.retry_max_s * 1000),
        confirm_after_ms=round(settings.confirm_after_s * 1000),
        crash_limit=settings.crash_limit,
        crash_window_ms=round(settings.crash_window_s * 1000),
    )


def _terms(settings: AgentSettings, identity: Identity) -> Terms:
    return Terms(
        ring_size_bytes=settings.ring_size_bytes,
        engine_threads=settings.engine_threads,
        memory_bytes=settings.serving_memory_bytes,
        request_size_bytes=settings.request_size_bytes,
        ready_timeout_s=settings.ready_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
        fallback_timeout_s=settings.fallback_timeout_s,
        gateway_url=settings.gateway_url or identity.enrolment.gateway_url,
        device_key_path=str(identity.key_path),
        device_cert_path=str(identity.certificate_path),
        ca_path=str(identity.ca_path),
    )


def _link_terms(settings: AgentSettings, identity: Identity) -> LinkTerms:
    return LinkTerms(
        host=settings.mqtt_host or identity.enrolment.mqtt_host,
        port=settings.mqtt_port or identity.enrolment.mqtt_port,
        connect_timeout_s=settings.connect_timeout_s,
        retry_min_s=settings.retry_min_s,
        retry_max_s=settings.retry_max_s,
        ack_timeout_s=settings.ack_timeout_s,
        in_flight=settings.ack_in_flight,
    )
