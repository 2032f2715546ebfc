"""Canonical graphs and int8: what is kept, what is cleared, and that doing nothing is an error."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeops.errors import ArtifactError
from quantize.onnx_graph import canonical_bytes, op_counts
from quantize.onnx_int8 import quantize_int8


def graph(op: str = "Gemm", *, constant: bool = True, secret: str = "") -> onnx.ModelProto:
    """Two layers of `op`, 8 → 16 → 4; without `constant` the weights are inputs. `secret` goes wherever an
    exporter could leave one."""
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(8, 16)), "w2": rng.normal(size=(16, 4))}
    nodes = [
        helper.make_node(op, ["x", "w1"], ["h"], name="first", doc_string=secret),
        helper.make_node("Relu", ["h"], ["r"], name="middle"),
        helper.make_node(op, ["r", "w2"], ["y"], name="last"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])]
    initializers = []
    for name, value in weights.items():
        tensor = numpy_helper.from_array(value.astype(np.float32), name)
        if constant:
            initializers.append(tensor)
        else:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
    built = helper.make_graph(
        nodes,
        secret or "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        initializers,
        doc_string=secret,
        value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 16])],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name, model.producer_version, model.doc_string = secret, secret, secret
    if secret:
        for holder in (model, model.graph, *model.graph.node, *model.graph.input):
            entry = holder.metadata_props.add()
            entry.key, entry.value = "source", secret
    return model


def save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def test_who_made_a_graph_leaves_no_trace_in_it() -> None:
    plain, told = canonical_bytes(graph()), canonical_bytes(graph(secret="/home/somebody/net.py:12"))
    assert plain == told
    assert b"somebody" not in told


def test_canonical_bytes_keep_the_network_and_are_stable() -> None:
    model = graph()
    again = onnx.load_from_string(canonical_bytes(model))
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in model.graph.node]
    assert [t.raw_data for t in again.graph.initializer] == [t.raw_data for t in model.graph.initializer]
    assert canonical_bytes(again) == canonical_bytes(model)
    assert model.graph.value_info, "the model given must not be changed"


def test_another_weight_is_another_file() -> None:
    model = graph()
    other = graph()
    weights = numpy_helper.to_array(other.graph.initializer[0]).copy()
    weights[0, 0] += 1
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w1"))
    assert canonical_bytes(model) != canonical_bytes(other)


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_int8_replaces_every_product_and_stays_close(tmp_path: Path, op: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = save(tmp_path, graph(op))
    result = quantize_int8(path)
    assert result.ops_before == {op: 2, "Relu": 1}
    assert result.ops_after["MatMulInteger"] == 2
    assert op not in result.ops_after
    assert result.ops_after == op_counts(onnx.load_from_string(result.model))
    assert quantize_int8(path).model == result.model
    inputs = {"x": np.random.default_rng(1).normal(size=(1, 8)).astype(np.float32)}
    want, got = (
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for model in (path.read_bytes(), result.model)
    )
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize("model", [graph("MatMul", constant=False)])
def test_a_quantizer_that_has_nothing_to_do_is_an_error(tmp_path: Path, model: onnx.ModelProto) -> None:
    with pytest.raises(ArtifactError, match="0 of 0 matrix products") as caught:
        quantize_int8(save(tmp_path, model))
    assert caught.value.subject == "model.onnx"


def test_a_product_that_is_left_out_is_an_error(tmp_path: Path) -> None:
    model = graph("Gemm")
    # A factor makes a Gemm that the quantizer passes over in silence.
    model.graph.node[2].attribute.append(helper.make_attribute("alpha", 2.0))
    with pytest.raises(ArtifactError, match="1 of 2 matrix products"):
        quantize_int8(save(tmp_path, model))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        quantize_int8(path)
