"""The demo's story, step by step. Each step measures and ends in rows; nothing is said that was not seen."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from examples.demo.builds import Builds
from examples.demo.chapters import Chapters
from examples.demo.fleet import Fleet
from examples.demo.hub_api import HubApi
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
        async with _stage(processes, folder) as (fleet, builds, api, chapters, view):
            with view:
                await _tell(builds, chapters, swapped)
            _show(chapters.rows, time.monotonic() - started, as_json=as_json)
            finished = True
            if not once:
                await chapters.carry_on()
                code = (await api.post("/api/v1/login-codes"))["code"]
                print(f"\nThe dashboard: {fleet.hub_url}/login?code={code}")
                print(f"State and logs: {folder}\nThe traffic goes on. Ctrl-C ends it all.", flush=True)
                await _interrupted()
        return 0 if all(row.holds for row in chapters.rows) else 1
    finally:
        await processes.stop()
        if keep is None and finished:
            shutil.rmtree(folder, ignore_errors=True)
        elif not finished:
            print(f"The demo's state and logs are in {folder}.", file=sys.stderr)


@asynccontextmanager
async def _stage(
    processes: Processes, folder: Path
) -> AsyncIterator[tuple[Fleet, Builds, HubApi, Chapters, View]]:
    """A hub that runs, and the cast; the devices' cables and traffic end with it."""
    view = View()
    builds = Builds(processes, folder, view)
    await builds.make_key()
    fleet = Fleet(processes, folder)
    view.doing("starting the hub")
    async with await fleet.start_hub(builds.public_key) as api:
        chapters = Chapters(processes, fleet, builds, api, view)
        try:
            yield fleet, builds, api, chapters, view
        finally:
            await chapters.close()


async def _tell(builds: Builds, chapters: Chapters, swapped: bool) -> None:
    first = await builds.build("1.0.0")
    # The devices enrol and install while the later versions are still being built.
    later = asyncio.gather(builds.build("1.1.0"), builds.build("1.2.0"))
    try:
        await chapters.enrol_and_install(first)
        chapters.built([first, *await later])
    finally:
        later.cancel()
    good, bad = ("1.2.0", "1.1.0") if swapped else ("1.1.0", "1.2.0")
    await chapters.promote(good)
    await chapters.roll_back(bad)
    await chapters.drift_and_offline()
    await chapters.unsure_inputs()
    await chapters.nothing_lost()


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
