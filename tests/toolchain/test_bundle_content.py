"""What a built bundle holds, read by other people's rules: the device's, SLSA's, CycloneDX's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement_pb2 import Statement

from edgeops.bundle import read_manifest
from edgeops.engines.base import load_engine
from edgeops.features import feature_columns
from edgeops.profiles import ReferenceProfile
from edgeops.selftest import SelfTestVectors, run_selftest
from edgeops_testkit.recipes import SmallBuild
from models.digits.data import held_out
from toolchain.documents.html import render

pytestmark = pytest.mark.slow


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_every_device_variant_passes_its_self_test(small_build: SmallBuild) -> None:
    manifest = read_manifest(small_build.bundle)
    policy = manifest.fields.selftest
    assert policy is not None
    vectors = SelfTestVectors.parse((small_build.bundle / policy.path).read_bytes())
    assert set(vectors.expected) == {v.id for v in manifest.variants_for("device")}
    for variant in manifest.variants_for("device"):
        engine = load_engine(variant, small_build.bundle)
        assert run_selftest(vectors, variant.id, policy, engine.run) <= 1e-6


def test_the_quality_in_the_manifest_can_be_measured_again(small_build: SmallBuild) -> None:
    manifest = read_manifest(small_build.bundle)
    inputs, labels = held_out()
    assert len(labels) == 539
    for variant in manifest.fields.variants:
        engine = load_engine(variant, small_build.bundle)
        answers = [engine.run({"image": row[np.newaxis]})["probabilities"][0].argmax() for row in inputs]
        assert np.mean(np.array(answers) == labels) == pytest.approx(variant.quality["accuracy"], abs=1e-6)


def test_held_out_rows_are_those_that_the_documents_name() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = np.random.default_rng(20260101).permutation(1797)[-539:]
    inputs, labels = held_out()
    assert np.array_equal(inputs[:, 0], digits.images[rows])
    assert np.array_equal(labels, digits.target[rows])


def test_the_reference_profile_is_of_the_training_rows(
    small_build: SmallBuild,
) -> None:
    manifest = read_manifest(small_build.bundle)
    profile = ReferenceProfile.parse((small_build.bundle / "reference/profile.json").read_bytes())
    assert profile.rows == 989
    assert set(profile.features) == {feature.name for feature in manifest.fields.features}
    assert sum(profile.classes.values()) == 269
    assert profile.confidence is not None
    columns = feature_columns(manifest.fields.features, {"image": held_out()[0]})
    mean = profile.features["pixel_mean"]
    assert columns["pixel_mean"].mean() == pytest.approx(mean.mean, abs=3 * (mean.variance / 539) ** 0.5)
    assert columns["pixel_mean"].mean() != pytest.approx(mean.mean, abs=1e-9)


def test_the_graph_takes_raw_pixels(small_build: SmallBuild) -> None:
    manifest = read_manifest(small_build.bundle)
    spec = manifest.fields.inputs[0]
    assert (spec.minimum, spec.maximum, spec.shape) == (0, 16, (-1, 1, 8, 8))
    import onnx

    for variant in manifest.fields.variants:
        graph = onnx.load(small_build.bundle / variant.files[0].path).graph
        first = next(node.op_type for node in graph.node if node.op_type != "Constant")
        assert (first, graph.node[-1].op_type) == ("Div", "Softmax")


def test_nothing_tells_of_the_machine_that_built_it(small_build: SmallBuild) -> None:
    import getpass
    import socket

    secrets = [str(small_build.builder.home.parent), str(Path(__file__).parents[2]), socket.gethostname()]
    user = getpass.getuser()
    secrets += [f"/{user}", f"{user}@"]
    for path in small_build.bundle.rglob("*"):
        if path.is_file() and path.name != "model.sig":
            data = path.read_bytes()
            assert [secret for secret in secrets if secret.encode() in data] == [], path


def test_the_report_says_what_distilling_did(small_build: SmallBuild) -> None:
    report = read_json(small_build.bundle / "evaluation/report.json")
    told = report["training"]["student"]["distillation"]
    assert set(told["runs"][0]) == {"seed", "alone", "distilled"}
    assert told["verdict"] == "unclear"
    unclear = "Distillation of student cannot be told from chance"
    (remark,) = (remark for remark in report["remarks"] if remark.startswith(unclear))
    shipped = report["training"]["student"]["shipped"]
    assert shipped["seed"] in [run["seed"] for run in told["runs"]]
    assert remark.endswith(f"ships: seed {shipped['seed']}, {shipped['kind']}.")
    measured = [gate for gate in report["gates"] if gate["metric"].startswith(("latency", "memory"))]
    assert measured
    assert all("value" not in gate for gate in measured)
    assert "latency_p50_ms" in read_json(small_build.bundle / "measurements.json")["variants"]["onnx-int8"]


def test_the_model_card_has_front_matter_that_reads_as_yaml(small_build: SmallBuild) -> None:
    text = (small_build.bundle / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    card = yaml.safe_load(front)
    accuracy = read_manifest(small_build.bundle).variant("onnx-int8").quality["accuracy"]
    assert {"type": "accuracy", "value": accuracy} in card["model-index"][0]["results"][0]["metrics"]
    assert body.strip().startswith("# digits 1.0.0")


def test_slsa_names_the_models_the_data_the_code_and_the_tools(small_build: SmallBuild) -> None:
    statement = read_json(small_build.bundle / "provenance/slsa.json")
    manifest = read_manifest(small_build.bundle)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {s["name"]: s["digest"]["sha256"] for s in statement["subject"]} == {
        v.files[0].path: v.files[0].sha256 for v in manifest.fields.variants
    }
    json_format.ParseDict(statement, Statement())
    json_format.ParseDict(statement["predicate"], Provenance())
    definition = statement["predicate"]["buildDefinition"]
    names = {dependency["name"] for dependency in definition["resolvedDependencies"]}
    assert {"data", "code:models.digits.network", "code:toolchain.steps.train_rows", "tool:torch"} <= names
    assert definition["externalParameters"]["recipe"]["models"]["student"]["seeds"] == [1]


def test_the_ml_bom_fits_cyclonedx_1_6(small_build: SmallBuild) -> None:
    text = (small_build.bundle / "provenance/ml-bom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    assert bom["metadata"]["component"]["type"] == "machine-learning-model"
    listed = {c["bom-ref"] for c in bom["components"]}
    assert {f"variant:{v.id}" for v in read_manifest(small_build.bundle).fields.variants} <= listed


def test_the_report_is_a_page_too_and_shows_no_measured_figure(small_build: SmallBuild) -> None:
    page = (small_build.bundle / "evaluation/report.html").read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!doctype html>")
    assert page == render(read_json(small_build.bundle / "evaluation/report.json"))
    assert " ms</td>" not in page


def test_the_fallback_threshold_is_calibrated_and_bounded(small_build: SmallBuild) -> None:
    policy = read_manifest(small_build.bundle).fields.fallback
    assert policy is not None
    assert policy.calibration["error_bound"] <= policy.calibration["target_error"]
    assert policy.calibration["rows_fitted"] + policy.calibration["rows_tested"] == 269
    assert 0 <= policy.confidence_threshold <= 1
    assert policy.temperature > 0
