"""Small ONNX graphs, and variants that name them, for tests of engines and of what serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeops.canonical import sha256_file
from edgeops.manifest import FileEntry, Runtime, Variant

_OPSET = 17
_IR_VERSION = 8


def variant_for(
    path: Path, root: Path, *, variant_id: str = "onnx-fp32", min_version: str = "1.20"
) -> Variant:
    """A device variant whose one file is `path`, below `root`."""
    entry = FileEntry(
        path=path.relative_to(root).as_posix(), sha256=sha256_file(path), size_bytes=path.stat().st_size
    )
    return Variant(
        id=variant_id,
        format="onnx",
        precision="fp32",
        files=(entry,),
        runtime=Runtime(engine="onnxruntime", min_version=min_version),
        memory_bytes=64 << 20,
    )


def write_linear(path: Path, *, features: int = 4, classes: int = 3, seed: int = 0) -> Path:
    """`probabilities = softmax(pixels @ W + b)`: input `pixels` FP32 [-1, features]."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(features, classes)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    return _write(
        path,
        [
            helper.make_node("MatMul", ["pixels", "W"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        [_value("pixels", TensorProto.FLOAT, ["N", features])],
        [_value("probabilities", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(weights, "W"), numpy_helper.from_array(bias, "b")],
    )


def write_identity(path: Path, dtype: str) -> Path:
    """`y = x` for one protocol dtype (or BF16, which the protocol has not), any matrix."""
    kind = {
        "BOOL": TensorProto.BOOL,
        "UINT8": TensorProto.UINT8,
        "UINT16": TensorProto.UINT16,
        "UINT32": TensorProto.UINT32,
        "UINT64": TensorProto.UINT64,
        "INT8": TensorProto.INT8,
        "INT16": TensorProto.INT16,
        "INT32": TensorProto.INT32,
        "INT64": TensorProto.INT64,
        "FP16": TensorProto.FLOAT16,
        "FP32": TensorProto.FLOAT,
        "FP64": TensorProto.DOUBLE,
        "BYTES": TensorProto.STRING,
        "BF16": TensorProto.BFLOAT16,
    }[dtype]
    shape = ["N", "M"]
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return _write(path, nodes, [_value("x", kind, shape)], [_value("y", kind, shape)], [])


def write_two_in_two_out(path: Path) -> Path:
    """`total = a + b`, `row = table[i]`: inputs `a`, `b` FP32 [-1, 2] and `i` INT64 [-1], table of 3 rows."""
    table = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "table")
    return _write(
        path,
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Gather", ["table", "i"], ["row"]),
        ],
        [
            _value("a", TensorProto.FLOAT, ["N", 2]),
            _value("b", TensorProto.FLOAT, ["N", 2]),
            _value("i", TensorProto.INT64, ["N"]),
        ],
        [_value("total", TensorProto.FLOAT, ["N", 2]), _value("row", TensorProto.FLOAT, ["N", 2])],
        [table],
    )


def write_imputing(path: Path) -> Path:
    """`known = row` with 0 for NaN: input `row` FP32 [-1, 2]."""
    nodes = [
        helper.make_node("IsNaN", ["row"], ["null"]),
        helper.make_node("Where", ["null", "zero", "row"], ["known"]),
    ]
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    values = [_value(name, TensorProto.FLOAT, ["N", 2]) for name in ("row", "known")]
    return _write(path, nodes, values[:1], values[1:], [zero])


def write_huge(path: Path) -> Path:
    """Loads, and asks for 160 GB when it runs: `y = ConstantOfShape(n)` for input `n` INT64 [1]."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["y"], value=value)]
    return _write(
        path, nodes, [_value("n", TensorProto.INT64, [1])], [_value("y", TensorProto.FLOAT, ["M"])], []
    )


def write_divide(path: Path) -> Path:
    """`y = a / b` for INT64 [-1]. The smallest INT64 over -1 has no answer: x86 raises SIGFPE, and the
    process that runs it dies."""
    nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
    inputs = [_value(name, TensorProto.INT64, ["N"]) for name in ("a", "b")]
    return _write(path, nodes, inputs, [_value("y", TensorProto.INT64, ["N"])], [])


def write_deadly(path: Path) -> Path:
    """Kills the process that loads it: the same division with constants, which the optimizer folds."""
    constants = [
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in (("a", np.iinfo(np.int64).min), ("b", -1))
    ]
    nodes = [helper.make_node("Div", ["a", "b"], ["q"]), helper.make_node("Add", ["q", "x"], ["y"])]
    value = [_value("x", TensorProto.INT64, [1])]
    return _write(path, nodes, value, [_value("y", TensorProto.INT64, [1])], constants)


def write_counting(path: Path) -> Path:
    """Counts from 0 to the input `n` INT64 [] one by one, so that a request lasts as long as one likes."""
    one = numpy_helper.from_array(np.array(1, np.int64), "one")
    body = helper.make_graph(
        [
            helper.make_node("Add", ["count_in", "one"], ["count_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            _value("i", TensorProto.INT64, []),
            _value("go_in", TensorProto.BOOL, []),
            _value("count_in", TensorProto.INT64, []),
        ],
        [_value("go_out", TensorProto.BOOL, []), _value("count_out", TensorProto.INT64, [])],
    )
    nodes = [helper.make_node("Loop", ["n", "", "zero"], ["count"], body=body)]
    zero = numpy_helper.from_array(np.array(0, np.int64), "zero")
    count = [_value("count", TensorProto.INT64, [])]
    return _write(path, nodes, [_value("n", TensorProto.INT64, [])], count, [one, zero])


def write_external(path: Path, location: str) -> Path:
    """`y = x @ W` whose 2 × 2 weights lie in another file, at `location`."""
    weights = numpy_helper.from_array(np.eye(2, dtype=np.float32), "W")
    size = len(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"])]
    shape = ["N", 2]
    return _write(
        path,
        nodes,
        [_value("x", TensorProto.FLOAT, shape)],
        [_value("y", TensorProto.FLOAT, shape)],
        [weights],
    )


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _write(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
