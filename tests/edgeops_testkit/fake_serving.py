"""A fake of the serving process: it speaks the channel's protocol and misbehaves as it is told.

`python -P fake_serving.py PLAN --channel FD`: PLAN is a JSON file {version: [behaviour, …]}, one for each
start of that version, the last one for all further starts. To every connection it answers its version.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-P", __file__)
GOOD = "good"


def make_plan(folder: Path, **behaviours: list[str]) -> tuple[str, ...]:
    """The command that starts it by a plan: behaviours by version, with `_` for dots (`v1_0_0=[…]`)."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps({name[1:].replace("_", "."): value for name, value in behaviours.items()}))
    return (*COMMAND, str(plan))


async def serve(plan: Path, channel_fd: int) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=channel_fd))

    def say(kind: str, **fields: Any) -> None:
        writer.write(json.dumps({"type": kind, **fields}).encode() + b"\n")

    start = json.loads(await reader.readline())
    version = start["bundle"]["version"]
    behaviour = _next(plan, version)
    if behaviour == "die_loading":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hang_loading":
        await reader.read()
        return 0
    if behaviour in ("refuse", "fail"):
        kind = "artifact" if behaviour == "refuse" else "config"
        error = {"kind": kind, "message": "It does not load.", "remedy": None, "subject": None, "details": {}}
        say("Failed", error=error)
        return 1
    say("Ready", load_ms=1.0, largest_difference=0.0)
    command = json.loads(await reader.readline() or b'{"type": "Drain"}')
    if behaviour == "die_activating":
        os.kill(os.getpid(), signal.SIGKILL)
    if command["type"] == "Serve":

        async def answer(_request: asyncio.StreamReader, response: asyncio.StreamWriter) -> None:
            response.write(version.encode())
            await response.drain()
            response.close()

        server = await asyncio.start_server(answer, sock=socket.socket(fileno=start["listen_fd"]))
        say("Serving")
        if behaviour == "die_serving":
            os.kill(os.getpid(), signal.SIGKILL)
        await reader.readline()
        server.close()
    say("Drained")
    return 0


def _next(plan: Path, version: str) -> str:
    behaviours: list[str] = json.loads(plan.read_text()).get(version, [GOOD])
    starts = plan.with_name(f"{version}.starts")
    with starts.open("a") as file:
        file.write(".")
        file.flush()
    return behaviours[min(starts.stat().st_size, len(behaviours)) - 1]


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[3]))))
