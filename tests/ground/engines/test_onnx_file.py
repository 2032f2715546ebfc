"""The look at an ONNX file: what it tells, what it refuses, and that no bytes crash it."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeops.engines.onnx_file import check_onnx_file
from edgeops.engines.protobuf_wire import MAX_FIELDS
from edgeops.errors import ArtifactError
from edgeops_testkit.graphs import (
    write_counting,
    write_deadly,
    write_external,
    write_huge,
    write_linear,
    write_two_in_two_out,
)
from edgeops_testkit.onnx_models import linear_layers, model_of


def _refusal(path: Path, **options: object) -> str:
    with pytest.raises(ArtifactError) as caught:
        check_onnx_file(path, **{"allow_links": False, **options})  # type: ignore[arg-type]
    assert caught.value.subject == path.name
    return caught.value.message


def _written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def _shape_model(op: str, shape: list[int], *, by_node: bool = False) -> onnx.ModelProto:
    tensor = numpy_helper.from_array(np.array(shape, np.int64), "shape")
    names = {"ConstantOfShape": ["shape"], "Expand": ["x", "shape"], "Tile": ["x", "shape"]}[op]
    nodes = [helper.make_node(op, names, ["y"])]
    if by_node:
        nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=tensor))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [] if by_node else [tensor],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_it_tells_what_a_file_is(tmp_path: Path) -> None:
    path = write_two_in_two_out(tmp_path / "model.onnx")
    summary = check_onnx_file(path, tmp_path, allow_links=False)
    assert (summary.opset, dict(summary.ops)) == (17, {"Add": 1, "Gather": 1})
    assert (summary.inputs, summary.outputs) == (("a", "b", "i"), ("total", "row"))
    assert (summary.size_bytes, summary.external) == (path.stat().st_size, ())


def test_nested_graphs_and_functions_are_counted(tmp_path: Path) -> None:
    assert check_onnx_file(write_counting(tmp_path / "a.onnx"), allow_links=False).ops == {
        "Add": 1, "Identity": 1, "Loop": 1,
    }  # fmt: skip
    model = linear_layers()
    function = helper.make_function(
        "mine",
        "Twice",
        ["x"],
        ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    model.functions.append(function)
    model.graph.node.append(helper.make_node("Twice", ["y"], ["z"], domain="mine"))
    ops = check_onnx_file(_written(tmp_path / "b.onnx", model), allow_links=False).ops
    assert ops["Twice"] == ops["Add"] == 1


def test_weights_that_old_files_list_as_inputs_are_none(tmp_path: Path) -> None:
    model = linear_layers()
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [8, 16]))
    assert check_onnx_file(_written(tmp_path / "m.onnx", model), allow_links=False).inputs == ("x",)


def test_what_an_engine_refuses_or_dies_of_only_when_it_loads_is_not_its_business(tmp_path: Path) -> None:
    for write in (write_huge, write_deadly):
        assert check_onnx_file(write(tmp_path / "m.onnx"), allow_links=False).opset == 17


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 99, b"not a model", b"\x00", b"\x08", b"\x3a\x05\x0a", b"\x0b\x0c"]
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "is " in _refusal(path)


def test_every_cut_is_refused_or_leaves_the_graph_whole(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    data, ops = path.read_bytes(), check_onnx_file(path, allow_links=False).ops
    refused = 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            assert check_onnx_file(path, allow_links=False).ops == ops
        except ArtifactError:
            refused += 1
    assert refused > 0.9 * len(data)


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../weights.bin", "a/../../w.bin", "*/_ORT_MEM_ADDR_/*", "", "missing.bin", "."],
)
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    assert "keeps weights at" in _refusal(write_external(folder / "model.onnx", location))


def test_weights_beside_the_model_are_taken_and_counted(tmp_path: Path) -> None:
    path = write_external(tmp_path / "model.onnx", "data/weights.bin")
    weights = tmp_path / "data" / "weights.bin"
    weights.parent.mkdir()
    weights.write_bytes(bytes(20))
    summary = check_onnx_file(path, tmp_path, allow_links=False)
    assert summary.external == (weights,)
    assert summary.size_bytes == path.stat().st_size + 20
    weights.write_bytes(bytes(15))
    assert "beyond the end" in _refusal(path)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_are_refused_unless_allowed(tmp_path: Path, link: object) -> None:
    (tmp_path / "real.bin").write_bytes(bytes(16))
    path = write_external(tmp_path / "model.onnx", "weights.bin")
    link(tmp_path / "real.bin", tmp_path / "weights.bin")  # type: ignore[operator]
    assert "a link" in _refusal(path)
    assert check_onnx_file(path, allow_links=True).external == (tmp_path / "weights.bin",)
    write_linear(tmp_path / "other.onnx")
    link(tmp_path / "other.onnx", tmp_path / "linked.onnx")  # type: ignore[operator]
    assert _refusal(tmp_path / "linked.onnx")
    assert check_onnx_file(tmp_path / "linked.onnx", allow_links=True).opset == 17


def test_a_model_outside_its_root_or_that_is_no_file_is_refused(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    assert "does not lie inside" in _refusal(path, root=tmp_path / "bundle")
    assert "cannot be opened" in _refusal(tmp_path / "missing.onnx")
    (tmp_path / "folder.onnx").mkdir()
    assert "regular file" in _refusal(tmp_path / "folder.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "regular file" in _refusal(tmp_path / "pipe.onnx")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"length": "9"}, "takes 9 bytes"),
        ({"offset": "-8"}, "no number"),
        ({"offset": "9" * 30}, "no number"),
        ({"offset": "1000000000000"}, "beyond the end"),
    ],
)
def test_places_in_weights_must_fit(tmp_path: Path, words: dict[str, str], reason: str) -> None:
    path = write_external(tmp_path / "model.onnx", "weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = words.get(entry.key, entry.value)
    assert reason in _refusal(_written(path, model))


def test_tensors_that_claim_more_than_there_is_are_refused(tmp_path: Path) -> None:
    model = linear_layers()
    model.graph.initializer[0].dims[0] = 1 << 40
    assert "other data for it" in _refusal(_written(tmp_path / "raw.onnx", model))
    model.graph.initializer[0].dims[0] = -8
    assert "negative dimension" in _refusal(_written(tmp_path / "negative.onnx", model))
    for data_type, values in (
        (TensorProto.FLOAT, [1.0]),
        (TensorProto.INT64, [1]),
        (TensorProto.STRING, [b"a"]),
    ):
        tensor = helper.make_tensor("t", data_type, [1], values)
        tensor.dims[0] = 1 << 33
        node = helper.make_node("Constant", [], ["c"], value=tensor)
        model = model_of([node], {}, inputs={}, outputs={"c": [1]})
        assert "other data for it" in _refusal(_written(tmp_path / "typed.onnx", model))


@pytest.mark.parametrize("by_node", [False, True])
@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Tile"])
def test_constants_blown_up_are_refused(tmp_path: Path, op: str, by_node: bool) -> None:
    path = tmp_path / "model.onnx"
    huge = _shape_model(op, [1 << 20, 1 << 20], by_node=by_node)
    assert f"({op})" in _refusal(_written(path, huge))
    assert check_onnx_file(_written(path, _shape_model(op, [64, -1, 64])), allow_links=False).ops[op] == 1


def test_foreign_operators_are_refused(tmp_path: Path) -> None:
    for domain, op, reason in (
        ("org.pytorch.aten", "ATen", "domain"),
        ("com.microsoft", "EPContext", "EPContext"),
    ):
        node = helper.make_node(op, ["x"], ["y"], domain=domain)
        model = model_of([node], {}, inputs={"x": [1]}, outputs={"y": [1]})
        assert reason in _refusal(_written(tmp_path / "model.onnx", model))


def test_graphs_nested_beyond_reason_are_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    assert "nests graphs" in _refusal(_written(tmp_path / "model.onnx", helper.make_model(graph)))


def test_a_million_numbers_in_an_attribute_cost_little(tmp_path: Path) -> None:
    node = helper.make_node(
        "Op", ["x"], ["y"], domain="ai.onnx.ml", a=[1.5] * 1_000_000, b=list(range(1_000_000))
    )
    model = model_of([node], {}, inputs={"x": [1]}, outputs={"y": [1]})
    path = _written(tmp_path / "model.onnx", model)
    assert path.stat().st_size > 8_000_000
    assert check_onnx_file(path, allow_links=False).ops == {"Op": 1}


def _length(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.slow
def test_the_number_of_fields_is_bounded(tmp_path: Path) -> None:
    """Empty nodes, two bytes each: the densest there is."""
    nodes = b"\x0a\x00" * (MAX_FIELDS + 1)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + _length(len(nodes)) + nodes)
    assert f"more than {MAX_FIELDS} fields" in _refusal(path)


def test_no_weight_is_read(tmp_path: Path) -> None:
    """A gigabyte of zeros that the disk does not hold, in the middle of a model."""
    size = 1 << 30
    head = b"\x08" + _length(size // 4) + b"\x10\x01\x42\x01w\x4a" + _length(size)
    tensor = b"\x2a" + _length(len(head) + size) + head
    node = b"\x0a\x0a\x22\x08Identity"
    prefix = b"\x3a" + _length(len(tensor) + size + len(node)) + tensor
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(prefix)
        file.seek(size, os.SEEK_CUR)
        file.write(node)
    tracemalloc.start()
    try:
        summary = check_onnx_file(path, allow_links=False)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert (dict(summary.ops), summary.size_bytes) == ({"Identity": 1}, path.stat().st_size)


def _rich() -> bytes:
    """A model with a bit of everything, so that flips land somewhere."""
    model = linear_layers()
    weights = numpy_helper.from_array(np.array([2, 2], np.int64), "shape")
    branch = helper.make_graph([helper.make_node("Constant", [], ["k"], value=weights)], "b", [], [])
    model.graph.node.extend(
        [
            helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
            helper.make_node("Op", [], ["o"], domain="ai.onnx.ml", ints=[1, 2, 300], floats=[1.0, 2.0]),
            helper.make_node("ConstantOfShape", ["shape"], ["s"]),
        ]
    )
    model.graph.initializer.extend([weights, helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"b"])])
    data: bytes = model.SerializeToString()
    return data


RICH = _rich()


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 2 * len(RICH)),
)
def test_damaged_files_are_refused_or_summed_up(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(RICH)
    for position, value in flips:
        data[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(data[:cut]))
    try:
        assert check_onnx_file(path, allow_links=False).size_bytes >= path.stat().st_size
    except ArtifactError as error:
        assert error.subject == "damaged.onnx"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_summed_up(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(data)
    try:
        assert check_onnx_file(path, allow_links=False).size_bytes == len(data)
    except ArtifactError as error:
        assert error.subject == "random.onnx"
