"""scikit-learn pipelines: fitted here, from skops files, and what is refused."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeops.canonical import sha256_file
from edgeops.errors import ArtifactError, ConfigError
from edgeops_testkit.sources import (
    SKLEARN,
    StepWorker,
    model_config,
    small_pipeline,
    step_context,
    three_columns,
)
from toolchain.handover.arrays import load_arrays, load_part
from toolchain.importing.sklearn_pipeline import (
    check_estimator,
    fit_pipeline,
    load_pipeline,
    parameter_count,
    save_pipeline,
)
from toolchain.steps import answers, export_onnx, import_sklearn

pytestmark = pytest.mark.slow

TABLE = "tabular-classification"
TRUSTED = ["sklearn.neural_network._stochastic_optimizers.AdamOptimizer", "numpy.dtype"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = three_columns()
    path = tmp_path_factory.mktemp("skops") / "net.skops"
    save_pipeline(fit_pipeline({**SKLEARN}, data.inputs, data.labels), path)
    return path


@pytest.mark.parametrize("kind", ["network", "forest", "boosted", "linear"])
def test_what_is_exported_answers_as_the_pipeline(tmp_path: Path, table: Path, kind: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    config = model_config(TABLE, {**SKLEARN, "options": {"kind": kind}})
    made = step_context(tmp_path / "m", config, data=table)
    import_sklearn.run(made)
    exported = step_context(tmp_path / "e", config, data=table, model=made.out)
    export_onnx.run(exported)
    told = step_context(tmp_path / "a", config, data=table, model=made.out)
    answers.run(told)
    session = onnxruntime.InferenceSession(exported.out / "variant" / "model.onnx")
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("x", ["batch", 3])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("probabilities", ["batch", 3])]
    inputs, labels = load_part(table, "held_out")
    wanted = load_arrays(told.out / "answers.npz")["held_out"]
    got = session.run(None, {"x": inputs})[0]
    assert np.abs(got - wanted).max() < 1e-5
    assert (got.argmax(axis=1) == labels).mean() > 0.4  # a third by chance
    inputs[:, 1] = np.nan  # a null is filled in the graph as in the pipeline
    estimator = load_pipeline(made.out / "model" / "model.skops", "m", trusted=None)
    assert np.abs(session.run(None, {"x": inputs})[0] - estimator.predict_proba(inputs)).max() < 1e-5


def test_equal_pipelines_are_equal_files_whatever_the_hash_seed(tmp_path: Path, fitted: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from edgeops_testkit.sources import SKLEARN, three_columns\n"
        "from toolchain.importing.sklearn_pipeline import *\n"
        "from toolchain.exporting.sklearn_onnx import export_pipeline\n"
        "from quantize.onnx_graph import canonical_bytes\n"
        "d = three_columns(); e = fit_pipeline(SKLEARN, d.inputs, d.labels)\n"
        "save_pipeline(e, Path(sys.argv[1]))\n"
        "Path(sys.argv[2]).write_bytes(canonical_bytes(export_pipeline(e, [3], name='x', output='p')))\n"
    )
    digests = set()
    for seed in ("1", "2"):
        files = [tmp_path / f"{seed}.skops", tmp_path / f"{seed}.onnx"]
        subprocess.run(
            [sys.executable, "-c", code, *map(str, files)],
            env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PYTHONHASHSEED": seed},
            check=True,
        )
        digests.add(tuple(map(sha256_file, files)))
    assert len(digests) == 1
    assert sha256_file(fitted) == next(iter(digests))[0]


def test_a_file_is_taken_with_its_types_trusted(tmp_path: Path, table: Path, fitted: Path) -> None:
    config = model_config(TABLE, {**SKLEARN, "factory": None, "file": "net.skops", "trusted_types": TRUSTED})
    with StepWorker() as worker:
        context = step_context(tmp_path / "m", config, data=table, file=fitted)
        made = worker.run("import_sklearn", context)
        assert (made / "model" / "model.skops").read_bytes() == fitted.read_bytes()
        exported = worker.run("export_onnx", step_context(tmp_path / "e", config, data=table, model=made))
        assert json.loads((exported / "export.json").read_bytes())["ops"]["MatMul"] == 2
        config["model"] = {**config["model"], "trusted_types": TRUSTED[1:]}
        with pytest.raises(ArtifactError, match=r"does not trust: .*AdamOptimizer"):
            worker.run("import_sklearn", step_context(tmp_path / "n", config, data=table, file=fitted))


class Evil:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.mark,))  # type: ignore[return-value]


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    import joblib

    evil = Evil(tmp_path / "mark")
    (tmp_path / "a.skops").write_bytes(pickle.dumps(evil))
    joblib.dump(evil, tmp_path / "b.skops", compress=3)
    joblib.dump(evil, tmp_path / "c.skops")
    for name in ("a.skops", "b.skops", "c.skops"):
        with pytest.raises(ArtifactError, match=f"{name} is a pickle"):
            load_pipeline(tmp_path / name, name, trusted=None)
    assert not (tmp_path / "mark").exists()


def spoiled(fitted: Path, target: Path, change: str) -> Path:
    with zipfile.ZipFile(fitted) as source, zipfile.ZipFile(target, "w") as out:
        for member in source.namelist():
            data = source.read(member)
            if member == "schema.json" and change == "system":
                data = data.replace(b'"StandardScaler"', b'"system"').replace(
                    b'"sklearn.preprocessing._data"', b'"os"'
                )
            if member == "schema.json" and change == "json":
                data = data[:-10]
            if member != "schema.json" or change != "no schema":
                out.writestr(member, data)
    return target


@pytest.mark.parametrize(
    ("change", "what"),
    [("system", "does not trust: .*os.system"), ("json", "cannot be read"), ("no schema", "no skops file")],
)
def test_files_that_are_not_what_they_must_be(tmp_path: Path, fitted: Path, change: str, what: str) -> None:
    path = spoiled(fitted, tmp_path / "x.skops", change)
    with pytest.raises(ArtifactError, match=what) as caught:
        load_pipeline(path, "x.skops", trusted=TRUSTED)
    assert caught.value.subject == "x.skops"


def test_an_archive_may_not_unpack_to_any_size(tmp_path: Path) -> None:
    path = tmp_path / "x.skops"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", "{}")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")  # the central directory, where a reader looks first
    data[entry + 24 : entry + 28] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="unpacks to more than"):
        load_pipeline(tmp_path / "x.skops", "x.skops", trusted=None)


def test_other_classes_and_other_columns_are_refused() -> None:
    data = three_columns()
    estimator = small_pipeline(kind="linear").fit(data.inputs, np.array(data.classes)[data.labels])
    check_estimator(estimator, data.inputs[:5], data.classes, "net")
    with pytest.raises(ArtifactError, match=r"\['a', 'b', 'c'\], and the data has \['a', 'b', 'd'\]"):
        check_estimator(estimator, data.inputs[:5], ("a", "b", "d"), "net")
    with pytest.raises(ArtifactError, match="cannot take rows"):
        check_estimator(estimator, data.inputs[:5, :2], data.classes, "net")


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(ConfigError, match="no scikit-learn classifier"):
        fit_pipeline({"factory": "builtins:dict", "options": {}}, np.zeros((1, 1)), np.zeros(1))


def test_parameters_are_counted() -> None:
    data = three_columns()
    network = small_pipeline(kind="network").fit(data.inputs, data.labels)
    weights = 3 * 8 + 8 + 8 * 3 + 3
    assert parameter_count(network) == weights + 3 + 3 * 3  # means of nulls; scale, mean and variance
    assert parameter_count(io) == 0
