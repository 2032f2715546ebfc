"""Real processes, really killed: what the writer answered is recorded, what is recorded is counted once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_agent.telemetry.collector import TelemetryCollector
from device_agent.telemetry.spool import Spool
from edgeops_testkit.rings import inputs_of, new_ring, windows_in
from edgeops_testkit.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool.db", "device", size_bytes=1 << 30)


@pytest.fixture
def collector(tmp_path: Path, spool: Spool) -> TelemetryCollector:
    return TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=10)


_WRITER = """
import sys
from pathlib import Path
from edgeops_testkit.rings import inputs_of, new_ring

writer = new_ring(Path(sys.argv[1]), 64 << 20)
answered = 0
while True:
    writer.request(inputs_of(answered), 1.0, 0, 0.5)
    answered += 1
    sys.stdout.write("%d\\n" % answered)  # the answer, after the recording
    sys.stdout.flush()
"""

_CONTROL = """
import sys, time
from pathlib import Path
from device_agent.telemetry.collector import TelemetryCollector
from device_agent.telemetry.spool import Spool

root = Path(sys.argv[1])
spool = Spool(root / "spool.db", "device", size_bytes=1 << 30)
collector = TelemetryCollector(root / "rings", spool, device="device", interval_s=0.2)
print("up", flush=True)
while True:
    collector.collect(time.time_ns() // 1_000_000, flush=True)
"""


def _python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, **options
    )


def test_a_writer_killed_mid_stream_has_recorded_all_it_answered(
    tmp_path: Path, spool: Spool, collector: TelemetryCollector
) -> None:
    path = tmp_path / "rings" / "a.ring"
    for answers in (1, 50, 3000):
        with _python(_WRITER, str(path)) as writer:
            assert writer.stdout is not None
            for _ in range(answers):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            lines = [line for line in writer.stdout.read().split(b"\n") if line]
            writer.wait()
        answered = int(lines[-1]) if lines else answers
        before = sum(window.requests for window in windows_in(spool))
        assert collector.finish(path) == 1
        recorded = sum(window.requests for window in windows_in(spool)) - before
        assert answered <= recorded <= answered + 1
        assert not path.exists()


def test_a_control_process_killed_again_and_again_counts_every_request_once(tmp_path: Path) -> None:
    (tmp_path / "rings").mkdir()
    writers = [new_ring(tmp_path / "rings" / f"{number}.ring", 4 << 20) for number in range(2)]
    total = 0
    for life in range(12):
        with _python(_CONTROL, str(tmp_path)) as control:
            assert control.stdout is not None
            control.stdout.readline()
            for number in range(400 + 137 * life):
                writers[number % 2].request(inputs_of(number), 1.0, 0, 0.5)
                total += 1
            if life % 3 == 1:  # a serving process dies, too, and its ring goes in the middle of it all
                writers[0].close()
                writers[0] = new_ring(tmp_path / "rings" / f"life-{life}.ring", 4 << 20)
            control.send_signal(signal.SIGKILL)
            control.wait()
    for writer in writers:
        writer.close()
    spool = Spool(tmp_path / "spool.db", "device", size_bytes=1 << 30)
    collector = TelemetryCollector(tmp_path / "rings", spool, device="device", interval_s=1)
    wait_until(lambda: collector.collect(0) == 0, 10, "all rings to be drained")
    windows = windows_in(spool)
    assert sum(window.requests for window in windows) == total
    assert sum(window.unsampled for window in windows) == 0
    assert len({(window.session, window.sequence) for window in windows}) == len(windows) > 1
    assert list((tmp_path / "rings").iterdir()) == []
