"""`edgeops build NAME` of the reference models, as they are, and what stock tools say of the bundles.

`digits` is built by the demo's test."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeops.signing.keys import new_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1700)]

BIN = Path(sys.executable).parent
FORMATS = {"sensors": {"onnx"}, "intents": {"onnx"}, "tinychat": {"onnx", "gguf", "mlx"}}


@pytest.fixture(scope="module", params=FORMATS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The line that the build ended with, and the key that signed. The key lies where `edgeops build` looks
    for it by itself."""
    place = tmp_path_factory.mktemp(request.param)
    key, _ = new_key("builder", place / "home" / "config")
    done = subprocess.run(
        [BIN / "edgeops", "build", request.param, "--json"],
        cwd=place,
        env={**os.environ, "EDGEOPS_HOME": str(place / "home")},
        capture_output=True,
        text=True,
        timeout=1600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    line: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**line, "name": request.param, "path": place / line["path"], "key": key.with_suffix(".pub")}


def tool(*command: str | Path, **more: str) -> str:
    """The tool's output. Fails with it if the tool does."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **more}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def files_of(built: dict[str, Any], format: str) -> list[Path]:
    manifest = json.loads((built["path"] / "manifest.json").read_bytes())
    variants = [variant for variant in manifest["variants"] if variant["format"] == format]
    return [built["path"] / variant["files"][0]["path"] for variant in variants]


def test_every_format_is_there_and_every_gate_passed(built: dict[str, Any]) -> None:
    assert {variant["format"] for variant in built["variants"]} == FORMATS[built["name"]]
    assert all(gate["passed"] for gate in built["gates"])
    measured = json.loads((built["path"] / "measurements.json").read_bytes())["variants"]
    for variant in built["variants"]:
        assert variant["size_bytes"] > 0
        assert {"latency_p50_ms", "latency_p99_ms", "memory_bytes"} <= measured[variant["id"]].keys()


def test_the_reference_tool_verifies_it(built: dict[str, Any]) -> None:
    signature = built["path"] / "model.sig"
    command = (BIN / "model_signing", "verify", "key", built["path"], "--signature", signature)
    assert "succeeded" in tool(*command, "--public_key", built["key"])
    statement = json.loads(base64.b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"


def test_onnxs_own_checker_takes_the_graphs(built: dict[str, Any]) -> None:
    files = files_of(built, "onnx")
    assert files
    for file in files:
        onnx.checker.check_model(onnx.load(file), full_check=True)


def test_llama_cpps_and_mlxs_own_tools_take_the_language_model(built: dict[str, Any]) -> None:
    for format in ("gguf", "mlx"):
        assert bool(files_of(built, format)) == (format in FORMATS[built["name"]])
    for file in files_of(built, "gguf"):
        assert "general.architecture" in tool(BIN / "gguf-dump", file)
    for file in files_of(built, "mlx"):
        command = (sys.executable, "-m", "mlx_lm", "generate", "--model", file.parent)
        assert "Generation:" in tool(*command, "--prompt", "What does `abs` do?", "--max-tokens", "8")


def test_the_documents_fit_their_standards(built: dict[str, Any]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from google.protobuf import json_format
    from huggingface_hub import ModelCard
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement_pb2 import Statement

    bom = (built["path"] / "provenance" / "ml-bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None
    slsa = json.loads((built["path"] / "provenance" / "slsa.json").read_bytes())
    # in-toto's own protobuf messages are the schema: an unknown field or a wrong type is an error.
    assert json_format.ParseDict(slsa, Statement()).predicate_type == "https://slsa.dev/provenance/v1"
    assert json_format.ParseDict(slsa["predicate"], Provenance()).run_details.builder.id
    manifest = json.loads((built["path"] / "manifest.json").read_bytes())
    card = ModelCard.load(built["path"] / "README.md")
    assert card.data.to_dict()["pipeline_tag"] == manifest["task"]
