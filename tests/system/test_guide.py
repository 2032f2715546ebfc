"""The commands that the guide shows are run, in order, as a reader would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeops_testkit.waiting import free_port

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
# The guide uses the default ports; here others may hold those, so each is replaced by a free one.
PORTS = {
    "8080": "EDGEOPS_HUB_API_PORT",
    "8443": "EDGEOPS_HUB_DEVICE_PORT",
    "8444": "EDGEOPS_HUB_GATEWAY_PORT",
    "8883": "EDGEOPS_HUB_MQTT_PORT",
    "8500": "EDGEOPS_AGENT_LISTEN_PORT",
    "8501": "EDGEOPS_AGENT_ADMIN_PORT",
}


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_every_command_of_the_guide_works(tmp_path: Path) -> None:
    text = GUIDE.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    script = "set -e\n" + "\n".join(blocks)
    ports = {port: str(free_port()) for port in PORTS}
    for port, free in ports.items():
        script = script.replace(f":{port}", f":{free}")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "EDGEOPS_HUB_URL": f"http://127.0.0.1:{ports['8080']}",
        **{name: ports[port] for port, name in PORTS.items()},
    }
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        # The background processes hold the pipe open: read lines until the script itself ends.
        assert process.stdout is not None
        output, _ = process.communicate(timeout=400)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode == 0, output[-4000:]
    assert '"answered_by"' in output
    assert '"recorded":1' in output
