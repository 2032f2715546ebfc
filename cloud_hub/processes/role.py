"""One role of the hub as a process of its own: `python -P -m cloud_hub.processes.role ROLE`.

The supervisor starts these; `edgeops hub serve --role ROLE` runs one in the foreground. The settings come
from the environment, where the supervisor puts all that are in force: a database's URL holds a password,
and every user of the machine may read a command line.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import click
import uvloop

from cloud_hub.settings import HubSettings
from edgeops.errors import EdgeopsError, machine_error
from edgeops.processes import die_with_parent
from edgeops.settings import load

# Each module has `async def serve(settings, ready)`, which runs until it is cancelled.
ROLES = {
    "ingest": "cloud_hub.ingest.role",
    "control": "cloud_hub.control.role",
    "gateway": "cloud_hub.fallback.gateway",
    "api": "cloud_hub.app",
}


def run_role(settings: HubSettings, role: str, ready: Callable[[], None]) -> None:
    """Runs one role of a prepared hub in this process until SIGTERM or SIGINT. Errors are the role's."""
    module = importlib.import_module(ROLES[role])
    run_until_signal(module.serve(settings, ready))


def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` on uvloop; SIGTERM and SIGINT cancel it, which is its orderly end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)

        def cancel() -> None:
            # Once: a second Ctrl-C must not cut the orderly end short.
            if not task.cancelling():
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, cancel)
        try:
            await task
        except asyncio.CancelledError:
            return

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def set_up_logging() -> None:
    """One line per event on standard error, where systemd's journal and containers look for it."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Alembic tells of every look at the schema.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _end_with(parent: int) -> None:
    """Has the kernel send SIGTERM when the supervisor dies."""
    die_with_parent(signal.SIGTERM)
    # It may have died before that: then nobody will send anything.
    if os.getppid() != parent:
        sys.exit(0)


@click.command()
@click.argument("role", type=click.Choice(sorted(ROLES)))
@click.option("--ready-fd", type=int, required=True, help="Written to, and closed, when the role is ready.")
@click.option("--parent", type=int, required=True, help="The supervisor's process id.")
@click.option("--state-dir", required=True, help="Only for telling whose process this is.")
def main(role: str, ready_fd: int, parent: int, state_dir: str) -> None:
    """Runs ROLE for a supervisor."""
    _end_with(parent)
    set_up_logging()

    def ready() -> None:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)

    try:
        settings = load(HubSettings)
        assert str(settings.state_dir) == state_dir, "the supervisor passes its own settings on"
        run_role(settings, role, ready)
    except EdgeopsError as error:
        _end_of(error)
    except OSError as error:
        if error.filename is None:
            raise
        _end_of(machine_error(error))


def _end_of(error: EdgeopsError) -> NoReturn:
    logging.getLogger(__name__).error("%s", error)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
