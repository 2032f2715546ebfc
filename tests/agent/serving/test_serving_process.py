"""The serving process as the control process sees it, and its local API as an application does."""

from __future__ import annotations

import json
import math
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient.utils import InferenceServerException

from device_agent.processes.serving_protocol import Drained, Failed, Ready
from edgeops_testkit.bundles import digits_data, make_bundle
from edgeops_testkit.graphs import write_huge
from edgeops_testkit.serving_process import (
    ServingProcess,
    bundle_ref,
    client_of,
    infer,
    listening,
    post,
    window_of,
)
from edgeops_testkit.waiting import wait_until

pytestmark = pytest.mark.slow

_, _, IMAGES, LABELS = digits_data()
# The student is right on most held-out digits; what it says of these is asked again and again.
IMAGE = IMAGES[:1]


@pytest.fixture(scope="module")
def slot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("slots"), key=None)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


@pytest.fixture
def served(slot: Path, tmp_path: Path, listener: socket.socket) -> Iterator[ServingProcess]:
    with ServingProcess(slot, tmp_path / "rings" / "a.ring", listener) as process:
        process.serve()
        yield process


def test_a_stock_client_gets_health_metadata_and_inference(
    served: ServingProcess, slot: Path, tmp_path: Path
) -> None:
    with client_of(served) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits", "1.0.0")
        metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    result = infer(served, IMAGES[:8], request_id="r-1")
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (8, 10)
    assert (probabilities.argmax(axis=1) == LABELS[:8]).mean() > 0.7
    one = infer(served, IMAGE).get_response()["parameters"]
    digest = bundle_ref(slot).digest
    assert (one["answered_by"], one["digest"], one["variant"]) == ("device", digest, "onnx-fp32")
    assert one["class"] == str(probabilities[0].argmax())
    assert one["confidence"] == pytest.approx(probabilities[0].max(), rel=1e-5)
    window = window_of(served, tmp_path)
    assert (window.requests, sum(window.classes.values()), window.errors) == (2, 9, {})
    assert window.bundle == bundle_ref(slot)


@pytest.mark.parametrize(
    ("path", "shape", "datatype", "data", "status"),
    [
        ("digits", [1, 1, 8, 8], "FP32", [math.nan] * 64, 400),
        ("digits", [1, 1, 8, 8], "FP32", [1e39] * 64, 400),
        ("digits", [1, 1, 8, 8], "FP32", [0.0] * 63, 400),
        ("digits", [1, 64], "FP32", [0.0] * 64, 400),
        ("digits", [1, 1, 8, 8], "INT64", [0] * 64, 400),
        ("letters", [1, 1, 8, 8], "FP32", [0.0] * 64, 404),
        ("digits/versions/9.9.9", [1, 1, 8, 8], "FP32", [0.0] * 64, 404),
    ],
)
def test_what_does_not_fit_is_refused_in_the_protocols_form_and_counted(
    served: ServingProcess,
    tmp_path: Path,
    path: str,
    shape: list[int],
    datatype: str,
    data: list[float],
    status: int,
) -> None:
    body = {"inputs": [{"name": "image", "shape": shape, "datatype": datatype, "data": data}]}
    answer = post(served, f"/v2/models/{path}/infer", body)
    assert answer[0] == status
    assert isinstance(answer[1]["error"], str)
    window = window_of(served, tmp_path)
    assert (window.rejected, window.requests, window.errors) == (1, 0, {})


def test_nan_through_the_stock_client_is_a_400(served: ServingProcess) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer(served, np.full((1, 1, 8, 8), np.nan, np.float32))
    assert caught.value.status() == "400"


def test_labels_judge_the_devices_answers(served: ServingProcess, tmp_path: Path) -> None:
    right = 0
    for number in range(6):
        result = infer(served, IMAGES[number : number + 1], request_id=f"r-{number}")
        right += int(result.as_numpy("probabilities").argmax() == LABELS[number])
    labels = [{"id": f"r-{number}", "label": str(LABELS[number])} for number in range(6)]
    assert post(served, "/edgeops/v1/labels", labels[0]) == (200, {"recorded": 1, "unknown": []})
    answer = post(served, "/edgeops/v1/labels", [*labels[1:], {"id": "never", "label": "1"}])
    assert answer == (200, {"recorded": 5, "unknown": ["never"]})
    assert post(served, "/edgeops/v1/labels", labels[0])[0] == 404  # judged already
    assert post(served, "/edgeops/v1/labels", {"id": "r-1", "label": "eleven"})[0] == 400
    assert post(served, "/edgeops/v1/labels", b"[{]")[0] == 400
    assert post(served, "/edgeops/v1/labels", {"id": 3, "label": "1"})[0] == 400
    window = window_of(served, tmp_path)
    assert (window.labels_seen, window.labels_right) == (6, right)


def test_ready_tells_what_was_measured(slot: Path, tmp_path: Path, listener: socket.socket) -> None:
    with ServingProcess(slot, tmp_path / "rings" / "a.ring", listener) as process:
        process.send(process.start)
        ready = process.receive(Ready)
    assert ready.inline
    assert 0 < ready.run_ms < 2
    assert 0 < ready.largest_difference < 1e-3
    assert ready.load_ms > 0


def changed_slot(slot: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(slot, tmp_path / "changed"))


@pytest.mark.parametrize(
    "path",
    ["manifest.json", "variants/onnx-fp32/model.onnx", "selftest/vectors.json", "reference/profile.json"],
)
def test_a_slot_changed_since_it_was_installed_is_refused(
    slot: Path, tmp_path: Path, listener: socket.socket, path: str
) -> None:
    copy = changed_slot(slot, tmp_path)
    content = bytearray((copy / path).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / path).write_bytes(content)
    ring = tmp_path / "rings" / "a.ring"
    with ServingProcess(copy, ring, listener, bundle=bundle_ref(slot)) as process:
        process.send(process.start)
        failed = process.receive(Failed)
        assert process.process.wait(20) == 1
    assert (failed.error["kind"], failed.error["subject"]) == ("artifact", path)
    assert not ring.exists()


def test_a_model_that_fails_its_selftest_is_refused(
    tmp_path: Path, slot: Path, listener: socket.socket
) -> None:
    """A bundle of the bad model with the good one's expectations: every digest right, the answers wrong."""
    bad = make_bundle(tmp_path / "bad", key=None, version="1.2.0", quality="bad")
    vectors = bad / "selftest" / "vectors.json"
    manifest = json.loads((bad / "manifest.json").read_text())
    vectors.write_bytes((slot / "selftest" / "vectors.json").read_bytes())
    good = json.loads((slot / "manifest.json").read_text())
    entry = next(file for file in good["files"] if file["path"] == "selftest/vectors.json")
    manifest["files"] = [entry if file["path"] == entry["path"] else file for file in manifest["files"]]
    (bad / "manifest.json").write_text(json.dumps(manifest))
    with ServingProcess(bad, tmp_path / "rings" / "a.ring", listener) as process:
        process.send(process.start)
        failed = process.receive(Failed)
    assert failed.error["kind"] == "artifact"
    assert "self-test" in failed.error["message"]


def test_a_ring_that_cannot_be_made_is_told(slot: Path, tmp_path: Path, listener: socket.socket) -> None:
    ring = tmp_path / "rings" / "a.ring"
    with ServingProcess(slot, ring, listener, ring_size_bytes=1024) as process:
        process.send(process.start)
        assert process.receive(Failed).error["kind"] == "config"


def test_the_process_has_its_limits(slot: Path, tmp_path: Path, listener: socket.socket) -> None:
    with ServingProcess(slot, tmp_path / "rings" / "a.ring", listener, memory_bytes=192 << 20) as process:
        process.serve()
        limits = psutil.Process(process.process.pid)
        assert limits.rlimit(psutil.RLIMIT_DATA) == (192 << 20, 192 << 20)
        assert limits.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert infer(process, IMAGE).as_numpy("probabilities").shape == (1, 10)


def test_a_model_that_asks_for_more_than_its_memory_fails_that_request_alone(tmp_path: Path) -> None:
    """The limit that the process sets itself, with the real engine: 16 GB asked for, 512 MB allowed."""
    write_huge(tmp_path / "huge.onnx")
    code = "import sys; from pathlib import Path\n" + _HUGE
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stdout) == (0, "refused\nanswered 10\n"), done.stderr


_HUGE = """
import resource
import numpy as np
from edgeops_testkit.graphs import variant_for
from edgeops.engines.base import load_engine
from edgeops.errors import InferenceError

root = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (512 << 20, 512 << 20))
engine = load_engine(variant_for(root / "huge.onnx", root), root)
try:
    engine.run({"n": np.array([4_000_000_000])})
except InferenceError:
    print("refused")
print("answered", engine.run({"n": np.array([10])})["y"].size)
"""


@pytest.mark.parametrize("served_first", [False, True])
def test_the_channels_end_drains(
    slot: Path, tmp_path: Path, listener: socket.socket, served_first: bool
) -> None:
    with ServingProcess(slot, tmp_path / "rings" / "a.ring", listener) as process:
        if served_first:
            process.serve()
            infer(process, IMAGE)
        else:
            process.send(process.start)
            process.receive(Ready)
        process.channel.shutdown(socket.SHUT_RDWR)
        assert process.process.wait(20) == 0


def test_sigterm_drains(served: ServingProcess, tmp_path: Path) -> None:
    infer(served, IMAGE)
    served.process.send_signal(signal.SIGTERM)
    served.receive(Drained)
    assert served.process.wait(20) == 0
    assert window_of(served, tmp_path).requests == 1


@pytest.mark.chaos
def test_a_killed_process_has_recorded_every_answer(served: ServingProcess, tmp_path: Path) -> None:
    for _ in range(25):
        infer(served, IMAGE)
    served.process.kill()
    served.process.wait()
    assert window_of(served, tmp_path).requests == 25
    assert not served.ring.exists()


@pytest.mark.chaos
def test_nobody_is_left_when_the_control_process_is_killed(slot: Path, tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG and the channel's end: a parent killed by SIGKILL leaves nothing behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(slot), str(tmp_path / "rings" / "a.ring")],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        parent.wait()
        wait_until(
            lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 20, "the end of it"
        )


_PARENT = """
import sys
from pathlib import Path
from edgeops_testkit.serving_process import ServingProcess, listening

with listening() as listener, ServingProcess(Path(sys.argv[1]), Path(sys.argv[2]), listener) as process:
    process.serve()
    print(process.process.pid, flush=True)
    process.process.wait()
"""
