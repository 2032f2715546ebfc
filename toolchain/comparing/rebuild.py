"""Builds a recipe's unsigned bundle without a cache, in a process of its own. `edgeops build
--check-reproducible` starts it twice, in surroundings that differ (see toolchain/comparing/reproducible.py).

    python -P -m toolchain.comparing.rebuild REQUEST

REQUEST is a JSON object (`Request`). What happens goes to stderr, a line for each step. On stdout stands one
JSON object at the end: `Reply`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import msgspec

from edgeops.errors import EdgeopsError
from edgeops.processes import die_with_parent
from toolchain.build import BUNDLE_FOLDER, build_cache, read_source
from toolchain.running.executor import LocalExecutor
from toolchain.running.interruption import ending_on_sigterm
from toolchain.running.runner import run_plan
from toolchain.running.view import LineView
from toolchain.running.worker import Failure


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe's file, the empty folder to build into, the bundle to compare with, and how many steps may run
    at once. `lock` is the variants' lock file, if it is not the one beside the recipe. Paths are absolute."""

    recipe: str
    out: str
    baseline: str | None
    lock: str | None
    jobs: int


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The steps that ran, or the error."""

    steps_run: tuple[str, ...] = ()
    error: Failure | None = None


def main() -> None:
    """Builds what the request asks for."""
    # Not SIGKILL: this process has workers of its own to end.
    die_with_parent(signal.SIGTERM)
    # Ctrl-C goes to the whole group; the parent decides, and ends this process by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = msgspec.json.decode(sys.argv[1], type=Request)
    try:
        reply = _build(request)
    except EdgeopsError as error:
        reply = Reply(error=Failure.of(error))
    sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")


def _build(request: Request) -> Reply:
    baseline = None if request.baseline is None else Path(request.baseline)
    source = read_source(request.recipe, baseline=baseline)
    with (
        ending_on_sigterm(),
        build_cache(use_cache=False) as cache,
        LocalExecutor(jobs=request.jobs) as executor,
    ):
        view = LineView(explain=False)
        lock = None if request.lock is None else Path(request.lock)
        source = source.resolved(lambda plan: run_plan(plan, cache, executor, view), lock=lock)
        outcome = run_plan(source.plan(), cache, executor, view)
        (outcome.entries["package"].folder / BUNDLE_FOLDER).rename(Path(request.out) / BUNDLE_FOLDER)
    return Reply(steps_run=outcome.steps_run)


if __name__ == "__main__":
    main()
