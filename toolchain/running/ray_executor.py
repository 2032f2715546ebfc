"""Runs steps as tasks on a Ray cluster: `edgeops build --executor ray`.

The builder's machine keeps the plan, the cache and the key; nodes get a step's request, its inputs where they
do not see them, and nothing that opens a key. Outputs are what they are locally: a node whose code or tools
differ from the builder's refuses the step. A step's checkpoints outlive it only where nodes share the
builder's cache folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from edgeops.errors import ConfigError, EdgeopsError, TransportError
from edgeops.signing.passphrases import SECRET_VARIABLES
from toolchain.caching.trees import tree_digest
from toolchain.running.executor import Task
from toolchain.running.ray_node import Content, Told, read_content, run_on_node, write_content
from toolchain.running.worker_process import Progress

# How many steps are offered to the cluster at once: Ray queues those that have no room yet.
JOBS = 64


class RayExecutor:
    """A context manager; leaving it ends its tasks and the connection. `address` is that of a running
    cluster (`host:port`, `ray://host:port`, `auto`); None starts one of this machine alone, which ends with
    it. Nothing is connected or started before a step has to run."""

    jobs = JOBS

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._ray: Any = None
        self._guard = threading.Lock()
        self._streams: set[Any] = set()
        self._stopped = False
        self._sent: dict[str, Any] = {}  # references to contents in the object store, by digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        with self._guard:
            if self._ray is not None:
                self._sent.clear()
                self._ray.shutdown()
                self._ray = None

    def run(self, task: Task, progress: Progress) -> None:
        ray = self._connected()
        digests = {role: tree_digest(path) for role, path in task.inputs.items()}
        try:
            missing = self._try(ray, task, digests, {}, progress)
            if missing:
                sent = {role: self._send(ray, task, role, digests[role]) for role in missing}
                missing = self._try(ray, task, digests, sent, progress)
        except ray.exceptions.RayError as error:
            raise EdgeopsError(
                f"Ray lost the step {task.step.name} ({type(error).__name__}).",
                remedy="Start the build again; ray status tells how the cluster is.",
                subject=task.step.name,
                details={"log": str(error).splitlines()[-20:]},
            ) from error
        if missing:
            raise EdgeopsError(f"A Ray node does not find the inputs {missing} that it was sent.")

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            streams = list(self._streams)
        for stream in streams:
            self._ray.cancel(stream, force=True)

    def _try(
        self, ray: Any, task: Task, digests: Mapping[str, str], sent: Mapping[str, Any], progress: Progress
    ) -> tuple[str, ...]:
        """Has a node run the step. Returns the roles that it has to be sent first, if any."""
        cpus = _node_cpus(ray)
        # An exclusive step measures time: it gets a node to itself.
        options = {"num_cpus": cpus if task.step.exclusive else min(task.threads, cpus)}
        remote = ray.remote(**options, num_returns="streaming", max_retries=0)(_on_node)
        with self._stream(
            remote.options(name=task.step.name).remote(task, dict(digests), dict(sent))
        ) as stream:
            for reference in stream:
                told: Told = ray.get(reference)
                if told.share is not None:
                    progress(told.share, told.note)
                elif told.error is not None:
                    raise told.error
                elif told.missing or told.done:
                    if told.output is not None:
                        write_content(task.out, told.output)
                    return told.missing
        raise EdgeopsError(f"Ray ended the step {task.step.name} without a word.", subject=task.step.name)

    @contextlib.contextmanager
    def _stream(self, stream: Any) -> Iterator[Any]:
        with self._guard:
            self._streams.add(stream)
            stopped = self._stopped
        try:
            if stopped:
                self._ray.cancel(stream, force=True)
            yield stream
        finally:
            with self._guard:
                self._streams.discard(stream)

    def _send(self, ray: Any, task: Task, role: str, digest: str) -> Any:
        with self._guard:
            if digest not in self._sent:
                self._sent[digest] = ray.put(read_content(task.inputs[role]))
            return self._sent[digest]

    def _connected(self) -> Any:
        with self._guard:
            if self._ray is None:
                self._ray = _connect(self._address)
            return self._ray


def _on_node(task: Task, digests: dict[str, str], sent: dict[str, Any]) -> Iterator[Told]:
    import ray

    def fetch(reference: Any) -> Content:
        content: Content = ray.get(reference)
        return content

    yield from run_on_node(
        task, digests, {role: partial(fetch, reference) for role, reference in sent.items()}
    )


def _connect(address: str | None) -> Any:
    # It tells its makers about every cluster unless told not to, and warns of settings that it will change.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its own 30 s are not enough for a machine that is busy.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # Ray would do the same by a token that it writes to the user's home, once and for all.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "Builds on a Ray cluster need the Python package ray.",
            remedy="Install it: pip install 'edgeops[ray]'.",
            subject="ray",
        ) from error
    # A cluster started here inherits this environment.
    held = {name: os.environ.pop(name) for name in SECRET_VARIABLES if name in os.environ}
    paths = os.environ.get("PYTHONPATH")
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level="error",
            # Where the recipe's code is found, for nodes that have it at the same place.
            runtime_env={"env_vars": {"PYTHONPATH": paths}} if paths else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TransportError(
            f"The Ray cluster at {address or 'this machine'} cannot be used ({first}).",
            remedy="Check --ray-address, that the cluster runs the same versions of Ray and Python, and "
            "RAY_AUTH_MODE and RAY_AUTH_TOKEN if it asks for a token.",
            subject=address,
        ) from error
    finally:
        os.environ.update(held)
    return ray


def _node_cpus(ray: Any) -> int:
    """The processors of the largest node that is alive."""
    cpus = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if max(cpus, default=0) < 1:
        raise ConfigError("The Ray cluster has no processors for tasks.", remedy="Start a node with CPUs.")
    return int(max(cpus))
