"""The hub's systemd unit: accepted by systemd without a word, and closed where nothing need be open.

`hw_tests/test_systemd.py` runs it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "edgeops-hub.service"
pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def test_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    # The program is not where the unit looks for it, and there need be no manuals; the rest is checked.
    copy = tmp_path / UNIT.name
    text = UNIT.read_text().replace("/opt/edgeops/bin/edgeops", "/bin/true")
    copy.write_text(text.replace("Documentation=man:mosquitto(8)\n", ""))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, check=False)
    # It exits with 0 on keys that it does not know; only its words tell.
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_its_exposure_is_low() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()[-200:]
