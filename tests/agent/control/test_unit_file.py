"""The agent's systemd unit: accepted by systemd without a word, and closed where nothing need be open."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "edgeops-agent.service"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_systemd
def test_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    # The program is not installed where the unit looks for it; the rest of the unit is checked as it is.
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/edgeops/bin/edgeops", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, check=False)
    # It exits with 0 on keys that it does not know; only its words tell.
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@needs_systemd
def test_its_exposure_is_low() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()[-200:]


def test_it_waits_for_the_agent_to_say_that_it_is_ready_and_alive() -> None:
    lines = UNIT.read_text().splitlines()
    assert {"Type=notify", "WatchdogSec=30", "Environment=PYTHONSAFEPATH=1", "Restart=always"} <= set(lines)
