"""What runs on a Ray node: one step, in a worker process of that node (see worker.py), so that the
recipe's code, its threads and its memory limits are what they are on the builder's own machine.

Where the node sees the builder's files they are used in place. What it does not see, or has with other
content, comes through Ray's object store; the output goes back that way if the node cannot see its place.
"""

from __future__ import annotations

import dataclasses
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeops.errors import ConfigError, EdgeopsError
from toolchain.caching.code import code_digests, tool_versions
from toolchain.caching.trees import tree_digest, tree_files
from toolchain.running.executor import LocalExecutor, Task

# The content of a folder by relative path, or of a file under "".
Content = dict[str, bytes]
_PROGRESS_EVERY_S = 0.2


@dataclass(frozen=True)
class Told:
    """What a node tells. Any number of times how far the step is (`share`, `note`), and then one of:
    `missing`, the roles whose content has to be sent before the step can run; `error`, what the step raised;
    `done`, with what it wrote in `output`, unless the builder finds that in its place."""

    share: float | None = None
    note: str = ""
    missing: tuple[str, ...] = ()
    error: EdgeopsError | None = None
    done: bool = False
    output: Content | None = None


def run_on_node(
    task: Task, digests: Mapping[str, str], fetch: Mapping[str, Callable[[], Content]]
) -> Iterator[Told]:
    """Runs a step here. `digests` are those of its inputs' whole content (`tree_digest`); `fetch` gives the
    content of those that were missing before."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgeops-ray-") as scratch:
            yield from _run(task, digests, fetch, Path(scratch))
    except EdgeopsError as error:
        yield Told(error=error)


def read_content(root: Path) -> Content:
    """A file's content, or a folder's."""
    if not root.is_dir():
        return {"": root.read_bytes()}
    return {path: (root / path).read_bytes() for path in tree_files(root)}


def write_content(root: Path, content: Content) -> None:
    """Writes what `read_content` read, to a place where nothing is yet, or to an empty folder."""
    if content.keys() == {""}:
        root.write_bytes(content[""])
        return
    root.mkdir(exist_ok=True)
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def _run(
    task: Task, digests: Mapping[str, str], fetch: Mapping[str, Callable[[], Content]], scratch: Path
) -> Iterator[Told]:
    _check_code(task)
    inputs: dict[str, Path] = {}
    for role, path in task.inputs.items():
        if role in fetch:
            inputs[role] = scratch / f"input-{len(inputs)}"
            write_content(inputs[role], fetch[role]())
        elif path.exists() and tree_digest(path) == digests[role]:
            inputs[role] = path
    missing = tuple(role for role in task.inputs if role not in inputs)
    if missing:
        yield Told(missing=missing)
        return
    # The builder made `out` under a random name just now: who sees it sees the builder's own cache.
    shared = task.out.is_dir()
    if not shared:
        task = dataclasses.replace(task, out=scratch / "out", checkpoints=scratch / "checkpoints")
        task.out.mkdir()
        task.checkpoints.mkdir()
    yield from _progress(dataclasses.replace(task, inputs=inputs))
    yield Told(done=True, output=None if shared else read_content(task.out))


def _progress(task: Task) -> Iterator[Told]:
    """Runs the step, and tells how far it is, not more often than anyone can see."""
    events: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
    told_at = 0.0
    with ThreadPoolExecutor(max_workers=1) as thread:
        step = thread.submit(
            _executor().run, task, lambda share, note: events.put(Told(share=share, note=note))
        )
        step.add_done_callback(lambda _: events.put(None))
        while (event := events.get()) is not None:
            if time.monotonic() - told_at >= _PROGRESS_EVERY_S:
                told_at = time.monotonic()
                yield event
        step.result()


@cache
def _executor() -> LocalExecutor:
    """The worker processes of this Ray worker: kept, so that torch is imported once. They end with it."""
    return LocalExecutor(jobs=1)


def _check_code(task: Task) -> None:
    """Another version of anything here could give another output, and the cache would not know."""
    code = code_digests((task.step.module, *task.step.code))
    tools = tool_versions(task.step.tools)
    for kind, here, there in (("code", code, task.parts.code), ("tool", tools, task.parts.tools)):
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise ConfigError(
                    f"A Ray node has another {name} than the builder ({kind} of the step {task.step.name}).",
                    remedy="Install the same edgeops, recipe code and packages on every node.",
                    subject=name,
                    details={"node": here.get(name), "builder": there.get(name)},
                )
