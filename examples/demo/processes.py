"""The operating-system processes of the demo: `edgeops` commands with a folder and a log each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeops.errors import EdgeopsError

EDGEOPS = str(Path(sys.executable).with_name("edgeops"))


@dataclass
class Started:
    """A running command."""

    name: str
    process: asyncio.subprocess.Process
    log: Path


class Processes:
    """Starts `edgeops` commands and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Started] = []

    async def run(
        self, *args: str, home: Path | None = None, env: dict[str, str] | None = None, stdin: str = ""
    ) -> Any:
        """Runs a command to its end and returns its last line of output as JSON (None if it is none).
        Raises `EdgeopsError` with what it said when its exit status is not 0."""
        process = await asyncio.create_subprocess_exec(
            EDGEOPS,
            *args,
            env=_environment(home, env),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode())
        if process.returncode != 0:
            raise EdgeopsError(
                f"`edgeops {' '.join(args[:2])}` ended with status {process.returncode}: "
                f"{err.decode(errors='replace').strip()[-2000:]}"
            )
        lines = out.decode().strip().splitlines()
        try:
            return json.loads(lines[-1]) if lines else None
        except ValueError:
            return None

    async def start(self, name: str, *args: str, home: Path, env: dict[str, str] | None = None) -> Started:
        """Starts a command that stays; its output goes to `<folder>/<name>.log`."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                EDGEOPS,
                *args,
                env=_environment(home, env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        started = Started(name, process, log)
        self._running.append(started)
        return started

    def require_alive(self) -> None:
        """Raises `EdgeopsError`, with the end of its log, if one of them has ended by itself."""
        for started in self._running:
            if started.process.returncode is not None:
                tail = started.log.read_text(errors="replace")[-2000:].strip()
                raise EdgeopsError(
                    f"{started.name} ended with status {started.process.returncode}. Its log ends: {tail}"
                )

    async def stop(self) -> None:
        """Asks all to end, devices before the hub, and kills what has not after ten seconds."""
        running, self._running = self._running[::-1], []
        for started in running:
            if started.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    started.process.send_signal(signal.SIGTERM)
        for started in running:
            try:
                await asyncio.wait_for(started.process.wait(), timeout=10)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(started.process.pid, signal.SIGKILL)
                await started.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that are free now, each a different one. They lie below those that systems hand out to every
    connection by themselves (from 32768 upwards), which may be gone before their server starts."""
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 12_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise EdgeopsError("The ports from 20000 to 31999 are taken.", remedy="Stop some of what listens there.")


def _environment(home: Path | None, extra: dict[str, str] | None) -> dict[str, str]:
    environment = {**os.environ, **(extra or {}), "PYTHONSAFEPATH": "1"}
    if home is not None:
        environment["EDGEOPS_HOME"] = str(home)
    return environment
