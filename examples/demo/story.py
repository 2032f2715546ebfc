"""The demo's story, step by step. Each step measures and ends in rows; nothing is said that was not seen."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from examples.demo.builds import Builds
from examples.demo.chapters import Chapters
from examples.demo.fleet import Fleet
from examples.demo.processes import Processes
from examples.demo.rows import Row
from examples.demo.view import View, table_of


async def run(*, once: bool, as_json: bool, swapped: bool, keep: Path | None) -> int:
    """Runs the demo and returns the exit status: 0 if every row holds."""
    folder = keep or Path(tempfile.mkdtemp(prefix="edgeops-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    processes = Processes(folder)
    started = time.monotonic()
    finished = False
    try:
        with View() as view:
            rows, address = await _tell(processes, folder, view, swapped)
        _show(rows, time.monotonic() - started, as_json=as_json)
        finished = True
        if not once:
            print(f"\nThe dashboard: {address}\nState and logs: {folder}\nCtrl-C ends it all.", flush=True)
            await _interrupted()
        return 0 if all(row.holds for row in rows) else 1
    finally:
        await processes.stop()
        if keep is None and finished:
            shutil.rmtree(folder, ignore_errors=True)
        elif not finished:
            print(f"The demo's state and logs are in {folder}.", file=sys.stderr)


async def _tell(processes: Processes, folder: Path, view: View, swapped: bool) -> tuple[list[Row], str]:
    fleet = Fleet(processes, folder)
    builds = Builds(processes, folder, view)
    await builds.make_key()
    # The hub and the devices start while the later versions are still being built.
    first = await builds.build("1.0.0")
    later = asyncio.gather(builds.build("1.1.0"), builds.build("1.2.0"))
    try:
        view.doing("starting the hub and six devices")
        api = await fleet.start_hub(builds.public_key)
        async with api:
            chapters = Chapters(processes, fleet, builds, api, view)
            try:
                await chapters.enrol_and_install(first)
                chapters.built([first, *await later])
                good, bad = ("1.2.0", "1.1.0") if swapped else ("1.1.0", "1.2.0")
                await chapters.promote(good)
                await chapters.roll_back(bad)
                await chapters.drift_and_offline()
                await chapters.unsure_inputs()
                await chapters.nothing_lost()
            finally:
                await chapters.close()
            code = (await api.post("/api/v1/login-codes"))["code"]
        return chapters.rows, f"{fleet.hub_url}/login?code={code}"
    finally:
        later.cancel()


def _show(rows: list[Row], took_s: float, *, as_json: bool) -> None:
    if as_json:
        holds = all(row.holds for row in rows)
        print(
            json.dumps({"holds": holds, "took_s": round(took_s, 1), "rows": [row.to_dict() for row in rows]})
        )
        return
    from rich.console import Console

    console = Console()
    console.print(table_of(rows))
    held = sum(row.holds for row in rows)
    console.print(f"{held} of {len(rows)} rows hold, after {took_s:.0f} s.")


async def _interrupted() -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    await done.wait()
