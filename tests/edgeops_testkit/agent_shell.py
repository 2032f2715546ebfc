"""The update machine's shell with real files, a real download and real processes, and a power cut at will."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.core.update_types import DesiredChanged, Phase, Policy, Restarted, Target, UpdateState
from device_agent.layout import Layout
from device_agent.processes import leftovers
from device_agent.processes.listener import Listener
from device_agent.processes.supervisor import Supervisor, Terms
from device_agent.updates.download import Downloader
from device_agent.updates.slots import Slots
from device_agent.updates.updater import Hands, StateFile, Updater
from device_agent.uplink.identity import Identity, load_identity
from edgeops.messages import BundleRef
from edgeops_testkit.waiting import free_port, wait_until_async

POLICY = Policy(retry_min_ms=20, retry_max_ms=40, confirm_after_ms=150, crash_limit=3, crash_window_ms=60_000)


class PowerCut(BaseException):
    """The machine is off: nothing that the shell was about to do happens."""


class WatchedFile(StateFile):
    """`update.json` as it is, and the chain of phases that were saved. `looks[phase]` runs once, after
    that phase was."""

    def __init__(self, path: Path, looks: dict[Phase, Callable[[], object]]) -> None:
        super().__init__(path)
        self.chain: list[str] = []
        self.saved = False
        self._last = self.load().phase
        self._looks = looks

    def save(self, state: UpdateState) -> None:
        super().save(state)
        self.saved = True
        if state.phase != self._last:
            self.chain.append(state.phase)
            self._last = state.phase
        look = self._looks.pop(state.phase, None)
        if look is not None:
            look()


def cut() -> None:
    """A look that cuts the power."""
    raise PowerCut


@dataclass
class Shell:
    """Everything of an agent's update but the link. `run` runs it until `done`, or until the power is cut."""

    root: Path
    command: Sequence[str]
    ready_timeout_s: float = 20.0
    looks: dict[Phase, Callable[[], object]] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    events: list[str] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)
    session: int = 0

    def __post_init__(self) -> None:
        self.layout = Layout(self.root)
        self.layout.make()
        self.identity: Identity = load_identity(self.layout.identity)
        self.slots = Slots(self.layout.slots, self.layout.staging, self.identity.builders)

    @property
    def state(self) -> UpdateState:
        return StateFile(self.layout.update_file).load()

    def run(
        self, *desired: tuple[int, BundleRef | None], until: Callable[[UpdateState], bool]
    ) -> UpdateState:
        """Starts the shell, tells it what is desired, and returns the state when `until` holds of it. All
        processes are ended. Raises `PowerCut` if a look did; processes are then left as they are."""
        return asyncio.run(self._run(desired, until))

    async def _run(
        self, desired: Sequence[tuple[int, BundleRef | None]], until: Callable[[UpdateState], bool]
    ) -> UpdateState:
        self.session += 1
        leftovers.end(leftovers.living(self.layout.run), 5)
        file = WatchedFile(self.layout.update_file, self.looks)
        updater = Updater(file, POLICY)
        # A process that the power cut kept from being recorded has the port until it sees its channel's end.
        listener = Listener("127.0.0.1", self.port, wait_s=20)
        supervisor = Supervisor(
            layout=self.layout,
            slots=self.slots,
            listener=listener,
            terms=self._terms(),
            session=self.session,
            tell=updater.tell,
            command=self.command,
        )
        self.downloader = Downloader(
            hub_url=self.identity.enrolment.hub_url,
            tls=self.identity.tls_context,
            slots=self.slots,
            keys=self.identity.builders,
            memory_bytes=1 << 30,
            bundle_size_bytes=64 << 20,
            connect_timeout_s=5,
            read_timeout_s=5,
        )

        def emit(kind: str, _detail: Mapping[str, Any]) -> None:
            self.events.append(kind)

        hands = Hands(self.downloader, self.slots, supervisor, emit, lambda: None)
        updater.tell(Restarted())
        for generation, bundle in desired:
            updater.tell(DesiredChanged(generation, _target(bundle, generation)))
        running = asyncio.create_task(updater.run(hands))
        ended = False
        try:
            await wait_until_async(
                lambda: running.done() or (file.saved and until(updater.state)),
                30,
                f"the update; so far {file.chain}",
            )
            ended = running.done()
            self.served = None if ended else await asyncio.to_thread(self._ask)
            if ended:
                running.result()
            return updater.state
        finally:
            self.chain += file.chain
            running.cancel()
            if not ended:
                await supervisor.close()
            listener.close()

    def _ask(self) -> str | None:
        """What answers on the listening socket: a version, or nobody."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.settimeout(5)
                return connection.recv(100).decode()
        except OSError:
            return None

    def _terms(self) -> Terms:
        return Terms(
            ring_size_bytes=1 << 20,
            engine_threads=1,
            memory_bytes=1 << 30,
            request_size_bytes=1 << 20,
            ready_timeout_s=self.ready_timeout_s,
            drain_timeout_s=5,
            fallback_timeout_s=1,
            gateway_url=None,
            device_key_path="",
            device_cert_path="",
            ca_path="",
        )


def _target(bundle: BundleRef | None, generation: int) -> Target | None:
    return None if bundle is None else Target(bundle.name, bundle.version, bundle.digest, generation)
