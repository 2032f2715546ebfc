"""`edgeops build` as a user runs it: what it prints, what it keeps, what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeops.bundle import verify_bundle
from edgeops.canonical import sha256_file
from edgeops.errors import ConfigError, GateError
from edgeops.signing.keys import keyring, load_public_key
from edgeops_testkit.recipes import PACKAGED, Builder, SmallBuild, changed, last_line, small_recipe
from toolchain.build import read_source

pytestmark = pytest.mark.slow

# Runs the build command in this process and tells, beside its line, which heavy packages came along.
WATCHED = """
import sys
from toolchain.commands import build
build.main(sys.argv[1:], standalone_mode=False)
heavy = {"torch", "numpy", "onnx", "onnxruntime", "sklearn", "model_signing"}
heavy |= {"toolchain.documents.html", "toolchain.search.resolve"}
print(sorted(heavy & set(sys.modules)))
"""


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_line_of_json_describes_the_bundle(small_build: SmallBuild) -> None:
    line = small_build.line
    assert line["path"] == str(small_build.builder.out / "digits-1.0.0")
    assert line["digest"] == sha256_file(small_build.bundle / "manifest.json")
    assert [v["id"] for v in line["variants"]] == ["onnx-int8", "onnx-fp32", "teacher-onnx-fp32"]
    assert all(gate["passed"] for gate in line["gates"])
    plan = read_source(str(small_build.recipe)).plan()
    assert line["steps_run"] == [*(step.name for step in plan.steps), "sign"]
    keys = keyring([load_public_key(small_build.builder.public_key)])
    assert verify_bundle(small_build.bundle, keys).digest == line["digest"]


def test_with_nothing_changed_nothing_runs_and_nothing_heavy_is_imported(small_build: SmallBuild) -> None:
    builder, before = small_build.builder, tree(small_build.bundle)
    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED, *builder.command(small_build.recipe)[2:]],
        env=builder.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    line, heavy = done.stdout.strip().splitlines()
    assert json.loads(line) == {**small_build.line, "steps_run": []}
    assert heavy == "[]"
    assert tree(small_build.bundle) == before


def test_a_changed_config_runs_the_steps_that_depend_on_it(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = small_build.with_out(tmp_path / "out")
    recipe = small_recipe(tmp_path, ("minimum_accepted: 1}", "minimum_accepted: 2}"))
    done = builder.run(recipe, "--explain")
    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout)["steps_run"] == [
        "calibrate",
        "reference",
        "gate",
        "document",
        "package",
        "sign",
    ]
    assert (
        "run    calibrate (find the fallback threshold): config fallback.minimum_accepted changed"
        in done.stderr
    )
    assert "keep   model-teacher: nothing that decides it changed" in done.stderr


def test_a_damaged_cache_entry_is_made_again(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = small_build.with_out(tmp_path / "out")
    builds = json.loads((builder.home / "cache/build/builds/digits-1.0.0.json").read_bytes())
    key = next(
        path.parent.name
        for path in (builder.home / "cache/build/steps").glob("*/entry.json")
        if json.loads(path.read_bytes())["parts"] == builds["answers-student"]
    )
    damaged = builder.home / "cache/build/steps" / key / "files/answers.npz"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    done = builder.run(small_build.recipe, "--explain")
    assert done.returncode == 0, done.stderr
    assert last_line(done.stdout)["steps_run"] == ["answers-student", "sign"]
    assert "run    answers-student (ask student itself): its cached output is damaged" in done.stderr
    assert last_line(done.stdout)["digest"] == small_build.line["digest"]


def test_clean_caches_elsewhere_give_the_same_digest(small_build: SmallBuild, tmp_path: Path) -> None:
    other = Builder.at(tmp_path / "another desk")
    line = other.build(
        small_build.recipe,
        "--no-cache",
        cwd=tmp_path,
        PYTHONHASHSEED="4711",
        LC_ALL="C",
        TZ="Pacific/Auckland",
    )
    assert line["digest"] == small_build.line["digest"]
    assert not (other.home / "cache").exists()
    ours, theirs = tree(small_build.bundle), tree(Path(line["path"]))
    assert {name for name in ours if ours[name] != theirs[name]} <= {"measurements.json", "model.sig"}


def test_a_failed_gate_signs_nothing_and_reports_everything(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = small_build.with_out(tmp_path / "out")
    gate = "accuracy, variant: teacher-onnx-fp32, at_least: "
    strict = (gate + "0}", gate + "1}")
    done = builder.run(small_recipe(tmp_path, strict))
    assert done.returncode == GateError.exit_code
    error = last_line(done.stdout)["error"]
    assert (error["kind"], error["subject"]) == ("gate", "accuracy of teacher-onnx-fp32 >= 1")
    reports = ["digits-1.0.0.report.html", "digits-1.0.0.report.json"]
    assert sorted(path.name for path in builder.out.iterdir()) == reports
    report = json.loads((builder.out / "digits-1.0.0.report.json").read_bytes())
    assert [gate["name"] for gate in report["gates"] if not gate["passed"]] == [error["subject"]]
    assert set(report["report"]["variants"]) == {"onnx-int8", "onnx-fp32", "teacher-onnx-fp32"}
    builder.build(small_build.recipe)
    assert [path.name for path in builder.out.iterdir()] == ["digits-1.0.0"]


def test_a_threshold_out_of_reach_fails_as_a_gate(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = small_build.with_out(tmp_path / "out")
    recipe = small_recipe(tmp_path, ("minimum_accepted: 1}", "minimum_accepted: 100000}"))
    done = builder.run(recipe)
    assert done.returncode == GateError.exit_code
    assert "error of answers kept by onnx-int8 <= 0.99" in done.stderr


def test_the_time_in_the_documents_is_never_the_clocks(small_build: SmallBuild, tmp_path: Path) -> None:
    builder = small_build.with_out(tmp_path / "out")
    bom = json.loads((small_build.bundle / "provenance/ml-bom.cdx.json").read_bytes())
    assert bom["metadata"]["timestamp"] == "2026-01-01T00:00:00Z"
    line = builder.build(small_build.recipe, SOURCE_DATE_EPOCH="86400")
    assert line["steps_run"] == ["document", "package", "sign"]
    bom = json.loads((Path(line["path"]) / "provenance/ml-bom.cdx.json").read_bytes())
    assert bom["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    assert builder.run(small_build.recipe, SOURCE_DATE_EPOCH="soon").returncode == ConfigError.exit_code


def test_a_tampered_bundle_in_the_folder_is_replaced_and_a_foreign_folder_is_not(
    small_build: SmallBuild,
    tmp_path: Path,
) -> None:
    builder = small_build.with_out(tmp_path / "out")
    bundle = Path(builder.build(small_build.recipe)["path"])
    (bundle / "README.md").write_text("harmless")
    assert builder.build(small_build.recipe)["steps_run"] == ["sign"]
    assert tree(bundle)["README.md"] == tree(small_build.bundle)["README.md"]
    (bundle / "manifest.json").unlink()
    assert builder.run(small_build.recipe).returncode == ConfigError.exit_code
    assert (bundle / "README.md").exists()


def test_another_key_signs_again_without_building(small_build: SmallBuild, tmp_path: Path) -> None:
    other = Builder.at(tmp_path)
    builder = Builder(small_build.builder.home, other.key, tmp_path / "out")
    assert builder.build(small_build.recipe)["steps_run"] == ["sign"]
    keys = keyring([load_public_key(other.public_key)])
    assert verify_bundle(builder.out / "digits-1.0.0", keys).digest == small_build.line["digest"]


@pytest.mark.parametrize("what", ["recipe", "key", "out"])
def test_what_cannot_be_used_is_one_sentence(small_build: SmallBuild, tmp_path: Path, what: str) -> None:
    file = tmp_path / "file"
    file.write_text("no key, no recipe, no folder")
    builder = Builder(
        small_build.builder.home,
        file if what == "key" else small_build.builder.key,
        file / "out" if what == "out" else tmp_path / "out",
    )
    done = builder.run(file if what == "recipe" else small_build.recipe)
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_bad_release_is_much_worse_than_the_good_ones(tmp_path: Path) -> None:
    builder = Builder.at(tmp_path)
    accuracy = []
    for name in ("recipe.yaml", "recipe-1.1.0.yaml", "recipe-1.2.0.yaml"):
        path = tmp_path / name
        # One seed is enough for what is asked here.
        text = (PACKAGED / name).read_text()
        path.write_text(changed(text, ("seeds: [1, 2, 3]", "seeds: [1]")) if "[1, 2, 3]" in text else text)
        line = builder.build(path)
        accuracy.append(line["variants"][0]["quality"]["accuracy"])
    first, better, bad = accuracy
    assert 0.88 <= first <= 0.95
    assert better >= 0.95
    assert 0.5 <= bad <= 0.78
