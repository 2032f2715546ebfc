"""Builds that are killed, and builds that run beside each other."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from edgeops.bundle import verify_bundle
from edgeops.signing.keys import keyring, load_public_key
from edgeops_testkit.recipes import Builder, SmallBuild, last_line
from edgeops_testkit.waiting import wait_until
from toolchain.build import read_source
from toolchain.caching.cache import StepCache

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


def wait_for_line(build: subprocess.Popen[str], start: str) -> None:
    """Reads the build's stderr up to a line that starts so."""
    assert build.stderr is not None
    seen = []
    for line in build.stderr:
        seen.append(line)
        if line.startswith(start):
            return
    raise AssertionError(f"the build ended without a line {start!r}: {''.join(seen)}")


def next_step(build: subprocess.Popen[str], known: set[str]) -> str | None:
    """Reads the build's stderr up to the start of a step that is not known; None if it ends without."""
    assert build.stderr is not None
    for line in build.stderr:
        if line.startswith("run ") and (step := line.split()[1]) not in known:
            return step
    return None


def kill(build: subprocess.Popen[str]) -> None:
    """Kills the build, and only it, and waits until none of its workers lives."""
    workers = psutil.Process(build.pid).children(recursive=True)
    build.kill()
    build.communicate()
    assert build.returncode == -signal.SIGKILL
    wait_until(lambda: not psutil.wait_procs(workers, timeout=0)[1], 20, "the workers' end")


def test_killed_at_each_step_in_turn_it_ends_as_if_nothing_had_been(
    small_build: SmallBuild, tmp_path: Path
) -> None:
    builder, killed = Builder.at(tmp_path), set[str]()
    build = builder.start(small_build.recipe)
    while (step := next_step(build, killed)) is not None:
        killed.add(step)
        kill(build)
        assert not [path for path in builder.out.glob("*") if not path.name.startswith(".")]
        build = builder.start(small_build.recipe)
    line = last_line(build.communicate()[0])
    # A short step may start and end beside another one just before that is killed.
    assert len(set(small_build.line["steps_run"]) - killed) <= 2
    assert "sign" in killed
    assert line["steps_run"] == ["sign"]
    assert line["digest"] == small_build.line["digest"]
    keys = keyring([load_public_key(builder.public_key)])
    assert verify_bundle(builder.out / "digits-1.0.0", keys).digest == small_build.line["digest"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_ended_build_says_so_and_leaves_nothing_running_and_nothing_half_written(
    small_build: SmallBuild, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    builder = Builder.at(tmp_path)
    build = builder.start(small_build.recipe)
    wait_for_line(build, "run    train-teacher")
    workers = psutil.Process(build.pid).children(recursive=True)
    assert workers
    build.send_signal(number)
    _, stderr = build.communicate(timeout=60)
    assert build.returncode == status, stderr
    assert "Traceback" not in stderr
    wait_until(lambda: not psutil.wait_procs(workers, timeout=0)[1], 20, "the workers' end")
    assert list(builder.out.iterdir()) == []
    cache = StepCache(builder.home / "cache" / "build")
    kept = [path.name for path in (cache.root / "steps").iterdir()]
    assert kept
    assert all(cache.get(key) is not None for key in kept)


def test_two_builds_at_once_share_the_work_and_agree(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = Builder.at(tmp_path)
    builds = [builder.start(small_build.recipe) for _ in range(2)]
    lines = []
    for build in builds:
        stdout, stderr = build.communicate(timeout=200)
        assert build.returncode == 0, stderr
        lines.append(last_line(stdout))
    assert {line["digest"] for line in lines} == {small_build.line["digest"]}
    plan = read_source(str(small_build.recipe)).plan()
    ran = sorted(name for line in lines for name in line["steps_run"])
    assert ran == sorted([*(step.name for step in plan.steps), "sign"])
    assert [path.name for path in builder.out.iterdir()] == ["digits-1.0.0"]
