"""ONNX files from outside: what is brought in, and hostile ones, in a step worker with limited memory."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeops.errors import ArtifactError
from edgeops_testkit.sources import (
    HUGGINGFACE,
    ONNX,
    TEXT_INPUT,
    StepWorker,
    data_folder,
    huggingface_folder,
    model_config,
    step_context,
    three_columns_graph,
    word_tokenizer,
)
from quantize.onnx_graph import canonical_bytes
from toolchain.handover.arrays import load_arrays, load_part

TABLE = "tabular-classification"


def saved(folder: Path, model: onnx.ModelProto, name: str = "net.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / name)
    return folder / name


@pytest.mark.slow
def test_a_graph_is_made_canonical_and_answers(tmp_path: Path, table: Path, worker: StepWorker) -> None:
    model = three_columns_graph()
    model.producer_name, model.doc_string = "somebody", "/home/somebody"
    config = model_config(TABLE, ONNX)
    file = saved(tmp_path / "in", model)
    made = worker.run("import_onnx", step_context(tmp_path / "m", config, data=table, file=file))
    assert (made / "model" / "model.onnx").read_bytes() == canonical_bytes(three_columns_graph())
    exported = worker.run("export_onnx", step_context(tmp_path / "e", config, data=table, model=made))
    assert (exported / "variant" / "model.onnx").read_bytes() == canonical_bytes(three_columns_graph())
    out = worker.run("answers", step_context(tmp_path / "a", config, data=table, model=made))
    inputs, _ = load_part(table, "held_out")
    wanted = np.exp(2 * inputs) / np.exp(2 * inputs).sum(axis=1, keepdims=True)
    assert np.abs(load_arrays(out / "answers.npz")["held_out"] - wanted).max() < 1e-6


@pytest.mark.slow
def test_weights_in_another_file_come_inside(tmp_path: Path, table: Path, worker: StepWorker) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(three_columns_graph(), file, save_as_external_data=True, location="net.data", size_threshold=0)
    config = model_config(TABLE, {**ONNX, "external_data": "net.data"})
    given = {"data": table, "file": file, "external_data": tmp_path / "net.data"}
    made = worker.run("import_onnx", step_context(tmp_path / "m", config, **given))
    assert (made / "model" / "model.onnx").read_bytes() == canonical_bytes(three_columns_graph())
    with pytest.raises(ArtifactError, match="which the recipe does not name"):
        worker.run(
            "import_onnx",
            step_context(tmp_path / "n", model_config(TABLE, ONNX), data=table, file=file),
        )


def truncated(folder: Path) -> Path:
    file = saved(folder, three_columns_graph())
    file.write_bytes(file.read_bytes()[:-20])
    return file


def noise(folder: Path) -> Path:
    file = folder / "net.onnx"
    file.write_bytes(np.random.default_rng(0).bytes(5000))
    return file


def empty(folder: Path) -> Path:
    (folder / "net.onnx").write_bytes(b"")
    return folder / "net.onnx"


def a_pickle(folder: Path) -> Path:
    (folder / "net.onnx").write_bytes(pickle.dumps({"weights": [1.0]}))
    return folder / "net.onnx"


def symlinked(folder: Path) -> Path:
    saved(folder / "elsewhere", three_columns_graph())
    (folder / "net.onnx").symlink_to(folder / "elsewhere" / "net.onnx")
    return folder / "net.onnx"


def hard_linked(folder: Path) -> Path:
    file = saved(folder / "elsewhere", three_columns_graph())
    (folder / "net.onnx").hardlink_to(file)
    return folder / "net.onnx"


def with_weights_at(folder: Path, location: str) -> Path:
    model = three_columns_graph()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location, 0, 36)
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def weights_above(folder: Path) -> Path:
    (folder.parent / "secret.bin").write_bytes(bytes(36))
    return with_weights_at(folder, "../secret.bin")


def weights_anywhere(folder: Path) -> Path:
    return with_weights_at(folder, "/etc/passwd")


def weights_behind_a_link(folder: Path) -> Path:
    (folder / "w.bin").symlink_to("/etc/passwd")
    return with_weights_at(folder, "w.bin")


def made_of_a_shape(folder: Path, shape: list[int], *, given: bool) -> Path:
    """A graph that makes a constant of `shape`; `given` hides the shape from a look at the file."""
    model = three_columns_graph()
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
    source = "shape"
    if given:
        graph.initializer.append(numpy_helper.from_array(np.array([1] * len(shape), np.int64), "ones"))
        graph.node.insert(0, helper.make_node("Mul", ["shape", "ones"], ["made_shape"]))
        source = "made_shape"
    graph.node.extend(
        [
            helper.make_node("ConstantOfShape", [source], ["huge"]),
            helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            helper.make_node("Add", ["scores", "sum"], ["moved"]),
        ]
    )
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    softmax.input[0] = "moved"
    kept = onnx.NodeProto()
    kept.CopyFrom(softmax)
    graph.node.remove(softmax)
    graph.node.append(kept)
    return saved(folder, model)


def a_huge_constant(folder: Path) -> Path:
    return made_of_a_shape(folder, [200_000, 200_000], given=False)


def a_huge_tensor_at_run_time(folder: Path) -> Path:
    return made_of_a_shape(folder, [36_000, 30_000], given=True)  # 4.3 GB, and 3 GiB may be had


def another_input(folder: Path) -> Path:
    return saved(folder, three_columns_graph(name="pixels"))


def another_output(folder: Path) -> Path:
    return saved(folder, three_columns_graph(output="scores_of_it"))


def logits(folder: Path) -> Path:
    return saved(folder, three_columns_graph(logits=True))


def unknown_operator(folder: Path) -> Path:
    model = three_columns_graph()
    model.graph.node[1].op_type = "Sortmax"
    return saved(folder, model)


def foreign_operator(folder: Path) -> Path:
    model = three_columns_graph()
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return saved(folder, model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hostile", "what"),
    [
        (truncated, "cut short"),
        (noise, "no protobuf message"),
        (empty, "no graph"),
        (a_pickle, "is a pickle"),
        (symlinked, "cannot be opened"),
        (hard_linked, "hard link"),
        (weights_above, "no plain path in its own folder"),
        (weights_anywhere, "no plain path in its own folder"),
        (weights_behind_a_link, "which is a link"),
        (a_huge_constant, "makes 40000000000 elements"),
        (a_huge_tensor_at_run_time, "fails on rows of the data.*alloc"),
        (another_input, "'pixels'"),
        (another_output, "scores_of_it"),
        (logits, "gives no probabilities"),
        (unknown_operator, "Sortmax"),
        (foreign_operator, "com.example"),
    ],
)
def test_hostile_files_are_refused_in_a_sentence(
    tmp_path: Path, table: Path, worker: StepWorker, hostile: Callable[[Path], Path], what: str
) -> None:
    (tmp_path / "in").mkdir()
    file = hostile(tmp_path / "in")
    context = step_context(tmp_path / "m", model_config(TABLE, ONNX), data=table, file=file)
    with pytest.raises(ArtifactError, match=what) as caught:
        worker.run("import_onnx", context)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 700
    assert "Traceback" not in caught.value.message


@pytest.mark.slow
def test_a_text_model_needs_a_tokenizer_that_cuts(tmp_path: Path, worker: StepWorker) -> None:
    task = "text-classification"
    folder = huggingface_folder(tmp_path / "tiny", task)
    data = data_folder(tmp_path, "two_moods", task, TEXT_INPUT)
    config = model_config(task, HUGGINGFACE)
    made = worker.run("import_huggingface", step_context(tmp_path / "h", config, data=data, folder=folder))
    exported = worker.run("export_onnx", step_context(tmp_path / "e", config, data=data, model=made))
    variant = exported / "variant"
    config = model_config(task, {**ONNX, "tokenizer": "tokenizer.json"})
    given = {"data": data, "file": variant / "model.onnx"}
    again = worker.run(
        "import_onnx",
        step_context(tmp_path / "m", config, **given, tokenizer=variant / "tokenizer.json"),
    )
    for name in ("model.onnx", "tokenizer.json"):
        assert (again / "model" / name).read_bytes() == (variant / name).read_bytes()
    told = [json.loads((folder / "config.json").read_bytes()) for folder in (again / "model", variant)]
    assert told == [{"input": "text", "max_tokens": 64}] * 2
    word_tokenizer().save_pretrained(tmp_path / "uncut")
    with pytest.raises(ArtifactError, match="does not cut texts"):
        worker.run(
            "import_onnx",
            step_context(tmp_path / "n", config, **given, tokenizer=tmp_path / "uncut" / "tokenizer.json"),
        )
