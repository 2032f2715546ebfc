"""The manifest: what it accepts, what it refuses, and what survives a round trip."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.canonical import sha256_bytes
from edgeops.errors import ArtifactError
from edgeops.manifest import (
    MAX_MANIFEST_BYTES,
    Dtype,
    FileEntry,
    Manifest,
    ManifestFields,
    Runtime,
    Variant,
    is_safe_path,
)
from edgeops.serving.host import DTYPES

Raw = dict[str, Any]
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e6, 1e6) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
# No field of any schema starts like that, so these stay unknown.
UNKNOWN = st.dictionaries(TEXT.map("x-{}".format), JSON, max_size=3)


def entry(path: str, digit: str = "a") -> Raw:
    return {"path": path, "sha256": digit * 64, "size_bytes": 7}


def sample() -> Raw:
    return {
        "schema_version": "1.0",
        "name": "digits",
        "version": "1.0.0",
        "task": "classification",
        "variants": [
            {
                "id": "onnx-int8",
                "format": "onnx",
                "precision": "int8",
                "files": [entry("variants/onnx-int8/model.onnx")],
                "runtime": {"engine": "onnxruntime", "min_version": "1.20"},
                "memory_bytes": 1 << 20,
                "quality": {"accuracy": 0.97},
            },
            {
                "id": "teacher",
                "format": "onnx",
                "precision": "fp32",
                "target": "cloud",
                "files": [
                    entry("variants/teacher/model.onnx", "b"),
                    entry("variants/teacher/model.data", "c"),
                ],
                "runtime": {"engine": "onnxruntime", "min_version": "1.20"},
                "memory_bytes": 1 << 22,
            },
        ],
        "inputs": [{"name": "image", "dtype": "FP32", "shape": [-1, 1, 8, 8], "minimum": 0, "maximum": 1}],
        "outputs": [{"name": "probabilities", "dtype": "FP32", "shape": [-1, 10]}],
        "classification": {"output": "probabilities", "classes": ["0", "1"]},
        "features": [{"name": "mean", "input": "image", "kind": "mean"}],
        "fallback": {"confidence_threshold": 0.5, "variant": "teacher"},
        "selftest": {"path": "selftest/vectors.json", "atol": 1e-4, "rtol": 1e-3},
        "reference_profile": "reference/profile.json",
        "files": [
            entry("README.md", "d"),
            entry("reference/profile.json", "e"),
            entry("selftest/vectors.json", "f"),
        ],
    }


def parse(raw: Raw) -> Manifest:
    return Manifest.parse(json.dumps(raw).encode())


@given(top=UNKNOWN, variant=UNKNOWN, runtime=UNKNOWN, file=UNKNOWN)
def test_unknown_fields_survive_a_round_trip(top: Raw, variant: Raw, runtime: Raw, file: Raw) -> None:
    raw = sample() | top
    raw["variants"][0] |= variant
    raw["variants"][0]["runtime"] |= runtime
    raw["files"][0] |= file
    first = parse(raw)
    again = Manifest.parse(first.to_bytes())
    assert again.raw == first.raw == raw
    assert again.fields == first.fields
    assert again.digest == first.digest == sha256_bytes(first.to_bytes())


def test_an_unknown_field_is_part_of_the_identity() -> None:
    assert parse(sample() | {"x-note": "a"}).digest != parse(sample() | {"x-note": "b"}).digest


def test_made_from_fields_and_read_back_it_is_the_same() -> None:
    made = Manifest.create(parse(sample()).fields)
    read = Manifest.parse(made.to_bytes())
    assert read.fields == made.fields
    assert read.raw == made.raw
    assert read.digest == made.digest


def test_the_digest_does_not_depend_on_layout() -> None:
    raw = sample()
    pretty = json.dumps(dict(reversed(raw.items())), indent=4).encode()
    assert Manifest.parse(pretty).digest == parse(raw).digest


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.99"])
def test_a_newer_minor_schema_is_read(version: str) -> None:
    assert parse(sample() | {"schema_version": version}).fields.schema_version == version


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", "1x", "", None, 1, ["1.0"]])
def test_another_major_schema_is_refused(version: object) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse(sample() | {"schema_version": version})
    assert caught.value.subject == "manifest.json"
    assert "schema version" in caught.value.message


def broken(change: Callable[[Raw], object]) -> Raw:
    raw = sample()
    change(raw)
    return raw


def table(raw: Raw) -> Raw:
    """Makes the input a sound one with two columns."""
    columns = [{"name": "a", "minimum": 0, "maximum": 1}, {"name": "b", "max_null_rate": 0.5}]
    raw["inputs"][0] = {"name": "image", "dtype": "FP32", "shape": [-1, 2], "columns": columns}
    tensor: Raw = raw["inputs"][0]
    return tensor


def text(raw: Raw) -> Raw:
    """Makes the input a sound one of text."""
    raw["inputs"][0] = {"name": "image", "dtype": "BYTES", "shape": [-1], "max_characters": 100}
    raw["features"][0]["kind"] = "characters"
    tensor: Raw = raw["inputs"][0]
    return tensor


def language(raw: Raw) -> Raw:
    """Makes the bundle one of a sound language model."""
    raw["files"] += [entry("language/template.jinja"), entry("language/system.txt")]
    raw["language"] = {
        "context_tokens": 512,
        "chat_template": "language/template.jinja",
        "system_prompt": "language/system.txt",
        "stop": ["</s>"],
    }
    fields: Raw = raw["language"]
    return fields


@pytest.mark.parametrize("make", [table, text, language])
def test_data_contracts_and_languages_survive_a_round_trip(make: Callable[[Raw], Raw]) -> None:
    raw = broken(make)
    manifest = parse(raw)
    again = Manifest.create(manifest.fields)
    assert again.fields == manifest.fields
    assert Manifest.parse(again.to_bytes()).fields == manifest.fields


def test_the_manifests_dtypes_are_those_that_can_be_served() -> None:
    assert set(get_args(Dtype)) == set(DTYPES)


def test_a_file_beside_the_one_that_the_engine_opens() -> None:
    raw = sample()
    raw["variants"][0]["files"] += [
        entry("variants/onnx-int8/tokenizer.json"),
        entry("variants/onnx-int8/a/b"),
    ]
    variant = parse(raw).variant("onnx-int8")
    found = variant.beside("tokenizer.json")
    assert found is not None
    assert found.path == "variants/onnx-int8/tokenizer.json"
    assert variant.beside("b") is None
    assert variant.beside("config.json") is None


def first_file(**changes: object) -> Callable[[Raw], object]:
    return lambda raw: raw["files"][0].update(changes)


BROKEN: dict[str, Callable[[Raw], object]] = {
    "no name": lambda raw: raw.pop("name"),
    "odd name": lambda raw: raw.update(name="../digits"),
    "no semantic version": lambda raw: raw.update(version="1.0"),
    "no variants": lambda raw: raw.update(variants=[]),
    "variant without files": lambda raw: raw["variants"][0].update(files=[]),
    "variant twice": lambda raw: raw["variants"].append(raw["variants"][0] | {"files": [entry("other")]}),
    "odd variant id": lambda raw: raw["variants"][0].update(id="a/b"),
    "unknown format": lambda raw: raw["variants"][0].update(format="pickle"),
    "unknown target": lambda raw: raw["variants"][0].update(target="moon"),
    "quality as text": lambda raw: raw["variants"][0].update(quality={"accuracy": "high"}),
    "file twice": lambda raw: raw["files"].append(raw["files"][0]),
    "file of a variant again": lambda raw: raw["files"].append(raw["variants"][0]["files"][0]),
    "path upwards": first_file(path="../README.md"),
    "absolute path": first_file(path="/etc/passwd"),
    "path not normal": first_file(path="a//b"),
    "path with a dot": first_file(path="./README.md"),
    "backslash": first_file(path="a\\b"),
    "line break in a path": first_file(path="a\nb"),
    "lists the manifest": first_file(path="manifest.json"),
    "lists the signature": first_file(path="model.sig"),
    "lists the measurements": first_file(path="measurements.json"),
    "no digest": first_file(sha256="abc"),
    "upper-case digest": first_file(sha256="A" * 64),
    "negative size": first_file(size_bytes=-1),
    "feature of no input": lambda raw: raw["features"][0].update(input="sound"),
    "classes of no output": lambda raw: raw["classification"].update(output="logits"),
    "threshold above one": lambda raw: raw["fallback"].update(confidence_threshold=1.5),
    "fallback to a device variant": lambda raw: raw["fallback"].update(variant="onnx-int8"),
    "self-test not listed": lambda raw: raw["selftest"].update(path="selftest/other.json"),
    "reference not listed": lambda raw: raw.update(reference_profile="reference/other.json"),
    "feature of text on numbers": lambda raw: raw["features"][0].update(kind="words"),
    "feature twice": lambda raw: raw["features"].append(raw["features"][0]),
    "unknown dtype": lambda raw: raw["outputs"][0].update(dtype="FP8"),
    "bounds in the wrong order": lambda raw: raw["inputs"][0].update(minimum=2, maximum=1),
    "characters of numbers": lambda raw: raw["inputs"][0].update(max_characters=5),
    "unknown fate of what is outside": lambda raw: raw["inputs"][0].update(outside="clip"),
    "too few columns": lambda raw: table(raw)["columns"].pop(),
    "columns of a free axis": lambda raw: table(raw).update(shape=[-1, -1]),
    "columns of the batch": lambda raw: table(raw).update(shape=[2]),
    "column twice": lambda raw: table(raw)["columns"][0].update(name="b"),
    "column's bounds in the wrong order": lambda raw: table(raw)["columns"][0].update(minimum=2),
    "null rate above one": lambda raw: table(raw)["columns"][1].update(max_null_rate=1.1),
    "negative null rate": lambda raw: table(raw)["columns"][1].update(max_null_rate=-0.1),
    "nulls among integers": lambda raw: table(raw).update(dtype="INT64"),
    "feature of numbers on text": lambda raw: text(raw) and raw["features"][0].update(kind="mean"),
    "bounds of text": lambda raw: text(raw).update(minimum=0),
    "columns of text": lambda raw: text(raw).update(shape=[-1, 1], columns=[{"name": "a"}]),
    "no character": lambda raw: text(raw).update(max_characters=0),
    "no temperature": lambda raw: raw["fallback"].update(temperature=0),
    "negative temperature": lambda raw: raw["fallback"].update(temperature=-1),
    "no context": lambda raw: language(raw).update(context_tokens=0),
    "template not listed": lambda raw: language(raw).update(chat_template="other.jinja"),
    "system prompt not listed": lambda raw: language(raw).update(system_prompt="other.txt"),
    "half a surrogate": lambda raw: raw.update(description="\ud800"),
    "integer beyond a double": lambda raw: raw.update({"x-size": 2**53 + 1}),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_a_rule_is_refused(change: Callable[[Raw], object]) -> None:
    assert parse(sample()).label == "digits 1.0.0"
    with pytest.raises(ArtifactError) as caught:
        parse(broken(change))
    assert caught.value.subject == "manifest.json"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"name": "a", "name": "b"}',
        b'{"schema_version": "1.0", "x": NaN}',
        b"[" * 10**6,
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        Manifest.parse(data)


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_always_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        Manifest.parse(data)


def test_a_huge_manifest_is_refused_before_it_is_read() -> None:
    with pytest.raises(ArtifactError, match="larger"):
        Manifest.parse(b" " * (MAX_MANIFEST_BYTES + 1))


def test_a_manifest_is_checked_when_it_is_made() -> None:
    fields = ManifestFields(
        schema_version="1.0",
        name="digits",
        version="1.0.0",
        task="classification",
        variants=(
            Variant(
                id="a",
                format="onnx",
                precision="fp32",
                files=(FileEntry(path="model.onnx", sha256="a" * 64, size_bytes=1),),
                runtime=Runtime(engine="onnxruntime", min_version="1.20"),
                memory_bytes=1,
                quality={"accuracy": float("nan")},
            ),
        ),
        inputs=(),
        outputs=(),
        files=(),
    )
    with pytest.raises(ArtifactError, match="canonical"):
        Manifest.create(fields)


def test_a_device_fetches_its_variant_the_self_test_and_the_reference() -> None:
    paths = [file.path for file in parse(sample()).device_files("onnx-int8")]
    assert paths == ["variants/onnx-int8/model.onnx", "reference/profile.json", "selftest/vectors.json"]


def test_variants_are_told_by_target_and_id() -> None:
    manifest = parse(sample())
    assert [variant.id for variant in manifest.variants_for("device")] == ["onnx-int8"]
    assert [variant.id for variant in manifest.variants_for("cloud")] == ["teacher"]
    assert manifest.variant("teacher").precision == "fp32"
    with pytest.raises(ArtifactError, match="no variant"):
        manifest.variant("missing")


def test_all_files_are_those_of_the_variants_and_the_others() -> None:
    assert len(parse(sample()).all_files()) == 6


@given(st.text(st.sampled_from("ab/.\\\n \x7f"), max_size=8) | st.text(max_size=8))
def test_a_safe_path_stays_below_its_folder(path: str) -> None:
    if not is_safe_path(path):
        return
    parts = path.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\\" not in path
    assert path.isprintable()


@pytest.mark.parametrize("path", ["a", "a/b.onnx", "variants/onnx-int8/model.onnx", "..a", "a b", "é"])
def test_ordinary_paths_are_safe(path: str) -> None:
    assert is_safe_path(path)
