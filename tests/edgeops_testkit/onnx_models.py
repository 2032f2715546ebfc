"""ONNX graphs for tests of quantizers, and exports of tiny language models as optimum makes them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeops.canonical import sha256_file
from edgeops.manifest import FileEntry, Runtime, Variant
from edgeops.serving.host import Array

ENGINES = {"onnx": ("onnxruntime", "1.22"), "mlx": ("mlx", "0.30"), "gguf": ("llama.cpp", "0.3")}


def linear_layers(op: str = "Gemm", *, constant: bool = True, secret: str = "") -> onnx.ModelProto:
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


def model_of(
    nodes: list[onnx.NodeProto],
    weights: Mapping[str, Array],
    *,
    inputs: Mapping[str, list[str | int]],
    outputs: Mapping[str, list[str | int]],
    integers: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A model of opset 17 with float32 inputs and outputs; those named in `integers` are int64."""

    def values(shapes: Mapping[str, list[str | int]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                name, TensorProto.INT64 if name in integers else TensorProto.FLOAT, shape
            )
            for name, shape in shapes.items()
        ]

    graph = helper.make_graph(
        nodes,
        "g",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    """`model` as a file of that name in `folder`."""
    path = folder / name
    onnx.save(model, path)
    return path


def answers(model: Path | bytes | onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """What a bare session of ONNX Runtime answers, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, dict(inputs))
    return results


def relative_error(got: Array, want: Array) -> float:
    """The mean absolute difference over the mean absolute value."""
    return float(np.abs(got - want).mean() / np.abs(want).mean())


def export_language_model(source: Path, target: Path) -> Path:
    """The variant folder of a Hugging Face folder's causal language model, by optimum: `model.onnx` with a
    cache, `tokenizer.json`, `config.json`."""
    from optimum.exporters.onnx import main_export

    made = target / "made"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main_export(str(source), made, task="text-generation-with-past", do_validation=False, device="cpu")
    for name in ("model.onnx", "tokenizer.json", "config.json"):
        shutil.copyfile(made / name, target / name)
    shutil.rmtree(made)
    return target


def language_variant(folder: Path, root: Path, format: str = "onnx", **changes: object) -> Variant:
    """A variant of all files of `folder`, below `root`; the first is the model file."""
    first = next(folder.glob("model.*"))
    others = sorted(path for path in folder.iterdir() if path != first)
    engine, min_version = ENGINES[format]
    fields = {
        "id": f"{format}-test",
        "format": format,
        "precision": "fp32",
        "files": tuple(
            FileEntry(
                path=path.relative_to(root).as_posix(),
                sha256=sha256_file(path),
                size_bytes=path.stat().st_size,
            )
            for path in (first, *others)
        ),
        "runtime": Runtime(engine=engine, min_version=min_version),
        "memory_bytes": 256 << 20,
    }
    return Variant(**{**fields, **changes})  # type: ignore[arg-type]
