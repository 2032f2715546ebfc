"""The agent's own environment: what a device installs, and that it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.system import System
from edgeops_testkit.text_models import make_text_bundle
from edgeops_testkit.waiting import wait_until

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "torch",
    "transformers",
    "nicegui",
    "sqlalchemy",
    "fastapi",
    "scikit-learn",
    "onnx",
    "model-signing",
    "tokenizers",
    "huggingface-hub",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the agent's packages, from a wheel of this tree."""
    folder = tmp_path_factory.mktemp("agent")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run(
        [*pip, "install", "-c", str(ROOT / "constraints.txt"), f"{ROOT}[agent]"], check=True, timeout=280
    )
    return venv


@pytest.mark.slow
@pytest.mark.install
def test_nothing_of_the_hub_or_the_build_is_installed(environment: Path) -> None:
    listed = subprocess.run(
        [
            str(environment / "bin" / "python"),
            "-m",
            "pip",
            "list",
            "--format=json",
            "--disable-pip-version-check",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    names = {package["name"].lower().replace("_", "-") for package in json.loads(listed.stdout)}
    assert {"onnxruntime", "paho-mqtt"} <= names
    assert not names & FORBIDDEN


_CHOOSE = """
import sys
from device_agent.updates.variants import choose_variant
from edgeops.errors import ArtifactError
from edgeops.manifest import Manifest
try:
    choose_variant(Manifest.parse(sys.stdin.buffer.read()), 1 << 30)
except ArtifactError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.install
def test_a_text_bundle_is_refused_there_with_what_to_install(environment: Path, tmp_path: Path) -> None:
    bundle = make_text_bundle(tmp_path, key=None)
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-P", "-c", _CHOOSE],
        input=(bundle / "manifest.json").read_bytes(),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert b"needs tokenizers, which is not installed (pip install 'edgeops[text]')" in done.stdout


@pytest.mark.slow
@pytest.mark.install
def test_the_agent_runs_there(environment: Path, tmp_path: Path) -> None:
    system = System(tmp_path)
    try:
        system.start_hub()
        agent = system.add_agent("device-1")
        agent.daemon.executable = str(environment / "bin" / "edgeops")
        agent.daemon.start()
        bundle = make_bundle(tmp_path / "digits", version="1.0.0", key=system.builder.with_suffix(".key"))
        digest = json.loads(system.cli("publish", str(bundle), "--json"))["digest"]
        system.api("/api/v1/devices/device-1/desired", {"digest": digest})
        wait_until(
            lambda: (system.device("device-1")["running"] or {}).get("digest") == digest,
            60,
            lambda: f"the agent runs the bundle; its log: {agent.daemon.tail()}",
        )
        helped = subprocess.run(
            [str(environment / "bin" / "edgeops"), "fleet", "devices"],
            env={**os.environ, "EDGEOPS_HOME": str(tmp_path / "empty")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert helped.returncode == 6
        assert "edgeops[hub]" in helped.stderr or "hub" in helped.stderr
    finally:
        system.stop()
