"""The plan: order, what recipes share, and what a step's key follows."""

from pathlib import Path

import pytest

from edgeops.errors import ConfigError
from edgeops_testkit.recipes import PACKAGED, changed
from toolchain.caching.code import code_digests, tool_versions
from toolchain.plan import Plan, Step, make_plan
from toolchain.recipe.file import read_recipe

MODELS = PACKAGED.parent
RECIPES = sorted(path.relative_to(MODELS).as_posix() for path in MODELS.glob("*/recipe*.yaml"))


def plan_of(path: Path) -> Plan:
    return make_plan(read_recipe(path), folder=path.parent, created="2026-01-01T00:00:00Z")


def step_of(plan: Plan, name: str) -> Step:
    return next(step for step in plan.steps if step.name == name)


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_comes_after_its_inputs_and_the_last_one_packages(name: str) -> None:
    plan = plan_of(MODELS / name)
    done: set[str] = set()
    for step in plan.steps:
        assert set(step.inputs.values()) <= done
        assert step.name not in done
        done.add(step.name)
    assert plan.steps[-1].name == "package"


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_is_there_and_its_code_and_tools_can_be_told(name: str) -> None:
    for step in plan_of(MODELS / name).steps:
        assert step.module in code_digests((step.module, *step.code))
        assert set(step.tools) <= tool_versions(step.tools).keys()


def test_the_three_releases_share_data_and_teacher_but_not_the_student() -> None:
    first, second, third = (plan_of(PACKAGED / f"recipe{end}.yaml") for end in ("", "-1.1.0", "-1.2.0"))
    for name in ("data", "model-teacher", "export-teacher-onnx", "evaluate-teacher-onnx-fp32"):
        assert step_of(first, name) == step_of(second, name) == step_of(third, name)
    students = [step_of(plan, "train-student-1-distilled").config for plan in (first, second, third)]
    assert students[0] != students[1]
    assert students[1] != students[2]


def test_each_seed_trains_alone_and_with_the_teacher() -> None:
    plan = plan_of(PACKAGED / "recipe.yaml")
    runs = [step for step in plan.steps if step.name.startswith("train-student-")]
    assert [step.name.removeprefix("train-student-") for step in runs] == [
        f"{seed}-{kind}" for seed in (1, 2, 3) for kind in ("alone", "distilled")
    ]
    assert [("teacher" in step.inputs) for step in runs] == [False, True] * 3
    assert set(step_of(plan, "model-student").inputs.values()) == {"data", *(step.name for step in runs)}


def test_a_model_that_no_variant_needs_is_not_made(tmp_path: Path) -> None:
    text = (PACKAGED / "recipe.yaml").read_text()
    cut = ("    distillation: {teacher: teacher, temperature: 4, alpha: 0.7}\n", "")
    lines = [line for line in changed(text, cut).splitlines() if "teacher-onnx-fp32" not in line]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    assert not [step.name for step in plan_of(path).steps if "teacher" in step.name]


def test_a_recipe_without_fallback_has_no_calibration_step(tmp_path: Path) -> None:
    text = (PACKAGED / "recipe.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("fallback:")]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    plan = plan_of(path)
    assert "calibrate" not in {step.name for step in plan.steps}
    assert all("calibrate" not in step.inputs for step in plan.steps)


def test_where_a_recipe_lies_is_in_no_config(tmp_path: Path) -> None:
    copy = tmp_path / "recipe.yaml"
    copy.write_text((PACKAGED / "recipe.yaml").read_text())
    assert plan_of(copy) == plan_of(PACKAGED / "recipe.yaml")


def test_the_code_of_a_step_is_its_module_and_what_that_imports() -> None:
    found = code_digests(["toolchain.steps.train_rows", "models.digits.network"])
    wanted = {"toolchain.steps.train_rows", "toolchain.handover.context", "edgeops.errors"}
    assert wanted <= found.keys()
    assert "models.digits.network" in found
    assert not any(name.startswith(("torch", "numpy", "device_agent", "cloud_hub")) for name in found)


def test_code_digests_follow_relative_and_nested_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "recipe_code_under_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text("def f():\n    from . import helper\n    from .deep.more import x\n")
    (package / "helper.py").write_text("y = 1\n")
    (package / "deep").mkdir()
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "more.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = {
        name.removeprefix("recipe_code_under_test") for name in code_digests(["recipe_code_under_test.net"])
    }
    assert names == {"", ".net", ".helper", ".deep", ".deep.more"}


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'models\.nosuch' cannot be found"):
        code_digests(["models.nosuch"])
    with pytest.raises(ConfigError, match="'no-such-distribution' is not installed"):
        tool_versions(["no-such-distribution"])
