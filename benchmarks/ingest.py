"""Bench (b): windows a second, from devices through mosquitto into SQLite and back to the devices.

Everything is real and runs as in production: mutual TLS between devices and broker, the broker as the hub
configures it, the ingest role as a process of its own, `synchronous=FULL`, and the clock stops when the last
device has the hub's own acknowledgement, which is sent after the commit. Only the devices are lean
(`benchmarks.mqtt_publisher`), and they run on the same cores.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import func, insert, select

from benchmarks.harness import Table
from benchmarks.mqtt_publisher import Device, Job, Result
from cloud_hub.broker.process import Broker
from cloud_hub.processes.prepare import prepare
from cloud_hub.settings import HubSettings
from cloud_hub.store import schema
from cloud_hub.store.database import open_database, reading, writing
from cloud_hub.trust.authority import Authority
from edgeops.messages import BundleRef, Window, encode
from edgeops.settings import load
from edgeops.signing.keys import private_pem
from edgeops.sketches import kll_of, profile_of

DEVICES = 16
# Latency, confidence and eight features: ten sketches, about 3.3 KB.
FEATURES = 8
VALUES = 48
# Windows differ in device, session, sequence and time; their sketches are drawn from so many.
DISTINCT = 200
IN_FLIGHT = 200

_ROLE = """
import asyncio, sys
from cloud_hub.ingest.role import serve
from cloud_hub.settings import HubSettings
settings = HubSettings.model_validate_json(sys.argv[1])
asyncio.run(serve(settings, lambda: print("ready", flush=True)))
"""


@dataclass(frozen=True)
class _Measured:
    windows_per_s: float
    broker_us: float
    ingest_us: float
    devices_us: float


def run(quick: bool) -> Table:
    """Measures and returns the table. Needs mosquitto."""
    count = 8_000 if quick else 48_000
    runs = 1 if quick else 3
    samples = _samples()
    measured = [_measure(samples, count) for _ in range(runs)]
    rows = [
        {
            "run": number + 1,
            "windows/s": one.windows_per_s,
            "broker CPU µs/window": one.broker_us,
            "ingest CPU µs/window": one.ingest_us,
            "devices CPU µs/window": one.devices_us,
        }
        for number, one in enumerate(measured)
    ]
    median = statistics.median(one.windows_per_s for one in measured)
    size = len(encode(samples[0]))
    return Table(
        key="ingest",
        title="Windows ingested, end to end through mosquitto into SQLite",
        columns=list(rows[0]),
        rows=rows,
        command="python -m benchmarks ingest",
        aim="over 8,000 windows/s, acknowledged after the commit, on 2 cores with the broker beside",
        seen=f"{median:,.0f} windows/s (median of {runs})",
        notes=[
            f"{count:,} windows a run, {size:,} bytes each with ten KLL sketches, from {DEVICES} devices over"
            f" mutual TLS, at most {IN_FLIGHT} of a device under way.",
            "The clock runs from the first publication to the last acknowledgement by the hub at a device;"
            " every row was counted in the database afterwards.",
            "Broker, ingest role and the bench's devices share the cores; CPU is each process's own.",
        ],
    )


def _measure(samples: list[Window], count: int) -> _Measured:
    with (
        tempfile.TemporaryDirectory(prefix="edgeops-bench-") as folder,
        _hub(Path(folder)) as (settings, pid),
    ):
        job = _job(settings, samples, count, Path(folder))
        with _process([sys.executable, "-P", "-c", _ROLE, settings.model_dump_json()]) as ingest:
            _expect(ingest, b"ready\n")
            with _process([sys.executable, "-m", "benchmarks.mqtt_publisher"]) as devices:
                assert devices.stdin is not None and devices.stdout is not None
                data = msgspec.msgpack.encode(job)
                devices.stdin.write(len(data).to_bytes(8) + data)
                devices.stdin.flush()
                _expect(devices, b"ready\n")
                broker_s, ingest_s = _cpu_s(pid), _cpu_s(ingest.pid)
                devices.stdin.write(b"go\n")
                devices.stdin.flush()
                result = msgspec.json.decode(devices.stdout.readline(), type=Result)
                broker_s, ingest_s = _cpu_s(pid) - broker_s, _cpu_s(ingest.pid) - ingest_s
        stored = _stored(settings)
        if not stored == result.acknowledged == count:
            raise RuntimeError(f"{count} were sent, {result.acknowledged} acknowledged, {stored} stored")
        each = 1e6 / count
        return _Measured(count / result.elapsed_s, broker_s * each, ingest_s * each, result.cpu_s * each)


def _samples() -> list[Window]:
    random = np.random.default_rng(7)
    samples = []
    for _ in range(DISTINCT):
        columns = random.normal(size=(FEATURES, VALUES)).astype(np.float32)
        samples.append(
            Window(
                device="",
                session=1,
                sequence=0,
                start_ms=0,
                end_ms=0,
                bundle=BundleRef(name="digits", version="1.0.0", digest="d1" * 32),
                variant="onnx-int8",
                requests=VALUES,
                errors={},
                rejected=0,
                latency=kll_of(random.gamma(2.0, 1.0, VALUES)),
                confidence=kll_of(random.random(VALUES)),
                classes={
                    str(digit): int(n) for digit, n in enumerate(random.multinomial(VALUES, [0.1] * 10))
                },
                features={f"feature-{i}": profile_of(column) for i, column in enumerate(columns)},
                fallbacks={"low_confidence": 3},
                labels_seen=5,
                labels_right=4,
            )
        )
    return samples


@contextmanager
def _hub(folder: Path) -> Iterator[tuple[HubSettings, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = load(HubSettings, state_dir=folder / "hub", mqtt_host="127.0.0.1", mqtt_port=port)
    prepare(settings)
    broker = Broker(settings)
    broker.start()
    try:
        broker.wait_ready()
        pid = broker.pid
        assert pid is not None
        yield settings, pid
    finally:
        broker.stop()


def _job(settings: HubSettings, samples: list[Window], count: int, folder: Path) -> Job:
    names = [f"device-{number:02}" for number in range(DEVICES)]
    _enrol(settings, names)
    authority = Authority.open(settings)
    devices = []
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        request = (
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        )
        issued = authority.issue_device(request.public_bytes(Encoding.PEM), name)
        (folder / f"{name}.crt").write_bytes(issued.pem)
        (folder / f"{name}.key").write_bytes(private_pem(key))
        devices.append(Device(name, str(folder / f"{name}.crt"), str(folder / f"{name}.key"), []))
    for number in range(count):
        device, sequence = devices[number % DEVICES], number // DEVICES + 1
        start_ms = sequence * 30_000
        window = msgspec.structs.replace(
            samples[number % DISTINCT],
            device=device.name,
            sequence=sequence,
            start_ms=start_ms,
            end_ms=start_ms + 30_000,
        )
        device.windows.append(encode(window))
    (folder / "ca.pem").write_bytes(authority.ca_pem)
    return Job(settings.mqtt_port, str(folder / "ca.pem"), IN_FLIGHT, devices)


def _enrol(settings: HubSettings, names: list[str]) -> None:
    engine = open_database(settings)
    row = {
        "site": "bench",
        "labels_json": "{}",
        "certificate_serial": "",
        "certificate_expires_at_ms": 0,
        "enrolled_at_ms": 0,
    }
    with writing(engine) as connection:
        connection.execute(insert(schema.devices), [{"name": name, **row} for name in names])
    engine.dispose()


def _stored(settings: HubSettings) -> int:
    engine = open_database(settings)
    with reading(engine) as connection:
        stored: int = connection.execute(select(func.count()).select_from(schema.windows)).scalar_one()
    engine.dispose()
    return stored


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def _expect(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdout is not None
    found = process.stdout.readline()
    if found != line:
        raise RuntimeError(f"{process.args!r} did not start")


def _cpu_s(pid: int) -> float:
    """User and system time of a process (proc(5), /proc/<pid>/stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
