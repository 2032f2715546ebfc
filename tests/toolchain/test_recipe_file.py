"""A recipe that does not fit is refused with its line and field."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import ConfigError
from edgeops_testkit.recipes import PACKAGED, changed
from models.digits.data import CALIBRATION_SHARE, HELD_OUT_SHARE, SPLIT_SEED
from toolchain.recipe_file import find_recipe, parse_recipe, read_recipe

TEXT = (PACKAGED / "recipe.yaml").read_text(encoding="utf-8")
FIRST_GATE = "{metric: accuracy, variant: onnx-int8, at_least: 0.88}"


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe-1.1.0.yaml", "recipe-1.2.0.yaml"])
def test_packaged_recipes_are_valid_and_hold_out_what_the_package_says(name: str) -> None:
    recipe = read_recipe(PACKAGED / name)
    assert recipe.name == "digits"
    assert recipe.data.seed == SPLIT_SEED
    assert recipe.data.calibration == CALIBRATION_SHARE
    assert recipe.data.held_out == HELD_OUT_SHARE


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("name: digits\n", "name: Digits!\n", "name"),
        ("version: 1.0.0", "version: 1.0", "version"),
        ("version: 1.0.0", 'version: "1.0"', "version"),
        ('schema_version: "1.0"', 'schema_version: "2.0"', "schema_version"),
        ("calibration: 0.15", "calibration: 1.5", "data.calibration"),
        ("held_out: 0.3", "held_out: 0.9", "data.held_out"),
        ("minimum: 0, maximum: 16}", "minimum: 16, maximum: 16}", "input.minimum"),
        ("minimum: 0, maximum: 16}", "minimum: .nan, maximum: 16}", "input.minimum"),
        ("shape: [1, 8, 8]", "shape: [1, eight, 8]", "input.shape[1]"),
        ("factory: models.digits.data:load", "factory: models.digits.data", "data.factory"),
        ("{epochs: 15,", "{epochs: 0,", "teacher.training.epochs"),
        ("{epochs: 15,", "{epoch: 15,", "teacher.training.epoch"),
        ("temperature: 4, ", "", "student.distillation.temperature"),
        ("kind: std", "kind: median", "features[1].kind"),
        ("name: pixel_std", "name: pixel_mean", "features[1].name"),
        ("id: onnx-fp32", "id: onnx-int8", "variants[1].id"),
        ("fallback: {variant: teacher-onnx-fp32", "fallback: {variant: onnx-fp32", "fallback.variant"),
        (FIRST_GATE, "{metric: speed, variant: onnx-int8, at_least: 1}", "gates[0].metric"),
        (FIRST_GATE, "{metric: accuracy, variant: nobody, at_least: 1}", "gates[0].variant"),
        (FIRST_GATE, "{metric: accuracy, variant: onnx-int8}", "gates[0]"),
        (FIRST_GATE, "{metric: nll, slice: '3', variant: onnx-int8, at_most: 1}", "gates[0].slice"),
        ("drop_against: onnx-fp32", "drop_against: nobody", "gates[1].drop_against"),
        ("selftest: {rows: 6", "selftest: {rows: 6, rows: 7", "selftest.rows"),
        ("selftest: {rows: 6", "selftest: {rows: 6, [1]: 7", "selftest"),
    ],
)
def test_a_fault_is_told_with_its_line_and_field(old: str, new: str, field: str) -> None:
    line = TEXT[: TEXT.index(old)].count("\n") + 1
    with pytest.raises(ConfigError) as caught:
        parse_recipe(changed(TEXT, (old, new)).encode(), "recipe.yaml")
    assert caught.value.subject == field
    assert caught.value.details["line"] == line
    assert f"recipe.yaml, line {line}: {field} " in caught.value.message


def test_broken_yaml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.yaml, line 3: this is not valid YAML"):
        parse_recipe(b"name: digits\ngates: [1, 2\nversion: 1\n", "recipe.yaml")


def test_a_small_file_cannot_blow_up() -> None:
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    with pytest.raises(ConfigError, match="too large"):
        parse_recipe(f"a0: &a0 [x]\n{levels}\n".encode(), "recipe.yaml")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="deep"),
        pytest.param("a: &a [*a]", id="recursive"),
        pytest.param("date: 2026-13-45", id="no such day"),
        pytest.param("a: !!python/object:os.system x", id="object"),
        pytest.param("a\0b", id="control character"),
        pytest.param("a: " + "9" * 5_000, id="huge number"),
    ],
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_recipe(text.encode(), "recipe.yaml")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_whatever_the_bytes_the_error_is_ours(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_recipe(data, "recipe.yaml")


def test_recipes_are_found_by_file_folder_and_packaged_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TEXT)
    assert find_recipe(str(tmp_path)) == tmp_path / "recipe.yaml"
    assert find_recipe(str(tmp_path / "recipe.yaml")) == tmp_path / "recipe.yaml"
    assert find_recipe("digits") == PACKAGED / "recipe.yaml"
    assert find_recipe("digits/recipe-1.1.0.yaml") == PACKAGED / "recipe-1.1.0.yaml"
    with pytest.raises(ConfigError, match="no recipe 'nosuch'"):
        find_recipe("nosuch")
