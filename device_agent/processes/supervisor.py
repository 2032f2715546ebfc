"""The serving processes: starting, switching, restarting and ending them, with no request refused.

The listening socket is this process's and every serving process inherits it. A new process holds until it is
told to accept; the old one is drained only after that, so there is no moment in which nobody accepts. When
one dies, connections wait in the socket's queue until the next one is there.

The update machine decides; this carries out its effects and tells it what happened.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from device_agent.core.update_types import (
    Activated,
    Event,
    ServingCrashed,
    ServingFailed,
    ServingReady,
    ServingStarted,
    Slot,
    SlotDamaged,
)
from device_agent.layout import Layout
from device_agent.processes import leftovers
from device_agent.processes.child import COMMAND, Child, ServingFailure
from device_agent.processes.listener import Listener
from device_agent.processes.serving_protocol import Start
from device_agent.updates.slots import Slots
from edgeops.errors import ArtifactError, ConfigError
from edgeops.messages import BundleRef

_log = logging.getLogger(__name__)

_Failure = ServingFailure | OSError | ConfigError


@dataclass(frozen=True)
class Terms:
    """What every serving process gets: its limits, and where the gateway is."""

    ring_size_bytes: int
    engine_threads: int
    memory_bytes: int
    request_size_bytes: int
    ready_timeout_s: float
    drain_timeout_s: float
    fallback_timeout_s: float
    gateway_url: str | None
    device_key_path: str
    device_cert_path: str
    ca_path: str


@dataclass
class SupervisorFigures:
    """Processes started, and those that ended by themselves, since the agent started."""

    starts: int = 0
    crashes: int = 0


class Supervisor:
    """Starts serving processes by `command` and tells `tell` of their fate. `session` makes the names of
    their rings unique for ever."""

    def __init__(
        self,
        *,
        layout: Layout,
        slots: Slots,
        listener: Listener,
        terms: Terms,
        session: int,
        tell: Callable[[Event], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.figures = SupervisorFigures()
        self._layout = layout
        self._slots = slots
        self._listener = listener
        self._terms = terms
        self._session = session
        self._tell = tell
        self._command = command
        self._children: dict[int, Child] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = False

    def child(self, number: int) -> Child | None:
        """The living process of that number, if there is one."""
        return self._children.get(number)

    def trial(self, number: int, slot: Slot) -> None:
        """Starts a process that loads and self-tests, and holds."""
        if number not in self._children:
            self._children[number] = child = self._child(number, slot)
            self._background(self._live(number, child, at_once=False))

    def serve(self, number: int, slot: Slot) -> None:
        """Starts a process that accepts as soon as it can, if the slot is still what was verified."""
        if number not in self._children:
            self._children[number] = child = self._child(number, slot)
            self._background(self._check_and_live(number, child, slot))

    def activate(self, number: int) -> None:
        """Lets the process of that number accept."""
        child = self._children.get(number)
        if child is not None:
            self._background(self._activate(number, child))

    def retire(self, keep: int) -> None:
        """Drains every process but number `keep`."""
        for number, child in self._children.items():
            if number != keep and not child.draining:
                child.draining = True
                self._background(child.drain())

    def want(self, serving: bool) -> None:
        """Whether connections should be taken: if so they queue until a process accepts them; if not they
        are refused, once the last process has gone."""
        self._wanted = serving
        if serving:
            self._listener.open()
        elif not self._children:
            self._listener.shut()

    async def close(self) -> None:
        """Drains everything and returns when all processes have ended."""
        self.retire(keep=0)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _child(self, number: int, slot: Slot) -> Child:
        terms, target = self._terms, slot.target
        start = Start(
            slot_dir=str(self._slots.slot(target.digest)),
            variant=slot.variant,
            bundle=BundleRef(name=target.name, version=target.version, digest=target.digest),
            ring_path=str(self._layout.rings / f"{self._instance(number)}.ring"),
            ring_size_bytes=terms.ring_size_bytes,
            listen_fd=self._listener.socket.fileno(),
            engine_threads=terms.engine_threads,
            memory_bytes=terms.memory_bytes,
            request_size_bytes=terms.request_size_bytes,
            drain_timeout_s=terms.drain_timeout_s,
            gateway_url=terms.gateway_url,
            fallback_timeout_s=terms.fallback_timeout_s,
            device_key_path=terms.device_key_path,
            device_cert_path=terms.device_cert_path,
            ca_path=terms.ca_path,
        )
        return Child(start, self._command)

    def _instance(self, number: int) -> str:
        return f"{self._session}-{number}"

    async def _check_and_live(self, number: int, child: Child, slot: Slot) -> None:
        try:
            await asyncio.to_thread(self._slots.verify_slot, slot.target.digest, slot.variant)
        except ArtifactError as error:
            del self._children[number]
            self._slots.remove(slot.target.digest)
            self._tell(SlotDamaged(number, error.to_dict(), permanent=True, chance=random.random()))
            return
        if child.draining:
            self._gone(number, child)
            return
        await self._live(number, child, at_once=True)

    async def _live(self, number: int, child: Child, *, at_once: bool) -> None:
        """The whole life of a process: its start, its first words, its end."""
        try:
            await child.spawn()
            self.figures.starts += 1
            leftovers.record(self._layout.run, self._instance(number), child.pid)
            await child.until_ready(self._terms.ready_timeout_s)
            if child.draining:
                child.kill()  # it was retired before it could be told
            elif at_once:
                self._listener.open()
                await child.serve(self._terms.ready_timeout_s)
        except (ServingFailure, OSError, ConfigError) as failure:
            await self._failed(number, child, failure)
            return
        if not child.draining:
            self._tell(ServingStarted(number) if at_once else ServingReady(number))
        code = await child.wait()
        self._gone(number, child)
        if not child.draining:
            self.figures.crashes += 1
            doing = "serving" if child.serving else "waiting to serve"
            error = child.ended(code, doing)
            _log.warning("%s", error["message"])
            self._tell(ServingCrashed(number, error, permanent=False, chance=random.random()))

    async def _activate(self, number: int, child: Child) -> None:
        try:
            self._listener.open()
            await child.serve(self._terms.ready_timeout_s)
        except (ServingFailure, ConfigError) as failure:
            if not child.draining:
                child.draining = True  # so that its end is not told twice
                child.kill()
                self._tell_failed(number, failure)
            return
        self._tell(Activated(number))

    async def _failed(self, number: int, child: Child, failure: _Failure) -> None:
        child.kill()
        await child.wait()
        self._gone(number, child)
        if not child.draining:
            self._tell_failed(number, failure)

    def _tell_failed(self, number: int, failure: _Failure) -> None:
        died = False
        permanent = False
        error: dict[str, Any]
        if isinstance(failure, ServingFailure):
            error, died, permanent = failure.error, failure.died, failure.permanent
        elif isinstance(failure, ConfigError):
            error = failure.to_dict()
        else:
            error = ConfigError(f"No serving process can be started ({failure.strerror}).").to_dict()
        _log.warning("%s", error["message"])
        self.figures.crashes += died
        kind = ServingCrashed if died else ServingFailed
        self._tell(kind(number, error, permanent=permanent, chance=random.random()))

    def _gone(self, number: int, child: Child) -> None:
        self._children.pop(number, None)
        leftovers.forget(self._layout.run, self._instance(number))
        if not self._wanted and not self._children:
            self._listener.shut()

    def _background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("A bug in the supervisor.", exc_info=task.exception())
