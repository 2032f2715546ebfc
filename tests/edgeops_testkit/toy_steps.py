"""Steps that do next to nothing, in every way that steps can. `run` does what the config's `do` says."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from edgeops.durable import write_atomic
from edgeops.errors import GateError
from toolchain.handover.context import StepContext

PATIENCE_S = 60


def run(context: StepContext) -> None:
    do = context.config.get("do", "write")
    {
        "write": _write,
        "meet": _meet,
        "hold": _hold,
        "count": _count,
        "gate": _gate,
        "abort": _abort,
        "wait_and_fail": _wait_and_fail,
        "change": _change,
        "tell": _tell,
    }[do](context)


def _write(context: StepContext) -> None:
    """The name, and all that the inputs hold."""
    lines = [f"{context.config['name']} {context.config.get('text', '')}"]
    for role, place in sorted(context.inputs.items()):
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        lines += [f"{role} {file.name} {file.read_text()}" for file in files]
    (context.out / "text").write_text("\n".join(lines))


def _meet(context: StepContext) -> None:
    """Ends only if all of `others` run at the same time: each leaves its name, and waits for theirs."""
    place = Path(context.config["place"])
    (place / context.config["name"]).touch()
    _wait_for([place / name for name in context.config["others"]])
    _write(context)


def _hold(context: StepContext) -> None:
    """Tells that it runs, and goes on once a file is there."""
    context.progress(0.5, f"holding {context.config['name']}")
    _wait_for([Path(context.config["until"])])
    _write(context)


def _count(context: StepContext) -> None:
    """Counts to `to` with a checkpoint after each number, and says where it began. Holds at `hold_at` while
    there is no file `until`."""
    saved = context.checkpoints / "number"
    number = int(saved.read_text()) if saved.exists() else 0
    context.progress(0.0, f"from {number}")
    while number < context.config["to"]:
        if number == context.config["hold_at"]:
            context.progress(0.5, f"holding at {number}")
            _wait_for([Path(context.config["until"])])
        number += 1
        write_atomic(saved, str(number).encode())
    (context.out / "number").write_text(str(number))


def _gate(context: StepContext) -> None:
    raise GateError(f"{context.config['name']} is too bad.", subject=context.config["name"])


def _abort(context: StepContext) -> None:
    os.abort()


def _wait_and_fail(context: StepContext) -> None:
    _wait_for([Path(context.config["until"])])
    _gate(context)


def _change(context: StepContext) -> None:
    """Changes its own input, as another program might meanwhile."""
    place = context.inputs["model"]
    file = place if place.is_file() else next(place.iterdir())
    file.write_text("changed")
    _write(context)


def _tell(context: StepContext) -> None:
    """What it finds in its process."""
    (context.out / "threads").write_text(f"{context.threads} {os.environ['OMP_NUM_THREADS']}")
    (context.out / "pid").write_text(str(os.getpid()))
    secrets = sorted(name for name in os.environ if name.startswith("EDGEOPS_KEY"))
    (context.out / "secrets").write_text(" ".join(secrets))
    (context.out / "imported").write_text(" ".join(sorted({"torch", "numpy"} & set(sys.modules))))


def _wait_for(paths: list[Path]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not all(path.exists() for path in paths):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {paths}")
        time.sleep(0.02)
