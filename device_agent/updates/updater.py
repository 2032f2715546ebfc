"""The update machine's shell: saves each new state, then performs the effects, and brings back what they did.

Events are taken one after the other. The state is on the disk before any effect of it begins, so a restart
(an event, too) finds the state of the last decision, and performing its effects again comes to the same end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from device_agent.core.update import step
from device_agent.core.update_types import (
    Activate,
    CollectGarbage,
    ConfirmDue,
    Download,
    DownloadDone,
    DownloadFailed,
    Effect,
    Emit,
    Event,
    Install,
    InstallDone,
    InstallFailed,
    Policy,
    RestartDue,
    Retire,
    RetryDue,
    Serve,
    Target,
    Trial,
    UpdateState,
    Verify,
    VerifyDone,
    VerifyFailed,
)
from device_agent.processes.supervisor import Supervisor
from device_agent.updates.download import Downloader
from device_agent.updates.slots import Slots
from edgeops.durable import write_atomic
from edgeops.errors import ArtifactError, ConfigError, EdgeopsError, IllegalTransitionError

_log = logging.getLogger(__name__)
_SAVE_AGAIN_S = 1.0
_WorkFailed = DownloadFailed | VerifyFailed | InstallFailed


class StateFile:
    """`update.json`: the machine's state, crash-consistent."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> UpdateState:
        """The saved state, or a new one. Raises `ConfigError` if the file is broken."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=UpdateState)
        except FileNotFoundError:
            return UpdateState()
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(
                f"{self._path} cannot be read ({error}).",
                remedy="Move it away: the agent then asks the hub what to run.",
                subject=str(self._path),
            ) from error

    def save(self, state: UpdateState) -> None:
        """Replaces the file. Raises `ConfigError` when the disk refuses; the old state then stands."""
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(state), indent=1))


@dataclass(frozen=True)
class Hands:
    """What performs the effects. `emit` tells the hub of an event; `changed` is called after each step."""

    downloader: Downloader
    slots: Slots
    supervisor: Supervisor
    emit: Callable[[str, Mapping[str, Any]], None]
    changed: Callable[[], None]


class Updater:
    """Runs the machine. `tell` may be called at any time from the event loop's thread."""

    def __init__(self, file: StateFile, policy: Policy) -> None:
        self.state = file.load()
        self._file = file
        self._policy = policy
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._work: tuple[int, asyncio.Task[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, event: Event) -> None:
        """Something happened."""
        self._events.put_nowait(event)

    async def run(self, hands: Hands) -> None:
        """Takes events until cancelled; work under way is then abandoned, as by a power cut."""
        try:
            while True:
                await self._take(await self._events.get(), hands)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._abandon_work()

    async def _take(self, event: Event, hands: Hands) -> None:
        try:
            state, effects = step(self.state, event, _now_ms(), self._policy)
        except IllegalTransitionError:
            _log.exception("A bug in the update machine; the state stays as it was.")
            return
        changed = state != self.state
        if changed:
            _log.info("%s: %s -> %s", type(event).__name__, self.state.phase, state.phase)
            await self._save(state)
        for effect in effects:
            self._perform(effect, hands)
        # With nothing active there is nobody to accept: clients are refused at once.
        hands.supervisor.want(state.active is not None)
        self._set_timer()
        if changed:
            hands.changed()

    async def _save(self, state: UpdateState) -> None:
        """A decision that cannot be written is not acted upon: it waits until the disk takes it."""
        while True:
            try:
                await asyncio.to_thread(self._file.save, state)
            except ConfigError as error:
                _log.error("The update's state cannot be saved: %s", error)
                await asyncio.sleep(_SAVE_AGAIN_S)
            else:
                self.state = state
                return

    def _perform(self, effect: Effect, hands: Hands) -> None:
        match effect:
            case Download(number, target):
                self._start_work(number, _download(hands, number, target), DownloadFailed)
            case Verify(number, target, variant):
                self._start_work(number, _verify(hands, number, target, variant), VerifyFailed)
            case Install(number, target):
                self._start_work(number, _install(hands, number, target), InstallFailed)
            case Trial(number, slot):
                hands.supervisor.trial(number, slot)
            case Activate(number):
                hands.supervisor.activate(number)
            case Serve(number, slot):
                hands.supervisor.serve(number, slot)
            case Retire(keep):
                if self._work is not None and self._work[0] != keep:
                    self._abandon_work()
                hands.supervisor.retire(keep)
            case CollectGarbage():
                hands.slots.collect(_named(self.state))
            case Emit(kind, detail):
                hands.emit(kind, detail)

    def _start_work(self, number: int, work: Coroutine[Any, Any, Event], failed: type[_WorkFailed]) -> None:
        async def tell_result() -> None:
            try:
                self.tell(await work)
            except EdgeopsError as error:
                self.tell(failed(**_failure(number, error, permanent=isinstance(error, ArtifactError))))
            except Exception as error:  # noqa: BLE001 (a bug here must not leave the update hanging)
                _log.exception("The update's work failed unexpectedly.")
                bug = EdgeopsError(f"The update failed unexpectedly: {error!r}.")
                self.tell(failed(**_failure(number, bug, permanent=False)))

        self._abandon_work()
        self._work = number, asyncio.create_task(tell_result())

    def _abandon_work(self) -> None:
        if self._work is not None:
            self._work[1].cancel()
            self._work = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadlines = (self.state.retry_at, self.state.confirm_at, self.state.restart_at)
        due = [deadline for deadline in deadlines if deadline is not None]
        if due:
            delay_s = max(0, min(due) - _now_ms()) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._time_is_up)

    def _time_is_up(self) -> None:
        # Those that are not due yet change nothing.
        for event in (RetryDue(), ConfirmDue(), RestartDue()):
            self.tell(event)


async def _download(hands: Hands, number: int, target: Target) -> Event:
    return DownloadDone(number, await hands.downloader.fetch(target))


async def _verify(hands: Hands, number: int, target: Target, variant: str) -> Event:
    slots, digest = hands.slots, target.digest
    if slots.slot(digest).exists():
        # Fetched and verified before; what happens to it here is not the bundle's fault: fetch it again.
        try:
            await asyncio.to_thread(slots.verify_slot, digest, variant)
        except ArtifactError as error:
            slots.remove(digest)
            return VerifyFailed(**_failure(number, error, permanent=False))
    else:
        await asyncio.to_thread(slots.verify_staged, digest, variant)
    return VerifyDone(number)


async def _install(hands: Hands, number: int, target: Target) -> Event:
    await asyncio.to_thread(hands.slots.install, target.digest)
    return InstallDone(number)


def _named(state: UpdateState) -> set[str]:
    """The digests that a state names: what must not be deleted."""
    targets = [slot.target for slot in (state.active, state.previous) if slot is not None]
    if state.candidate is not None:
        targets.append(state.candidate)
    return {target.digest for target in targets}


def _failure(number: int, error: EdgeopsError, *, permanent: bool) -> dict[str, Any]:
    return {
        "number": number,
        "error": error.to_dict(),
        "permanent": permanent,
        "chance": random.random(),
    }


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
