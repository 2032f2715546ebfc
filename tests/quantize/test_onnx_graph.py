"""Canonical graphs: what is kept and what is cleared."""

import onnx
from onnx import numpy_helper

from edgeops_testkit.onnx_models import linear_layers
from quantize.onnx_graph import canonical_bytes


def test_who_made_a_graph_leaves_no_trace_in_it() -> None:
    plain = canonical_bytes(linear_layers())
    told = canonical_bytes(linear_layers(secret="/home/somebody/net.py:12"))
    assert plain == told
    assert b"somebody" not in told


def test_canonical_bytes_keep_the_network_and_are_stable() -> None:
    model = linear_layers()
    again = onnx.load_from_string(canonical_bytes(model))
    assert [n.op_type for n in again.graph.node] == [n.op_type for n in model.graph.node]
    assert [t.raw_data for t in again.graph.initializer] == [t.raw_data for t in model.graph.initializer]
    assert canonical_bytes(again) == canonical_bytes(model)
    assert model.graph.value_info, "the model given must not be changed"


def test_another_weight_is_another_file() -> None:
    model, other = linear_layers(), linear_layers()
    weights = numpy_helper.to_array(other.graph.initializer[0]).copy()
    weights[0, 0] += 1
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w1"))
    assert canonical_bytes(model) != canonical_bytes(other)
