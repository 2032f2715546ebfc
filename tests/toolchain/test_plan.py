"""The plan: order, what recipes share, and what a step's key follows."""

from pathlib import Path

import pytest

from edgeops.errors import ConfigError
from edgeops_testkit.recipes import PACKAGED
from toolchain.plan import Plan, Step, make_plan
from toolchain.recipe_file import read_recipe
from toolchain.sources import code_digests, tool_versions


def plan_of(name: str) -> Plan:
    return make_plan(read_recipe(PACKAGED / name), created="2026-01-01T00:00:00Z")


def step_of(plan: Plan, name: str) -> Step:
    return next(step for step in plan.steps if step.name == name)


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe-1.1.0.yaml", "recipe-1.2.0.yaml"])
def test_every_step_comes_after_its_inputs_and_the_last_one_packages(name: str) -> None:
    done: set[str] = set()
    for step in plan_of(name).steps:
        assert set(step.inputs.values()) <= done
        done.add(step.name)
    assert plan_of(name).steps[-1].name == "package"


def test_the_three_releases_share_data_and_teacher_but_not_the_student() -> None:
    first, second, third = (plan_of(f"recipe{end}.yaml") for end in ("", "-1.1.0", "-1.2.0"))
    for name in ("data", "teacher", "export-teacher", "evaluate-teacher-onnx-fp32"):
        assert step_of(first, name) == step_of(second, name) == step_of(third, name)
    students = [step_of(plan, "student").config["student"] for plan in (first, second, third)]
    assert students[0] != students[1]
    assert students[1] != students[2]


def test_a_recipe_without_fallback_has_no_calibration_step(tmp_path: Path) -> None:
    text = (PACKAGED / "recipe.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("fallback:")]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    plan = make_plan(read_recipe(path), created="2026-01-01T00:00:00Z")
    assert "calibrate" not in {step.name for step in plan.steps}
    assert all("calibrate" not in step.inputs for step in plan.steps)


def test_the_code_of_a_step_is_its_module_and_what_that_imports() -> None:
    found = code_digests(["toolchain.steps.distil", "models.digits.network"])
    wanted = {"toolchain.steps.distil", "toolchain.steps.training", "toolchain.steps.gain", "edgeops.errors"}
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
