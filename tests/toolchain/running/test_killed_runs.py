"""Runs of plans that are killed, ended or doubled, at chosen instants."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgeops.canonical import sha256_file
from edgeops_testkit.toy_plans import run_toy, toy_command, toy_environment, toy_plan
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

Steps = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def toy_steps_are_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", toy_environment()["PYTHONPATH"])
    yield


@contextmanager
def started(root: Path, jobs: int, steps: Steps) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        toy_command(root, jobs, steps),
        env=toy_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_lines(process: "subprocess.Popen[str]", *wanted: str) -> None:
    """Reads until each of these lines was seen, in any order."""
    missing = set(wanted)
    assert process.stdout is not None
    for line in process.stdout:
        missing.discard(line.strip())
        if not missing:
            return
    raise AssertionError(f"it ended without {missing}: {process.communicate()}")


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_until_gone(workers: list[psutil.Process]) -> None:
    wait_until(lambda: not psutil.wait_procs(workers, timeout=0)[1], 20, "the workers' end")


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): sha256_file(path) for path in root.rglob("*") if path.is_file()
    }


def holding(tmp_path: Path, tools: list[str]) -> Steps:
    hold = {"inputs": ["a"], "do": "hold", "until": str(tmp_path / "go"), "tools": tools}
    return {"a": {}, "b": hold, "c": hold, "d": {"inputs": ["b", "c"]}}


# With tools that take long to import both that hold are copies of a template, beside the worker that ran a.
@pytest.mark.parametrize(("tools", "processes"), [([], 2), (["scikit-learn"], 4)], ids=["new", "copies"])
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, None), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_an_ended_run_leaves_no_worker_and_the_next_goes_on(
    tmp_path: Path, number: signal.Signals, status: int | None, tools: list[str], processes: int
) -> None:
    steps, root = holding(tmp_path, tools), tmp_path / "cache"
    with started(root, 2, steps) as process:
        wait_for_lines(process, "holding b", "holding c")
        workers = workers_of(process)
        assert len(workers) == processes
        process.send_signal(number)
        process.communicate(timeout=60)
        assert status is None or process.returncode == status
        assert process.returncode != 0
        wait_until_gone(workers)
    (tmp_path / "go").touch()
    outcome = run_toy(toy_plan(steps), root, 2)
    assert outcome.steps_run == ("b", "c", "d")
    clean = run_toy(toy_plan(steps), tmp_path / "clean", 1)
    assert {n: e.digest for n, e in outcome.entries.items()} == {
        n: e.digest for n, e in clean.entries.items()
    }
    assert list((root / "staging").iterdir()) == []


def test_a_killed_step_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    until, root = tmp_path / "go", tmp_path / "cache"
    steps: Steps = {"count": {"do": "count", "to": 9, "hold_at": 5, "until": str(until)}}
    with started(root, 1, steps) as process:
        wait_for_lines(process, "holding at 5")
        process.kill()
        process.communicate()
    until.touch()
    with started(root, 1, steps) as process:
        wait_for_lines(process, "from 5", "done count")
        assert process.wait(timeout=60) == 0
    entry = run_toy(toy_plan(steps), root, 1).entries["count"]
    assert (entry.folder / "number").read_text() == "9"
    assert list((root / "partial").iterdir()) == []


def test_two_runs_that_take_the_same_keys_in_opposite_order_both_end(tmp_path: Path) -> None:
    """Each holds one key while the other wants it: a run that waited for a lock with another one in its hand
    would wait for ever."""
    root, place = tmp_path / "cache", tmp_path / "place"
    place.mkdir()
    meet = {"do": "meet", "place": str(place), "others": ["a", "b"]}
    one: Steps = {"a": meet, "b": meet}
    other: Steps = {"b": meet, "a": meet}
    # One job each: a and b only meet if each run makes one of them, and takes the other from the other run.
    with started(root, 1, one) as first:
        wait_for_lines(first, "run a")
        with started(root, 1, other) as second:
            outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    ran = [json.loads(output.splitlines()[-1])["steps_run"] for output in outputs]
    assert sorted([*ran[0], *ran[1]]) == ["a", "b"]
    assert "keep b" in outputs[0]


def test_a_run_that_waits_for_anothers_step_does_its_own_meanwhile(tmp_path: Path) -> None:
    root, until = tmp_path / "cache", tmp_path / "go"
    shared: Steps = {"shared": {"do": "hold", "until": str(until)}}
    with started(root, 1, shared) as first:
        wait_for_lines(first, "holding shared")
        with started(root, 1, {**shared, "own": {}}) as second:
            wait_for_lines(second, "wait shared", "done own")
            until.touch()
            output, _ = second.communicate(timeout=60)
            assert "keep shared" in output
            assert json.loads(output.splitlines()[-1]) == {"steps_run": ["own"]}
        first.communicate(timeout=60)


def test_a_run_takes_over_from_one_that_was_killed_in_the_same_step(tmp_path: Path) -> None:
    root, until = tmp_path / "cache", tmp_path / "go"
    steps: Steps = {"shared": {"do": "hold", "until": str(until)}}
    with started(root, 1, steps) as first, started(root, 1, steps) as second:
        processes = [first, second]
        held = wait_until(lambda: next((p for p in processes if workers_of(p)), None), 60, "a worker")
        held.kill()
        held.communicate()
        until.touch()
        other = next(process for process in processes if process is not held)
        output, errors = other.communicate(timeout=60)
        assert other.returncode == 0, errors
        assert json.loads(output.splitlines()[-1]) == {"steps_run": ["shared"]}
