"""`edgeops diff`: what changed between two bundles, read from their documents."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeops.errors import ArtifactError
from edgeops.signing.keys import keyring, load_public_key
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.keys import make_keys
from edgeops_testkit.recipes import SmallBuild, small_recipe
from toolchain.comparing.diff import SECTIONS, compare

pytestmark = pytest.mark.slow

# What `edgeops diff` does, without an entry point.
DIFF = [sys.executable, "-P", "-c", "from toolchain.commands import diff; diff()"]


@pytest.fixture(scope="module")
def other(small_build: SmallBuild, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe with another threshold and one variant less."""
    folder = tmp_path_factory.mktemp("other")
    recipe = small_recipe(
        folder,
        ("minimum_accepted: 1}", "minimum_accepted: 2}"),
        ("version: 1.0.0", "version: 1.1.0"),
        ("memory_budget_mb: 64}\n  - {id: onnx-fp32", "memory_budget_mb: 80}\n  - {id: onnx-fp32"),
    )
    return Path(small_build.with_out(folder / "out").build(recipe)["path"])


def diff(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*DIFF, *map(str, arguments)], capture_output=True, text=True)


def fields(changes: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    return {item["field"]: (item.get("old"), item.get("new")) for item in changes}


def test_a_bundle_does_not_differ_from_itself(small_build: SmallBuild) -> None:
    found = compare(small_build.bundle, small_build.bundle, {})
    assert found["same"] is True
    assert all(found[section] == [] for section in (*SECTIONS, "measured"))
    assert diff(small_build.bundle, small_build.bundle, "--exit-code").returncode == 0


def test_each_change_stands_where_it_belongs(small_build: SmallBuild, other: Path) -> None:
    found = compare(small_build.bundle, other, {})
    assert found["same"] is False
    assert fields(found["config"]) == {
        "fallback.minimum_accepted": (1, 2),
        "version": ("1.0.0", "1.1.0"),
        "variants[0].memory_budget_mb": (64, 80),
    }
    assert found["data"] == found["tools"] == found["code"] == found["prompts"] == found["quality"] == []
    assert [(item["variant"], item["field"]) for item in found["variants"]] == [("onnx-int8", "memory_bytes")]
    assert found["variants"][0]["new"] - found["variants"][0]["old"] == 16 << 20


def edited(bundle: Path, folder: Path, edit: Any) -> Path:
    """A copy of the bundle whose documents `edit` changed. Not signed, so it is looked at as it is."""
    copy = folder / "edited"
    shutil.copytree(bundle, copy)
    for name in ("manifest.json", "provenance/slsa.json", "evaluation/report.json", "measurements.json"):
        document = json.loads((copy / name).read_bytes())
        edit(name, document)
        (copy / name).write_text(json.dumps(document))
    return copy


def test_tools_code_data_quality_and_times_are_told_apart(small_build: SmallBuild, tmp_path: Path) -> None:
    def edit(name: str, document: dict[str, Any]) -> None:
        if name == "provenance/slsa.json":
            for item in document["predicate"]["buildDefinition"]["resolvedDependencies"]:
                if item["name"] == "tool:torch":
                    item["uri"] = "pkg:pypi/torch@9.0%2Bcpu"
                if item["name"] == "data":
                    item["digest"]["sha256"] = "0" * 64
                if item["name"] == "code:toolchain.steps.data":
                    item["digest"]["sha256"] = "1" * 64
        if name == "evaluation/report.json":
            document["rows"]["train"] += 7
            document["gates"][0]["value"] = 0.5
        if name == "manifest.json":
            document["variants"][1]["quality"]["accuracy"] += 0.25
            del document["variants"][0]
            document["preprocessing"] = "none"
        if name == "measurements.json":
            document["variants"]["onnx-fp32"]["latency_p50_ms"] += 1

    copy = edited(small_build.bundle, tmp_path, edit)
    found = compare(small_build.bundle, copy, {})
    assert fields(found["tools"])["torch"][1] == "9.0+cpu"
    assert set(fields(found["data"])) == {"data.digest.sha256", "rows.train"}
    assert set(fields(found["code"])) == {"toolchain.steps.data"}
    assert ("onnx-int8", "removed") in [(item["variant"], item["field"]) for item in found["variants"]]
    assert [(item["variant"], item["field"], item["change"]) for item in found["quality"]] == [
        ("onnx-fp32", "accuracy", 0.25)
    ]
    assert [(item["variant"], item["field"], item["change"]) for item in found["measured"]] == [
        ("onnx-fp32", "latency_p50_ms", 1.0)
    ]
    assert set(fields(found["contract"])) == {"preprocessing"}
    assert any("value" in field for field in fields(found["gates"]))
    back = compare(copy, small_build.bundle, {})
    assert [item["variant"] for item in back["variants"] if item["field"] == "added"] == ["onnx-int8"]


def test_the_command_prints_tables_and_its_status_is_asked_for(small_build: SmallBuild, other: Path) -> None:
    done = diff(small_build.bundle, other)
    assert done.returncode == 0, done.stderr
    assert "fallback.minimum_accepted" in done.stdout
    assert "Neither signature was checked" in done.stdout
    assert diff(small_build.bundle, other, "--exit-code").returncode == 1
    data = json.loads(diff(small_build.bundle, other, "--json").stdout)
    assert data["old"]["version"] == "1.0.0"


def test_with_a_key_both_are_verified(small_build: SmallBuild, other: Path, tmp_path: Path) -> None:
    ring = keyring([load_public_key(small_build.builder.public_key)])
    assert compare(small_build.bundle, other, ring)["verified"] is True
    copy = tmp_path / "copy"
    shutil.copytree(other, copy)
    (copy / "README.md").write_text("harmless")
    with pytest.raises(ArtifactError, match=r"README\.md"):
        compare(small_build.bundle, copy, ring)
    with pytest.raises(ArtifactError, match="trusted"):
        compare(small_build.bundle, other, make_keys(tmp_path, "stranger").ring)


def test_a_bundle_without_documents_is_compared_by_its_manifest_and_says_so(tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "one", key=None, version="1.0.0")
    two = make_bundle(tmp_path / "two", key=None, version="1.1.0", quality="bad")
    found = compare(one, two, {})
    assert "provenance/slsa.json" in found["old"]["missing"]
    assert found["config"] == []
    assert found["variants"] != []
    assert "it has no provenance/slsa.json" in diff(one, two).stdout


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": 1, "a": 2}'])
def test_a_document_that_cannot_be_read_is_named(
    small_build: SmallBuild, tmp_path: Path, content: bytes
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_build.bundle, copy)
    (copy / "evaluation" / "report.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"report\.json cannot be read"):
        compare(small_build.bundle, copy, {})


def test_hostile_text_does_not_drive_the_terminal(small_build: SmallBuild, tmp_path: Path) -> None:
    def edit(name: str, document: dict[str, Any]) -> None:
        if name == "manifest.json":
            document["description"] = "\x1b[2J[red]gone"

    done = diff(small_build.bundle, edited(small_build.bundle, tmp_path, edit))
    assert "\x1b" not in done.stdout
    assert "[red]gone" in done.stdout
