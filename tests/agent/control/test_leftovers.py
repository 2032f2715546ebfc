"""Processes that an earlier agent left: ended, and never mistaken for others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.processes import leftovers

pytestmark = pytest.mark.slow


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not listen to SIGTERM."""
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('.', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, deaf: subprocess.Popen[bytes]) -> None:
    leftovers.record(tmp_path, "7-1", deaf.pid)
    found = leftovers.living(tmp_path)
    assert [one.pid for one in found] == [deaf.pid]
    leftovers.end(found, 0.2)
    assert deaf.wait(timeout=10) == -9
    assert leftovers.living(tmp_path) == [] and not list(tmp_path.iterdir())


def test_another_process_with_the_same_id_is_left_alone(
    tmp_path: Path, deaf: subprocess.Popen[bytes]
) -> None:
    leftovers.record(tmp_path, "7-1", deaf.pid)
    noted = leftovers.living(tmp_path)[0]
    stranger = leftovers.Record(noted.pid, noted.started_ticks - 1)
    leftovers.end([stranger], 0.1)
    assert deaf.poll() is None


def test_a_process_that_has_ended_is_forgotten(tmp_path: Path, deaf: subprocess.Popen[bytes]) -> None:
    leftovers.record(tmp_path, "7-1", deaf.pid)
    (tmp_path / "broken.json").write_text("{")
    leftovers.forget(tmp_path, "7-1")
    assert leftovers.living(tmp_path) == [] and not list(tmp_path.iterdir())
