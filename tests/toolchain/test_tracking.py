"""Logging builds to a real MLflow server."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edgeops.bundle import verify_bundle
from edgeops.errors import TransportError
from edgeops.signing.keys import keyring, load_public_key
from edgeops_testkit.recipes import SmallBuild, last_line
from edgeops_testkit.waiting import free_port, refusing_port, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1",
            "--artifacts-destination", str(folder / "artifacts"),
        ],
        cwd=folder,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: healthy(uri, process), 240, lambda: (folder / "log").read_text())
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(uri: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "the server ended"
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ask(uri: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def runs(uri: str) -> list[dict[str, Any]]:
    found = ask(uri, "experiments/get-by-name?experiment_name=edgeops")["experiment"]["experiment_id"]
    result: list[dict[str, Any]] = ask(uri, "runs/search", {"experiment_ids": [found]}).get("runs", [])
    return result


def test_a_build_is_logged_with_what_it_is(small_build: SmallBuild, server: str, tmp_path: Path) -> None:
    builder = small_build.with_out(tmp_path / "out")
    line = builder.build(small_build.recipe, "--mlflow", server, EDGEOPS_KEY_PASSPHRASE="not-to-be-seen")
    run = runs(server)[0]
    assert run["info"]["run_name"] == "digits-1.0.0"
    assert run["info"]["status"] == "FINISHED"
    params = {item["key"]: item["value"] for item in run["data"]["params"]}
    assert params["models.student.distillation.temperature"] in ("4", "4.0")
    assert params["variants.0.id"] == "onnx-int8"
    metrics = {item["key"]: item["value"] for item in run["data"]["metrics"]}
    first = line["variants"][0]
    assert metrics["onnx-int8.accuracy"] == first["quality"]["accuracy"]
    assert metrics["onnx-int8.size_bytes"] == first["size_bytes"]
    assert metrics["teacher-onnx-fp32.latency_p50_ms"] > 0
    tags = {item["key"]: item["value"] for item in run["data"]["tags"]}
    assert tags["edgeops.digest"] == line["digest"]
    files = ask(server, f"artifacts/list?run_id={run['info']['run_id']}&path=evaluation")["files"]
    assert "evaluation/report.json" in [item["path"] for item in files]
    top = ask(server, f"artifacts/list?run_id={run['info']['run_id']}")["files"]
    assert {item["path"] for item in top} == {"README.md", "evaluation"}
    everything = json.dumps(run)
    assert "not-to-be-seen" not in everything
    assert str(builder.key) not in everything
    assert str(tmp_path) not in everything


def test_a_server_that_is_not_there_is_told_and_the_bundle_is_there(
    small_build: SmallBuild, tmp_path: Path
) -> None:
    builder = small_build.with_out(tmp_path / "out")
    with refusing_port() as port:
        server = f"http://me:hunter2@127.0.0.1:{port}"
        done = builder.run(small_build.recipe, "--mlflow", server, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == TransportError.exit_code
    error = last_line(done.stdout)["error"]
    assert "is built and signed" in error["message"]
    assert error["details"]["digest"] == small_build.line["digest"]
    assert "hunter2" not in done.stdout + done.stderr
    assert len([text for text in done.stderr.splitlines() if text.startswith("error:")]) == 1
    keys = keyring([load_public_key(builder.public_key)])
    assert verify_bundle(builder.out / "digits-1.0.0", keys).digest == small_build.line["digest"]
