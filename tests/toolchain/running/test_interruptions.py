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


def kill_at(build: subprocess.Popen[str], start: str) -> int:
    """Kills the build, and only it, at that line, and waits until none of its workers lives. Returns how many
    it had."""
    wait_for_line(build, start)
    workers = psutil.Process(build.pid).children(recursive=True)
    build.kill()
    build.communicate()
    assert build.returncode == -signal.SIGKILL
    wait_until(lambda: not psutil.wait_procs(workers, timeout=0)[1], 20, "the workers' end")
    return len(workers)


def test_a_killed_build_goes_on_where_it_stopped(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = Builder.at(tmp_path)
    for start, workers in (("run    train-teacher", 1), ("run    evaluate-onnx-fp32", 1), ("run    sign", 0)):
        assert kill_at(builder.start(small_build.recipe), start) >= workers
        assert not [path for path in builder.out.iterdir() if not path.name.startswith(".")]
    done = builder.run(small_build.recipe)
    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout)["digest"] == small_build.line["digest"]
    assert last_line(done.stdout)["steps_run"] == ["sign"]
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
