"""The twin: what the hub wants of this device, checked, and what this device says of itself.

Reported is what is true of processes, not of intentions: `running` is there only while a serving process
accepts, and names the bundle that this very process has loaded and self-tested.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.core.update_types import DesiredChanged, Event, Target, UpdateState
from device_agent.processes.child import Child
from device_agent.uplink.identity import Identity
from edgeops import clock
from edgeops.errors import AccessError, ArtifactError, EdgeopsError
from edgeops.messages import BundleRef, DesiredState, ReportedState, RunningBundle, UpdateStatus
from edgeops.signing.desired import open_desired

_log = logging.getLogger(__name__)


@dataclass
class TwinFigures:
    """What came on the `desired` topic since the agent started."""

    accepted: int = 0
    refused: int = 0


class Twin:
    """Checks desired states and makes reported ones. `state` is the update machine's, `child` finds a
    living serving process by its number, `requests` counts what the process with that ring has answered,
    `progress` is the download's."""

    def __init__(
        self,
        *,
        identity: Identity,
        session: int,
        state: Callable[[], UpdateState],
        child: Callable[[int], Child | None],
        requests: Callable[[Path], int],
        progress: Callable[[], float],
        tell: Callable[[Event], None],
        emit: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.figures = TwinFigures()
        self._identity = identity
        self._session = session
        self._state = state
        self._child = child
        self._requests = requests
        self._progress = progress
        self._tell = tell
        self._emit = emit
        self._revision = 0
        self._last_refused = b""

    def take(self, payload: bytes) -> None:
        """A payload of the `desired` topic. What is wrongly signed, meant for another device or older than
        what was accepted is refused and reported, once; an empty one (the topic was cleared) says nothing."""
        if not payload:
            return
        try:
            desired = open_desired(payload, self._identity.desired_key, self._identity.device)
            self._check_generation(desired)
        except (ArtifactError, AccessError) as error:
            self._refuse(payload, error)
            return
        self.figures.accepted += 1
        self._tell(DesiredChanged(desired.generation, _target(desired)))

    def reported(self) -> ReportedState:
        """The reported state as of now. Each call gives the next revision."""
        self._revision += 1
        state = self._state()
        return ReportedState(
            device=self._identity.device,
            session=self._session,
            revision=self._revision,
            generation=state.generation,
            running=self.running(),
            update=self.update_status(),
            at_ms=clock.now_ms(),
            rejected_generation=state.rejected_generation,
        )

    def running(self) -> RunningBundle | None:
        """What the process that accepts requests has loaded, and how many it has answered."""
        state = self._state()
        child = self._child(state.launch)
        if state.active is None or child is None or not child.serving or child.draining:
            return None
        return RunningBundle(
            bundle=child.start_message.bundle,
            variant=child.start_message.variant,
            loaded_at_ms=child.ready_at_ms,
            requests=self._requests(child.ring_path),
        )

    def update_status(self) -> UpdateStatus:
        """Where the update stands; `target` is the candidate, or what was refused last."""
        state = self._state()
        target = state.candidate
        if target is None and state.rejected_generation == state.generation:
            target = state.desired
        return UpdateStatus(
            phase=state.phase,
            generation=state.generation,
            target=None if target is None else _ref(target),
            attempts=state.attempts,
            progress=self._progress() if state.phase == "downloading" else float(state.phase != "waiting"),
            error=state.error,
        )

    def _check_generation(self, desired: DesiredState) -> None:
        state = self._state()
        older = desired.generation < state.generation
        changed = desired.generation == state.generation and state.desired != _target(desired)
        if older or changed:
            raise AccessError(
                f"The hub wants generation {desired.generation}"
                + (", and that has another content already." if changed else f" after {state.generation}."),
                remedy="If the hub was restored from a backup, enrol this device again.",
                subject="desired",
            )

    def _refuse(self, payload: bytes, error: EdgeopsError) -> None:
        self.figures.refused += 1
        # A retained message comes again with every connection; the hub need not hear of it again.
        if payload != self._last_refused:
            self._last_refused = payload
            _log.warning("%s", error)
            self._emit("desired_refused", {"error": error.to_dict()})


def _target(desired: DesiredState) -> Target | None:
    if desired.bundle is None:
        return None
    bundle = desired.bundle
    return Target(bundle.name, bundle.version, bundle.digest, desired.generation)


def _ref(target: Target) -> BundleRef:
    return BundleRef(name=target.name, version=target.version, digest=target.digest)
