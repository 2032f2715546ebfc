"""Products brought to one form, and embedding tables in 8 bits: the network stays the same network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeops.serving.host import Array
from edgeops_testkit.onnx_models import answers, model_of
from quantize.onnx_embeddings import MIN_TABLE_ELEMENTS, quantize_tables
from quantize.onnx_graph import canonical_bytes, op_counts
from quantize.onnx_products import constant_products, plain_products


def _floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.0, 3.0]),
    addend=st.sampled_from(["none", "row", "column", "scalar", "input"]),
    named=st.booleans(),
)
def test_a_gemm_of_any_kind_becomes_matmul_and_computes_the_same(
    trans_a: bool, trans_b: bool, alpha: float, beta: float, addend: str, named: bool
) -> None:
    rows, inner, columns = 3, 5, 4
    weights = {"b": _floats(columns, inner) if trans_b else _floats(inner, columns)}
    shapes = {"row": (columns,), "column": (rows, 1), "scalar": ()}
    inputs: dict[str, list[str | int]] = {"a": [inner, rows] if trans_a else [rows, inner]}
    names = ["a", "b"]
    if addend == "input":
        inputs["c"] = [columns]
    elif addend != "none":
        weights["c"] = np.asarray(_floats(*shapes[addend], seed=1))
    if addend != "none":
        names.append("c")
    gemm = helper.make_node(
        "Gemm",
        names,
        ["y"],
        name="layer" if named else "",
        transA=int(trans_a),
        transB=int(trans_b),
        alpha=alpha,
        beta=beta,
    )
    model = model_of([gemm], weights, inputs=inputs, outputs={"y": [rows, columns]})
    plain = plain_products(model)
    given_: Mapping[str, Array] = {
        name: _floats(*[int(size) for size in shape], seed=2) for name, shape in inputs.items()
    }
    assert "Gemm" not in op_counts(plain)
    assert constant_products(plain) == constant_products(model) == 1
    np.testing.assert_allclose(answers(plain, given_)[0], answers(model, given_)[0], rtol=1e-5, atol=1e-5)
    assert canonical_bytes(plain) == canonical_bytes(plain_products(plain))


def test_a_weight_behind_other_nodes_becomes_a_constant_of_its_own() -> None:
    """A table that is also the last layer, as optimum's exports have it: looked up, and multiplied by its
    transpose."""
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(_floats(8, 8, seed=3)))
    nodes = [
        constant,
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "k"], ["h"]),
        helper.make_node("Identity", ["table"], ["same"]),
        helper.make_node("Transpose", ["same"], ["as_it_was"], perm=[0, 1]),
        helper.make_node("Transpose", ["as_it_was"], ["turned"]),
        helper.make_node("MatMul", ["h", "turned"], ["y"]),
        helper.make_node("MatMul", ["h", "turned"], ["z"]),
    ]
    model = model_of(
        nodes,
        {"table": _floats(10, 8)},
        inputs={"ids": ["n"]},
        outputs={"y": ["n", 10], "z": ["n", 10]},
        integers=("ids",),
    )
    plain = plain_products(model)
    assert (constant_products(model), constant_products(plain)) == (0, 3)
    assert op_counts(plain) == {"Gather": 1, "MatMul": 3}
    assert len(plain.graph.initializer) == 3, "two products by one weight share it"
    ids = {"ids": np.array([0, 3, 9])}
    for got, want in zip(answers(plain, ids), answers(model, ids), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_layers_without_names_stay_without_names() -> None:
    """ONNX Runtime refuses two nodes of one name."""
    nodes = [
        helper.make_node("Gemm", ["a", "b", "c"], ["h"]),
        helper.make_node("Gemm", ["h", "b", "c"], ["y"]),
    ]
    weights = {"b": _floats(5, 5), "c": _floats(5)}
    model = model_of(nodes, weights, inputs={"a": ["n", 5]}, outputs={"y": ["n", 5]})
    inputs = {"a": _floats(3, 5)}
    np.testing.assert_allclose(
        answers(plain_products(model), inputs)[0], answers(model, inputs)[0], rtol=1e-5
    )


def test_gemm_can_be_kept() -> None:
    gemm = helper.make_node("Gemm", ["a", "b"], ["y"], transB=1)
    model = model_of([gemm], {"b": _floats(4, 5)}, inputs={"a": ["n", 5]}, outputs={"y": ["n", 4]})
    assert op_counts(plain_products(model, keep_gemm=True)) == {"Gemm": 1}


def test_what_is_no_constant_matrix_is_left_alone() -> None:
    nodes = [
        helper.make_node("MatMul", ["a", "a"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["t"]),
        helper.make_node("MatMul", ["s", "i"], ["u"]),
    ]
    model = model_of(
        nodes, {"v": _floats(4)}, inputs={"a": [4, 4], "i": [4, 4]}, outputs={"t": [4], "u": [4, 4]}
    )
    assert constant_products(model) == constant_products(plain_products(model)) == 0


@pytest.mark.parametrize("rows", [1, 70])
def test_a_tables_rows_are_off_by_half_a_step_at_most(rows: int) -> None:
    table = _floats(rows * 64, 64) * np.logspace(-6, 3, rows * 64, dtype=np.float32)[:, None]
    table[0] = 0
    lookup = helper.make_node("Gather", ["table", "ids"], ["x"], axis=0)
    model = model_of(
        [lookup], {"table": table}, inputs={"ids": ["n", 2]}, outputs={"x": ["n", 2, 64]}, integers=("ids",)
    )
    assert table.size >= MIN_TABLE_ELEMENTS
    ids = np.arange(len(table)).reshape(-1, 2)
    assert quantize_tables(model) == 1
    assert "Gather" in op_counts(model)
    got = answers(canonical_bytes(model), {"ids": ids})[0].reshape(len(table), 64)
    steps = np.abs(table).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(got - table) <= 0.5001 * steps)
    assert len(canonical_bytes(model)) < table.nbytes / 3


def test_small_tables_and_lookups_of_columns_are_left_alone() -> None:
    nodes = [
        helper.make_node("Gather", ["small", "ids"], ["x"]),
        helper.make_node("Gather", ["large", "ids"], ["y"], axis=1),
    ]
    model = model_of(
        nodes,
        {"small": _floats(8, 8), "large": _floats(64, 64)},
        inputs={"ids": ["n"]},
        outputs={"x": ["n", 8], "y": [64, "n"]},
        integers=("ids",),
    )
    before = onnx.ModelProto.FromString(model.SerializeToString())
    assert quantize_tables(model) == 0
    assert model == before
