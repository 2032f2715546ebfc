"""What the agent tells of itself: windows drained from the rings, and events, both into the spool."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.telemetry.collector import TelemetryCollector
from device_agent.telemetry.spool import Spool
from edgeops import clock
from edgeops.errors import ConfigError

_log = logging.getLogger(__name__)
TICK_S = 0.2


@dataclass
class TelemetryFigures:
    """What became of telemetry since the agent started. `refused_events` are those that the spool would not
    take; windows are never refused for good, they only wait."""

    windows: int = 0
    events: int = 0
    refused_events: int = 0
    last_error: str | None = None


class Telemetry:
    """Drains the rings every `TICK_S` and stores events. `wake` is called, from any thread, when
    there is something to send."""

    def __init__(self, collector: TelemetryCollector, spool: Spool, wake: Callable[[], None]) -> None:
        self.figures = TelemetryFigures()
        self.beat_s = time.monotonic()
        self._collector = collector
        self._spool = spool
        self._wake = wake

    async def run(self) -> None:
        """Drains until cancelled. `beat_s` is the monotonic time of the last round, for the watchdog."""
        while True:
            await asyncio.to_thread(self.drain, flush=False)
            self.beat_s = time.monotonic()
            await asyncio.sleep(TICK_S)

    def drain(self, *, flush: bool) -> None:
        """Closes the windows that are due (all, if `flush`)."""
        # A full spool, or a disk that takes no more writes, is no reason to stop serving: rows wait in the
        # rings.
        try:
            closed = self._collector.collect(clock.now_ms(), flush)
        except (ConfigError, OSError) as error:
            if self.figures.last_error != str(error):
                _log.error("Telemetry has to wait: %s", error)
            self.figures.last_error = str(error)
            return
        self.figures.last_error = None
        if closed:
            self.figures.windows += closed
            self._wake()

    def requests(self, ring_path: Path) -> int:
        """How many requests the process with this ring has answered."""
        return self._collector.requests(ring_path)

    def emit(self, kind: str, detail: Mapping[str, Any]) -> None:
        """Stores an event. One that the spool does not take is counted and logged."""
        try:
            self._spool.append_event(kind, detail)
        except ConfigError as error:
            self.figures.refused_events += 1
            _log.error("The event %s is lost: %s", kind, error)
        else:
            self.figures.events += 1
            self._wake()
