"""The ONNX quantizers: that all is quantized which can be, that answers stay close, and that doing nothing is
an error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeops.errors import ArtifactError, ConfigError
from edgeops.serving.host import Array
from edgeops_testkit.onnx_models import answers, linear_layers, model_of, relative_error, save
from quantize import onnx_dynamic, onnx_static, onnx_weight_only
from quantize.onnx_graph import op_counts
from quantize.result import Quantized

Quantizer = Callable[[Path, Path], Quantized]


def _rows(count: int, seed: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)}


def _static(source: Path, target: Path, **options: object) -> Quantized:
    return onnx_static.quantize(source, target, [_rows(16, seed) for seed in range(3)], **options)


QUANTIZERS: dict[str, tuple[Quantizer, float]] = {
    "dynamic": (onnx_dynamic.quantize, 0.03),
    "static-minmax": (_static, 0.03),
    "static-percentile": (partial(_static, method="percentile"), 0.05),
    "static-entropy": (partial(_static, method="entropy"), 0.08),
    "weights-4": (onnx_weight_only.quantize, 0.2),
    "weights-8": (partial(onnx_weight_only.quantize, bits=8), 0.02),
    "weights-8-blocks-of-128": (partial(onnx_weight_only.quantize, bits=8, block_size=128), 0.02),
}


@pytest.fixture(params=QUANTIZERS)
def quantizer(request: pytest.FixtureRequest) -> tuple[Quantizer, float]:
    return QUANTIZERS[request.param]


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_every_product_is_quantized_and_answers_stay_close(
    tmp_path: Path, quantizer: tuple[Quantizer, float], op: str
) -> None:
    quantize, tolerance = quantizer
    source, target = save(tmp_path, linear_layers(op)), tmp_path / "quantized.onnx"
    result = quantize(source, target)
    quantized = onnx.load(target)
    assert result.before == {op: 2, "Relu": 1}
    assert result.after == op_counts(quantized)
    assert result.arguments["products"] == 2
    floats = [tensor for tensor in quantized.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    assert all(np.prod(tensor.dims) < 64 for tensor in floats), "no weight stayed a float"
    inputs = _rows(100, seed=9)
    error = relative_error(answers(target, inputs)[0], answers(source, inputs)[0])
    assert 0 < error < tolerance


def test_the_same_source_gives_the_same_bytes(tmp_path: Path, quantizer: tuple[Quantizer, float]) -> None:
    source = save(tmp_path, linear_layers(secret="/home/somebody/net.py"))
    files = []
    for name in ("a.onnx", "b.onnx"):
        quantizer[0](source, tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert b"somebody" not in files[0]


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    """Another hash seed, another folder, another number of threads."""
    (tmp_path / "elsewhere").mkdir()
    source = save(tmp_path / "elsewhere", linear_layers())
    program = (
        "import sys, numpy as np, hashlib; from pathlib import Path\n"
        "from quantize import onnx_dynamic, onnx_static, onnx_weight_only\n"
        "source, target = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "data = [{'x': np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)}]\n"
        "calls = [onnx_dynamic.quantize, onnx_weight_only.quantize,\n"
        "         lambda s, t: onnx_static.quantize(s, t, data, method='entropy')]\n"
        "for call in calls:\n"
        "    call(source, target); print(hashlib.sha256(target.read_bytes()).hexdigest())\n"
    )
    seen = set()
    for seed, threads in (("0", "1"), ("1", "2")):
        target = tmp_path / f"out-{seed}.onnx"
        done = subprocess.run(
            [sys.executable, "-c", program, source, target],
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "PATH": "", "LC_ALL": "C"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    assert len(next(iter(seen)).split()) == 3


def test_a_shared_and_turned_weight_is_quantized(tmp_path: Path, quantizer: tuple[Quantizer, float]) -> None:
    """The last layer of a model with tied embeddings, which usual tools leave in float32."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["h"]),
        helper.make_node("MatMul", ["x", "turned"], ["g"]),
        helper.make_node("Add", ["h", "g"], ["y"]),
    ]
    model = model_of(nodes, {"w": weight}, inputs={"x": ["n", 8]}, outputs={"y": ["n", 64]})
    source, target = save(tmp_path, model), tmp_path / "quantized.onnx"
    assert quantizer[0](source, target).arguments["products"] == 2
    inputs = _rows(50, seed=1)
    assert relative_error(answers(target, inputs)[0], answers(source, inputs)[0]) < quantizer[1]


IDS = {"ids": np.arange(512)}


@pytest.mark.parametrize(
    "quantize",
    [
        onnx_dynamic.quantize,
        onnx_weight_only.quantize,
        lambda source, target: onnx_static.quantize(source, target, [IDS]),
    ],
)
def test_large_embedding_tables_are_quantized(tmp_path: Path, quantize: Quantizer) -> None:
    table = np.random.default_rng(0).normal(size=(512, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["y"]),
    ]
    model = model_of(
        nodes,
        {"table": table, "w": np.eye(8, dtype=np.float32)},
        inputs={"ids": ["n"]},
        outputs={"y": ["n", 8]},
        integers=("ids",),
    )
    source = save(tmp_path, model)
    target = tmp_path / "quantized.onnx"
    assert quantize(source, target).arguments["embedding_lookups"] == 1
    floats = [
        tensor for tensor in onnx.load(target).graph.initializer if tensor.data_type == TensorProto.FLOAT
    ]
    assert all(np.prod(tensor.dims) < table.size / 2 for tensor in floats)
    assert relative_error(answers(target, IDS)[0], answers(source, IDS)[0]) < 0.1


def test_a_quantizer_that_has_nothing_to_do_is_an_error(
    tmp_path: Path, quantizer: tuple[Quantizer, float]
) -> None:
    source = save(tmp_path, linear_layers("MatMul", constant=False))
    with pytest.raises(ArtifactError, match="0 of 0 matrix products") as caught:
        quantizer[0](source, tmp_path / "quantized.onnx")
    assert caught.value.subject == "model.onnx"
    assert caught.value.details["before"] == {"MatMul": 2, "Relu": 1}
    assert not (tmp_path / "quantized.onnx").exists()


def test_a_product_that_is_left_out_is_an_error(tmp_path: Path) -> None:
    """Products inside a branch: the quantizers do not look there, and say nothing of it."""
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    branch = [
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8])],
        )
        for name in ("yes", "no")
    ]
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["h"], then_branch=branch[0], else_branch=branch[1]),
            helper.make_node("MatMul", ["h", "w"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ArtifactError, match="1 of 3 matrix products"):
        onnx_dynamic.quantize(save(tmp_path, model), tmp_path / "quantized.onnx")


def test_what_is_no_onnx_file_is_refused(tmp_path: Path, quantizer: tuple[Quantizer, float]) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"\xff" * 100, b"", b"\x08\x08"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            quantizer[0](path, tmp_path / "quantized.onnx")
        assert caught.value.subject == "model.onnx"


@pytest.mark.parametrize(("kernels", "called_for"), [(2, False), (40, True)])
def test_static_is_called_for_where_convolutions_hold_most_weights(
    tmp_path: Path, kernels: int, called_for: bool
) -> None:
    weights = {"k": np.ones((kernels, 1, 3, 3), np.float32), "w": np.ones((8, 5), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    inputs, outputs = {"x": ["n", 1, 8, 8], "h": ["n", 8]}, {"y": ["n", 5], "c": ["n", kernels, 6, 6]}
    source = save(tmp_path, model_of(nodes, weights, inputs=inputs, outputs=outputs))
    assert onnx_static.is_called_for(source) is called_for


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_static_quantizes_convolutions(tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "k": rng.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "w": rng.normal(size=(144, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    model = model_of(nodes, weights, inputs={"x": ["n", 1, 8, 8]}, outputs={"y": ["n", 5]})
    source, target = save(tmp_path, model), tmp_path / "quantized.onnx"
    data = [{"x": rng.normal(size=(8, 1, 8, 8)).astype(np.float32)} for _ in range(4)]
    result = onnx_static.quantize(source, target, data, method=method)
    assert result.arguments["products"] == 2
    kernel = next(node.input[1] for node in onnx.load(target).graph.node if node.op_type == "Conv")
    (made_by,) = (node.op_type for node in onnx.load(target).graph.node if kernel in node.output)
    assert made_by == "DequantizeLinear"
    got, want = answers(target, data[0])[0], answers(source, data[0])[0]
    assert relative_error(got, want) < 0.05


@pytest.mark.parametrize(
    ("options", "symmetric"),
    [({"bits": 4}, False), ({"bits": 8}, True)],
)
def test_zero_points_are_there_unless_symmetric(
    tmp_path: Path, options: dict[str, int], symmetric: bool
) -> None:
    target = tmp_path / "quantized.onnx"
    result = onnx_weight_only.quantize(save(tmp_path, linear_layers()), target, **options)
    assert result.arguments["symmetric"] is symmetric
    nodes = [node for node in onnx.load(target).graph.node if node.op_type == "MatMulNBits"]
    assert [len(node.input) > 3 and node.input[3] != "" for node in nodes] == [not symmetric] * 2


def test_blocks_and_bits_that_there_are_not_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path, linear_layers())
    for options in ({"bits": 3}, {"block_size": 24}):
        with pytest.raises(ConfigError, match="not supported"):
            onnx_weight_only.quantize(source, tmp_path / "quantized.onnx", **options)
