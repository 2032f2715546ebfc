"""The ONNX engine: what it answers, what it refuses, and whose fault each refusal is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeops.engines.base import load_engine
from edgeops.engines.onnx_engine import OnnxEngine
from edgeops.errors import ArtifactError, BadRequestError, ConfigError, InferenceError
from edgeops.manifest import Runtime, TensorSpec
from edgeops.serving.host import DTYPES
from edgeops.serving.text_tensor import text_array
from edgeops_testkit.graphs import (
    variant_for,
    write_external,
    write_huge,
    write_identity,
    write_linear,
    write_two_in_two_out,
)
from edgeops_testkit.text_models import array_of


def _load(path: Path, **options: str) -> OnnxEngine:
    return OnnxEngine.load(variant_for(path, path.parent, **options), path.parent)


@pytest.fixture
def linear(tmp_path: Path) -> OnnxEngine:
    return _load(write_linear(tmp_path / "model.onnx"))


@pytest.fixture
def pair(tmp_path: Path) -> OnnxEngine:
    return _load(write_two_in_two_out(tmp_path / "model.onnx"))


def test_it_answers_as_a_bare_session_does(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "variants" / "a" / "model.onnx")
    engine = load_engine(variant_for(path, tmp_path), tmp_path, threads=2)
    x = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    bare = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answer = engine.run({"pixels": x})
    assert list(answer) == ["probabilities"]
    np.testing.assert_array_equal(answer["probabilities"], bare.run(None, {"pixels": x})[0])


def test_it_shows_the_interface_of_the_graph(pair: OnnxEngine) -> None:
    assert pair.inputs == (
        TensorSpec(name="a", dtype="FP32", shape=(-1, 2)),
        TensorSpec(name="b", dtype="FP32", shape=(-1, 2)),
        TensorSpec(name="i", dtype="INT64", shape=(-1,)),
    )
    assert [spec.name for spec in pair.outputs] == ["total", "row"]


def test_several_inputs_and_outputs_keep_their_names(pair: OnnxEngine) -> None:
    answer = pair.run(
        {
            "i": np.array([2], np.int64),
            "b": np.array([[10, 20]], np.float32),
            "a": np.array([[1, 2]], np.float32),
        }
    )
    assert {name: value.tolist() for name, value in answer.items()} == {
        "total": [[11, 22]],
        "row": [[4, 5]],
    }


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_dtype_of_the_protocol_goes_through(tmp_path: Path, dtype: str) -> None:
    engine = _load(write_identity(tmp_path / "model.onnx", dtype))
    x = array_of(DTYPES[dtype], [[0, 1], [1, 0]])
    answer = engine.run({"x": x})["y"]
    assert engine.inputs[0].dtype == dtype
    assert answer.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(answer, x)


def test_texts_go_through_whole(tmp_path: Path) -> None:
    engine = _load(write_identity(tmp_path / "model.onnx", "BYTES"))
    texts = text_array(["", "a\0b", "Zürich \N{GRINNING FACE}", "x" * 10_000], (2, 2))
    np.testing.assert_array_equal(engine.run({"x": texts})["y"], texts)


def test_a_type_that_the_protocol_has_not_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be served"):
        _load(write_identity(tmp_path / "model.onnx", "BF16"))


@settings(max_examples=30, deadline=None)
@given(
    x=hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-5, 5, width=32))
)
def test_inputs_are_only_read(tmp_path_factory: pytest.TempPathFactory, x: np.ndarray) -> None:
    engine = _load(write_linear(tmp_path_factory.mktemp("bundle") / "model.onnx"))
    before = x.copy()
    x.flags.writeable = False
    first = engine.run({"pixels": x})["probabilities"]
    kept = first.copy()
    engine.run({"pixels": x * np.float32(0.5)})
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(first, kept)


def test_views_that_are_not_contiguous_are_read_right(linear: OnnxEngine) -> None:
    wide = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    view = wide[:, ::2]
    np.testing.assert_array_equal(
        linear.run({"pixels": view})["probabilities"],
        linear.run({"pixels": np.ascontiguousarray(view)})["probabilities"],
    )


GOOD = np.zeros((1, 4), np.float32)


@pytest.mark.parametrize(
    ("inputs", "subject", "says"),
    [
        ({}, "pixels", "is missing"),
        ({"other": GOOD}, "other", "no input 'other'"),
        ({"pixels": GOOD, "other": GOOD}, "other", "no input 'other'"),
        ({"pixels": GOOD.astype(np.float64)}, "pixels", "dtype float64, and the model wants FP32"),
        ({"pixels": GOOD.astype(">f4")}, "pixels", "dtype float32"),
        ({"pixels": GOOD[0]}, "pixels", r"shape \[4\], and the model wants \[-1, 4\]"),
        ({"pixels": GOOD[:, :3]}, "pixels", r"shape \[1, 3\]"),
        ({"pixels": GOOD[None]}, "pixels", r"shape \[1, 1, 4\]"),
    ],
)
def test_inputs_that_do_not_fit_are_the_callers_fault(
    linear: OnnxEngine, inputs: dict[str, np.ndarray], subject: str, says: str
) -> None:
    with pytest.raises(BadRequestError, match=says) as caught:
        linear.run(inputs)
    assert caught.value.subject == subject


def test_values_that_the_graph_cannot_take_are_the_callers_fault(pair: OnnxEngine) -> None:
    row = np.zeros((1, 2), np.float32)
    with pytest.raises(BadRequestError, match="cannot take these inputs"):
        pair.run({"a": row, "b": row, "i": np.array([3], np.int64)})


def test_a_failure_inside_the_engine_is_an_inference_error(tmp_path: Path) -> None:
    engine = _load(write_huge(tmp_path / "model.onnx"))
    with pytest.raises(InferenceError, match="engine failed") as caught:
        engine.run({"n": np.array([1 << 60], np.int64)})
    assert not isinstance(caught.value, BadRequestError)
    assert engine.run({"n": np.array([3], np.int64)})["y"].tolist() == [1, 1, 1]


def test_it_runs_in_several_threads_at_once(linear: OnnxEngine) -> None:
    rows = np.random.default_rng(3).normal(size=(64, 1, 4)).astype(np.float32)
    alone = [linear.run({"pixels": row})["probabilities"] for row in rows]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda row: linear.run({"pixels": row})["probabilities"], rows))
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(together))


@pytest.mark.slow
def test_the_engine_leaves_nothing_behind_and_calls_nobody(tmp_path: Path) -> None:
    write_linear(tmp_path / "model.onnx")
    home = tmp_path / "home"
    home.mkdir()
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        import psutil
        from edgeops_testkit.graphs import variant_for
        from edgeops.engines.onnx_engine import OnnxEngine
        folder = Path(sys.argv[1])
        engine = OnnxEngine.load(variant_for(folder / "model.onnx", folder), folder)
        engine.run({"pixels": np.zeros((1, 4), np.float32)})
        print([each.path for each in psutil.Process().open_files()], psutil.Process().net_connections())
        """
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**clean, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == "[] []"
    assert list(home.rglob("*")) == []


def test_a_closed_engine_answers_no_more(linear: OnnxEngine) -> None:
    linear.close()
    linear.close()
    with pytest.raises(InferenceError, match="closed"):
        linear.run({"pixels": GOOD})


@pytest.mark.parametrize("content", [b"", b"not a model", os.urandom(4096)])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx is refused by ONNX Runtime") as caught:
        _load(path)
    assert caught.value.subject == "model.onnx"


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError):
        _load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "model.onnx")
    variant = variant_for(path, tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        OnnxEngine.load(variant, tmp_path)


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    outside = write_linear(tmp_path / "outside" / "model.onnx")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.onnx").symlink_to(outside)
    with pytest.raises(ArtifactError, match="not a file inside its bundle"):
        _load(bundle / "model.onnx")


@pytest.mark.parametrize("location", ["../outside.bin", "ABSOLUTE", "link.bin", "no/../../outside.bin"])
def test_external_data_outside_the_bundle_is_refused(tmp_path: Path, location: str) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(np.eye(2, dtype=np.float32).tobytes())
    bundle = tmp_path / "bundle"
    (bundle / "no").mkdir(parents=True)
    (bundle / "link.bin").symlink_to(outside)
    path = write_external(bundle / "model.onnx", str(outside) if location == "ABSOLUTE" else location)
    with pytest.raises(ArtifactError, match="refused by ONNX Runtime"):
        _load(path)


def test_external_data_beside_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.eye(2, dtype=np.float32).tobytes())
    engine = _load(write_external(tmp_path / "model.onnx", "weights.bin"))
    assert engine.run({"x": np.array([[3, 4]], np.float32)})["y"].tolist() == [[3, 4]]


@pytest.mark.parametrize("wanted", ["99", "1.999", onnxruntime.__version__ + ".1"])
def test_a_runtime_that_is_too_old_stops_the_start(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"needs ONNX Runtime {wanted} or later"):
        _load(write_linear(tmp_path / "model.onnx"), min_version=wanted)


@pytest.mark.parametrize("wanted", ["1", "1.9", onnxruntime.__version__, onnxruntime.__version__ + ".0"])
def test_a_runtime_that_is_new_enough_loads(tmp_path: Path, wanted: str) -> None:
    assert _load(write_linear(tmp_path / "model.onnx"), min_version=wanted).inputs


def test_a_minimum_version_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a version"):
        _load(write_linear(tmp_path / "model.onnx"), min_version="newest")


def test_other_engines_and_formats_are_refused(tmp_path: Path) -> None:
    import msgspec

    variant = variant_for(write_linear(tmp_path / "model.onnx"), tmp_path)
    other = msgspec.structs.replace(variant, runtime=Runtime(engine="tensorrt", min_version="8"))
    with pytest.raises(ArtifactError, match="tensorrt"):
        OnnxEngine.load(other, tmp_path)
    with pytest.raises(ArtifactError, match="gguf"):
        load_engine(msgspec.structs.replace(variant, format="gguf"), tmp_path)
