"""A real serving process with the control process's side of its channel in the test's hands."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import tritonclient.http as triton

from device_agent.processes.serving_protocol import (
    Drain,
    Drained,
    Message,
    Ready,
    Serve,
    Serving,
    Start,
    decode_line,
    encode_line,
)
from device_agent.telemetry.collector import TelemetryCollector
from device_agent.telemetry.spool import Spool
from edgeops.canonical import sha256_file
from edgeops.manifest import Manifest
from edgeops.messages import BundleRef, Window
from edgeops_testkit.rings import windows_in

MessageT = TypeVar("MessageT")
TIMEOUT_S = 60.0


def bundle_ref(slot: Path) -> BundleRef:
    """The bundle in `slot` by name, version and digest."""
    fields = Manifest.parse((slot / "manifest.json").read_bytes()).fields
    digest = sha256_file(slot / "manifest.json")
    return BundleRef(name=fields.name, version=fields.version, digest=digest)


class ServingProcess:
    """Starts `python -P -m device_agent.serving`; kills it at the end of the `with` block."""

    def __init__(self, slot: Path, ring: Path, listener: socket.socket, **changes: Any) -> None:
        self.ring = ring
        self.listener = listener
        ring.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "device_agent.serving", "--channel", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), listener.fileno()],
            )
        self.channel = ours
        self._lines = ours.makefile("rb")
        values: dict[str, Any] = {
            "slot_dir": str(slot),
            "variant": "onnx-fp32",
            "bundle": changes.get("bundle") or bundle_ref(slot),
            "ring_path": str(ring),
            "ring_size_bytes": 8 << 20,
            "listen_fd": listener.fileno(),
            "engine_threads": 1,
            "memory_bytes": 2 << 30,
            "request_size_bytes": 1 << 20,
            "drain_timeout_s": 5.0,
        }
        self.start = Start(**{**values, **changes})

    def __enter__(self) -> ServingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self._lines.close()
        self.process.kill()
        self.process.wait()

    def send(self, message: Message) -> None:
        self.channel.sendall(encode_line(message))

    def receive(self, kind: type[MessageT]) -> MessageT:
        """The next message, which must be a `kind`."""
        message = decode_line(self._lines.readline())
        assert isinstance(message, kind), message
        return message

    def serve(self) -> Ready:
        """Loads and begins to accept."""
        self.send(self.start)
        ready = self.receive(Ready)
        self.send(Serve())
        self.receive(Serving)
        return ready

    def drain(self) -> int:
        """Drains and returns the exit status."""
        self.send(Drain())
        self.receive(Drained)
        return self.process.wait(TIMEOUT_S)


def listening() -> socket.socket:
    """A listening socket on a free port of loopback."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.set_inheritable(True)
    return listener


def port_of(listener: socket.socket) -> int:
    """Its port."""
    port: int = listener.getsockname()[1]
    return port


def client_of(process: ServingProcess) -> triton.InferenceServerClient:
    """The stock client."""
    return triton.InferenceServerClient(f"127.0.0.1:{port_of(process.listener)}")


def infer_texts(process: ServingProcess, texts: list[str], **options: Any) -> triton.InferResult:
    """One inference of `commands` (see `text_models`) by the stock client."""
    array = np.array(texts, object)
    tensor = triton.InferInput("text", list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=options.pop("binary_in", True))
    with client_of(process) as client:
        return client.infer("commands", [tensor], **options)


def infer(process: ServingProcess, image: Any, **options: Any) -> triton.InferResult:
    """One inference by the stock client; `options` are those of its `infer`."""
    tensor = triton.InferInput("image", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image)
    with client_of(process) as client:
        return client.infer("digits", [tensor], **options)


def post(process: ServingProcess, path: str, body: object) -> tuple[int, dict[str, Any]]:
    """Posts JSON (or raw bytes) and returns the status and the body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port_of(process.listener)}{path}",
        data=data,
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def window_of(process: ServingProcess, tmp_path: Path) -> Window:
    """All that the process has recorded, collected as the control process does it."""
    spool = Spool(tmp_path / "spool.db", "device", size_bytes=1 << 30)
    collector = TelemetryCollector(process.ring.parent, spool, device="device", interval_s=1)
    collector.collect(0, flush=True)
    (window,) = windows_in(spool)
    collector.close()
    spool.close()
    return window
