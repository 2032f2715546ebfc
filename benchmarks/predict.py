"""What the prediction path costs: bare `InferenceSession.run` against ours, which holds the data contract and
writes telemetry, in one process."""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from benchmarks.harness import Table
from device_agent.core.rows import RingMeta
from device_agent.processes.serving_protocol import Drain, Ready, Serve, Start, decode_line, encode_line
from device_agent.serving.predictor import Predictor
from device_agent.telemetry.recorder import RING_SUFFIX, RingWriter
from device_agent.telemetry.ring_reader import RingReader
from edgeops.bundle import file_entry, other_files, write_manifest
from edgeops.clock import now_ms
from edgeops.engines.base import load_engine
from edgeops.manifest import (
    Classification,
    ColumnSpec,
    Feature,
    Manifest,
    ManifestFields,
    Runtime,
    SelfTest,
    TensorSpec,
    Variant,
)
from edgeops.messages import BundleRef
from edgeops.selftest import SelfTestVectors, TensorValue

_INPUTS, _HIDDEN, _CLASSES = 64, 128, 10
_VARIANT = "onnx-fp32"
_MODEL = f"variants/{_VARIANT}/model.onnx"
_RING_BYTES = 8 << 20
_WARM_UP_CALLS = 1000
_TURN_CALLS = 200
_COLUMNS = ("path", "p50", "p99", "mean", "unit")


def run(quick: bool) -> Table:
    """A perceptron of 64-128-64-10 units, batch 1, two watched features, inputs copied into the ring. Once
    its input has no bounds (only what is not finite is refused), once each column has its own."""
    with tempfile.TemporaryDirectory(prefix="edgeops-bench-") as name:
        folder = Path(name)
        manifest = _bundle(folder / "bundle", columns=())
        bounded = _bundle(folder / "bounded", columns=_bounded_columns())
        pairs = _in_process(
            [(folder / "bundle", manifest), (folder / "bounded", bounded)], calls=5_000 if quick else 50_000
        )
        rows = [_row("InferenceSession.run", [alone for alone, _ in pairs[0]])]
        medians = []
        for contract, calls in zip(("no bounds", f"{_INPUTS} bounded columns"), pairs, strict=True):
            added = [with_telemetry - alone for alone, with_telemetry in calls]
            medians.append(statistics.median(added))
            rows.append(_row(f"Predictor.predict, {contract}", [ours for _, ours in calls]))
            rows.append(_row(f"added pair by pair, {contract}", added))
        for clients in (1, 8, 32):
            per_second = _over_http(folder, manifest, clients, seconds=1.0 if quick else 4.0)
            rows.append({"path": f"HTTP, {clients} clients", "p50": round(per_second), "unit": "requests/s"})
    return Table(
        key="predict",
        title="In-process prediction with telemetry",
        columns=_COLUMNS,
        rows=rows,
        command="python -m benchmarks predict",
        aim="under 5 µs added at p50, whatever the bounds",
        seen=f"{max(medians):.2f} µs added at p50",
        notes=(
            "Calls of the two paths alternate, each is timed, and the ring is drained as the agent does it. "
            f"With and without bounds take turns of {_TURN_CALLS} calls; what counts is the larger median.",
            "The HTTP clients share the machine's cores with the server; JSON, batch 1, keep-alive.",
        ),
    )


def _bounded_columns() -> tuple[ColumnSpec, ...]:
    """No two with the same bounds, and all hold what `_in_process` sends."""
    return tuple(
        ColumnSpec(name=f"c{number}", minimum=-number / _INPUTS, maximum=1 + number / _INPUTS)
        for number in range(_INPUTS)
    )


def _row(path: str, values: list[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(values, [50, 99])
    mean = statistics.fmean(values)
    figures = {"p50": p50, "p99": p99, "mean": mean}
    return {"path": path, **{name: round(float(value), 2) for name, value in figures.items()}, "unit": "µs"}


def _in_process(bundles: list[tuple[Path, Manifest]], calls: int) -> list[list[tuple[float, float]]]:
    """For each bundle, the microseconds of each call, in pairs: of a bare session on the same graph, and of
    our path. Bundles take turns of `_TURN_CALLS`: a device serves one model and has it in its caches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(bundles[0][0] / _MODEL), _same_options(onnxruntime), providers=["CPUExecutionProvider"]
    )
    predictors, readers = [], []
    for folder, manifest in bundles:
        engine = load_engine(manifest.variant(_VARIANT), folder)
        meta = RingMeta.of(manifest, _reference(manifest), _VARIANT, now_ms())
        ring = folder.with_suffix(RING_SUFFIX)
        predictors.append(Predictor(engine, manifest, RingWriter(ring, _RING_BYTES, meta)))
        readers.append(RingReader(ring))
    inputs = {"x": np.random.default_rng(0).random((1, _INPUTS), np.float32)}
    names = ["probabilities"]
    pairs: list[list[tuple[float, float]]] = [[] for _ in bundles]
    for _ in range((calls + _WARM_UP_CALLS) // _TURN_CALLS):
        for predictor, reader, seen in zip(predictors, readers, pairs, strict=True):
            for _ in range(_TURN_CALLS):
                start = perf_counter()
                session.run(names, inputs)
                middle = perf_counter()
                predictor.predict(inputs)
                end = perf_counter()
                seen.append(((middle - start) * 1e6, (end - middle) * 1e6))
            reader.release(reader.head())
    for reader, predictor in zip(readers, predictors, strict=True):
        reader.close()
        predictor.close()
    return [seen[_WARM_UP_CALLS:] for seen in pairs]


def _same_options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    return options


def _over_http(folder: Path, manifest: Manifest, clients: int, seconds: float) -> float:
    """Requests a second of a serving process."""
    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, ours, theirs:
        fds = (theirs.fileno(), listener.fileno())
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "device_agent.serving", "--channel", str(fds[0])], pass_fds=fds
        )
        start = Start(
            slot_dir=str(folder / "bundle"),
            variant=_VARIANT,
            bundle=_reference(manifest),
            ring_path=str(folder / f"http-{clients}.ring"),
            ring_size_bytes=_RING_BYTES,
            listen_fd=fds[1],
            engine_threads=1,
            memory_bytes=2 << 30,
            request_size_bytes=1 << 20,
            drain_timeout_s=5.0,
        )
        lines = ours.makefile("rb")
        ours.sendall(encode_line(start))
        answer = decode_line(lines.readline())
        if not isinstance(answer, Ready):
            raise RuntimeError(f"The serving process did not start: {answer}.")
        ours.sendall(encode_line(Serve()))
        lines.readline()
        port: int = listener.getsockname()[1]
        count = asyncio.run(_clients(port, clients, seconds))
        ours.sendall(encode_line(Drain()))
        process.wait(timeout=20)
    return count / seconds


async def _clients(port: int, clients: int, seconds: float) -> int:
    tensor = {"name": "x", "shape": [1, _INPUTS], "datatype": "FP32", "data": [0.5] * _INPUTS}
    body = msgspec.json.encode({"inputs": [tensor]})
    path = b"POST /v2/models/bench/infer HTTP/1.1\r\nHost: device\r\n"
    request = path + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    deadline = perf_counter() + seconds
    counts = await asyncio.gather(*(_client(port, request, deadline) for _ in range(clients)))
    return sum(counts)


async def _client(port: int, request: bytes, deadline: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    while perf_counter() < deadline:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"The server answered {head[:60]!r}.")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        count += 1
    writer.close()
    return count


def _reference(manifest: Manifest) -> BundleRef:
    return BundleRef(name=manifest.fields.name, version=manifest.fields.version, digest=manifest.digest)


def _bundle(folder: Path, columns: tuple[ColumnSpec, ...]) -> Manifest:
    (folder / _MODEL).parent.mkdir(parents=True)
    (folder / _MODEL).write_bytes(_perceptron())
    variant = Variant(
        id=_VARIANT,
        format="onnx",
        precision="fp32",
        files=(file_entry(folder, _MODEL),),
        runtime=Runtime(engine="onnxruntime", min_version="1.20"),
        memory_bytes=64 << 20,
    )
    inputs = {"x": np.zeros((1, _INPUTS), np.float32)}
    outputs = load_engine(variant, folder).run(inputs)
    vectors = SelfTestVectors(
        inputs={name: TensorValue.of(value) for name, value in inputs.items()},
        expected={_VARIANT: {name: TensorValue.of(value) for name, value in outputs.items()}},
    )
    (folder / "selftest.json").write_bytes(vectors.to_bytes())
    return write_manifest(
        folder,
        ManifestFields(
            schema_version="1.0",
            name="bench",
            version="1.0.0",
            task="classification",
            variants=(variant,),
            inputs=(TensorSpec(name="x", dtype="FP32", shape=(-1, _INPUTS), columns=columns),),
            outputs=(TensorSpec(name="probabilities", dtype="FP32", shape=(-1, _CLASSES)),),
            classification=Classification(
                output="probabilities", classes=tuple(str(number) for number in range(_CLASSES))
            ),
            features=(
                Feature(name="mean", input="x", kind="mean"),
                Feature(name="std", input="x", kind="std"),
            ),
            selftest=SelfTest(path="selftest.json", atol=1e-4, rtol=1e-3),
            files=other_files(folder, (variant,)),
        ),
    )


def _perceptron() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    sizes = (_INPUTS, _HIDDEN, 64, _CLASSES)
    nodes, weights, value = [], [], "x"
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        matrix = random.normal(size=(rows, columns)).astype(np.float32) / np.float32(rows**0.5)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(columns, np.float32), f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        last = layer == len(sizes) - 2
        value = "probabilities" if last else f"h{layer}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"z{layer}"], [value]))
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", _INPUTS])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", _CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
