"""Steps as tasks of a real Ray cluster."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edgeops.errors import ArtifactError, ConfigError, GateError, TransportError
from edgeops_testkit.toy_plans import Seen, run_toy, toy_environment, toy_plan
from edgeops_testkit.waiting import free_port
from toolchain.caching.cache import StepCache
from toolchain.plan.step import Plan
from toolchain.running.ray_executor import RayExecutor
from toolchain.running.ray_node import read_content, write_content
from toolchain.running.runner import Outcome, run_plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]

Steps = dict[str, dict[str, Any]]
# A node on a busy machine takes longer to start than Ray waits for by itself.
PATIENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "150",
    "RAY_agent_register_timeout_ms": "150000",
}
RAY = Path(sys.executable).with_name("ray")


@contextmanager
def started(folder: Path, *, hidden: Path | None = None) -> Iterator[str]:
    """A Ray node of two processors in processes of its own; its address. It does not see what lies below
    `hidden`: another file system is mounted there, for it alone."""
    port = free_port()
    start = (
        f"exec {RAY} start --head --block --port={port} --num-cpus=2 "
        "--include-dashboard=false "
        f"--disable-usage-stats --temp-dir={folder} --object-store-memory=100000000"
    )
    command = ["sh", "-c", start]
    if hidden is not None:
        command = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none '{hidden}' && {start}"]
    process = subprocess.Popen(
        command,
        env={**toy_environment(), **PATIENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError("".join(seen))
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    """An address that is given never takes the token in the user's home: both sides are told one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # Sockets have short names: not below pytest's own folder.
    folder = Path("/tmp") / f"edgeops-ray-{os.getpid()}"
    try:
        with started(folder) as address:
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def toy_steps_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", toy_environment()["PYTHONPATH"])


def run_ray(plan: Plan, root: Path, address: str | None, view: Seen | None = None) -> Outcome:
    with StepCache(root) as cache, RayExecutor(address) as executor:
        return run_plan(plan, cache, executor, view or Seen())


def diamond(tmp_path: Path) -> Steps:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "weights").write_text("w")
    return {
        "a": {"files": {"model": str(model)}},
        "b": {"inputs": ["a"], "exclusive": True},
        "c": {"inputs": ["a"], "isolated": True, "threads": 9},
        "d": {"inputs": ["b", "c"], "attests": True},
    }


def test_a_cluster_gives_what_this_machine_gives(tmp_path: Path, node: str) -> None:
    plan = toy_plan(diamond(tmp_path))
    seen = Seen()
    remote = run_ray(plan, tmp_path / "ray", node, seen)
    local = run_toy(plan, tmp_path / "local", 1)
    assert remote.steps_run == local.steps_run == ("a", "b", "c", "d")
    assert {n: e.digest for n, e in remote.entries.items()} == {n: e.digest for n, e in local.entries.items()}
    assert sorted(seen.of("done")) == ["a", "b", "c", "d"]
    assert run_ray(plan, tmp_path / "ray", "127.0.0.1:1").steps_run == (), "cached: no cluster is asked"


def test_independent_steps_run_at_the_same_time(tmp_path: Path, node: str) -> None:
    names = ["a", "b"]
    steps: Steps = {n: {"do": "meet", "place": str(tmp_path), "others": names} for n in names}
    assert run_ray(toy_plan(steps), tmp_path / "cache", node).steps_run == ("a", "b")


def test_progress_and_errors_arrive(tmp_path: Path, node: str) -> None:
    seen = Seen()
    (tmp_path / "go").touch()
    run_ray(toy_plan({"a": {"do": "hold", "until": str(tmp_path / "go")}}), tmp_path / "cache", node, seen)
    assert seen.shares == {"a": [0.5]}
    with pytest.raises(GateError, match="b is too bad") as caught:
        run_ray(toy_plan({"b": {"do": "gate"}}), tmp_path / "cache", node)
    assert caught.value.subject == "b"
    with pytest.raises(ArtifactError, match="c was ended by SIGABRT"):
        run_ray(toy_plan({"c": {"do": "abort", "isolated": True}}), tmp_path / "cache", node)


def test_a_node_gets_no_secrets_and_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster that is started for the build: it inherits what the build does not take away."""
    monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "sesame")
    monkeypatch.setenv("EDGEOPS_KEY_PIN", "1234")
    entries = run_ray(toy_plan({"a": {"do": "tell"}}), tmp_path, None).entries
    assert (entries["a"].folder / "secrets").read_text() == ""
    assert (entries["a"].folder / "threads").read_text() == "1 1"
    assert os.environ["EDGEOPS_KEY_PASSPHRASE"] == "sesame"


def may_mount(tmp_path: Path) -> bool:
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_what_a_node_does_not_see_travels(tmp_path: Path) -> None:
    if not may_mount(tmp_path):
        pytest.skip("mount namespaces need root here")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    steps = diamond(hidden)
    folder = Path("/tmp") / f"edgeops-ray-hidden-{os.getpid()}"
    try:
        with started(folder, hidden=hidden) as address:
            remote = run_ray(toy_plan(steps), hidden / "ray", address)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    local = run_toy(toy_plan(steps), hidden / "local", 1)
    assert remote.steps_run == ("a", "b", "c", "d")
    assert {n: e.digest for n, e in remote.entries.items()} == {n: e.digest for n, e in local.entries.items()}


def test_a_cluster_that_is_not_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "from toolchain.running.ray_executor import RayExecutor\n"
        "from edgeops.errors import TransportError\n"
        "try:\n    RayExecutor('127.0.0.1:1')._connected()\n"
        "except TransportError as error:\n    print(error.exit_code, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**toy_environment(), "RAY_raylet_start_wait_time_s": "2", "RAY_NUM_REDIS_GET_RETRIES": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith(f"{TransportError.exit_code} The Ray cluster at 127.0.0.1:1 cannot be used")


def test_a_node_with_other_code_refuses_the_step(tmp_path: Path, node: str) -> None:
    class Lying(RayExecutor):
        """Tells the node that the builder's code is another."""

        def run(self, task: Any, progress: Any) -> None:
            import dataclasses

            import msgspec

            code = {**task.parts.code, task.step.module: "0" * 64}
            parts = msgspec.structs.replace(task.parts, code=code)
            super().run(dataclasses.replace(task, parts=parts), progress)

    with (
        StepCache(tmp_path) as cache,
        Lying(node) as executor,
        pytest.raises(ConfigError, match=r"another edgeops_testkit\.toy_steps than the builder"),
    ):
        run_plan(toy_plan({"a": {}}), cache, executor, Seen())


def test_an_interrupted_run_ends_its_tasks(tmp_path: Path, node: str) -> None:
    class Impatient(Seen):
        def progressed(self, step: Any, share: float, note: str) -> None:
            raise KeyboardInterrupt

    plan = toy_plan({"a": {"do": "hold", "until": str(tmp_path / "never")}})
    with pytest.raises(KeyboardInterrupt):
        run_ray(plan, tmp_path / "cache", node, Impatient())
    assert list((tmp_path / "cache" / "steps").glob("*")) == []
    # Both processors are free again: two steps that wait for each other can run.
    names = ["b", "c"]
    steps: Steps = {n: {"do": "meet", "place": str(tmp_path), "others": names} for n in names}
    assert run_ray(toy_plan(steps), tmp_path / "cache", node).steps_run == ("b", "c")


@pytest.mark.parametrize("content", [{"": b"file"}, {"a": b"1", "deep/er": b"2"}, {}])
def test_content_survives_the_journey(tmp_path: Path, content: dict[str, bytes]) -> None:
    write_content(tmp_path / "there", content)
    assert read_content(tmp_path / "there") == content
