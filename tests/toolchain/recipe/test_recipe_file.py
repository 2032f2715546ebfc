"""A recipe that does not fit is refused with its line and field, and the name that was meant."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import ConfigError
from edgeops_testkit.recipes import PACKAGED, changed
from models.digits.data import CALIBRATION_SHARE, HELD_OUT_SHARE, SPLIT_SEED
from toolchain.recipe.file import find_recipe, parse_recipe, read_recipe

TEXT = (PACKAGED / "recipe.yaml").read_text(encoding="utf-8")
FIRST_GATE = "{metric: accuracy, variant: onnx-int8, at_least: 0.88}"
INT8 = "{id: onnx-int8, model: student, precision: int8, memory_budget_mb: 64}"


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe-1.1.0.yaml", "recipe-1.2.0.yaml"])
def test_packaged_recipes_are_valid_and_hold_out_what_the_package_says(name: str) -> None:
    recipe = read_recipe(PACKAGED / name)
    assert recipe.name == "digits"
    assert recipe.data.seed == SPLIT_SEED
    assert recipe.data.calibration == CALIBRATION_SHARE
    assert recipe.data.held_out == HELD_OUT_SHARE


def refusal(text: str, **options: bool) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text.encode(), "recipe.yaml", **options)
    return caught.value


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
        ("factory: models.digits.data:load", "file: /data/rows.npz", "data.file"),
        ("factory: models.digits.data:load", "file: https://example.org/rows.npz", "data.file"),
        ("temperature: 4, ", "", "models.student.distillation.temperature"),
        ("{epochs: 15,", "{epochs: 0,", "models.teacher.training.epochs"),
        ("{epochs: 12,", "{epochs: many,", "models.student.training.epochs"),
        ("kind: std", "kind: median", "features[1].kind"),
        ("kind: std", "kind: words", "features[1].kind"),
        ("name: pixel_std", "name: pixel_mean", "features[1].name"),
        ("index: 45", "index: 64", "features[6].index"),
        ("id: onnx-fp32", "id: onnx-int8", "variants[1].id"),
        ("fallback: {variant: teacher-onnx-fp32", "fallback: {variant: onnx-fp32", "fallback.variant"),
        (FIRST_GATE, "{metric: accuracy, variant: onnx-int8}", "gates[0]"),
        (FIRST_GATE, "{metric: accuracy, at_least: 0.9, at_most: 0.8}", "gates[0].at_least"),
        (FIRST_GATE, "{metric: accuracy, at_least: 88}", "gates[0].at_least"),
        (FIRST_GATE, "{metric: size_bytes, slice: '3', at_most: 1}", "gates[0].slice"),
        (FIRST_GATE, "{metric: accuracy, slice: site=oslo, at_least: 0.5}", "gates[0].slice"),
        (FIRST_GATE, "{metric: group_gap, at_most: 0.1}", "gates[0].group"),
        (FIRST_GATE, "{metric: accuracy, drop_against: baseline, at_most: 0.1}", "gates[0].drop_against"),
        ("drop_against: onnx-fp32", "drop_against: onnx-int8", "gates[1].drop_against"),
        ("selftest: {rows: 6", "selftest: {rows: 6, rows: 7", "selftest.rows"),
        ("selftest: {rows: 6", "selftest: {rows: 6, [1]: 7", "selftest"),
    ],
)
def test_a_fault_is_told_with_its_line_and_field(old: str, new: str, field: str) -> None:
    line = TEXT[: TEXT.index(old)].count("\n") + 1
    error = refusal(changed(TEXT, (old, new)))
    assert error.subject == field
    assert error.details["line"] == line
    assert f"recipe.yaml, line {line}: {field} " in error.message


@pytest.mark.parametrize(
    ("old", "new", "field", "meant"),
    [
        ("{epochs: 15,", "{epoch: 15,", "models.teacher.training.epoch", "epochs"),
        ("limitations: >-", "limitation: >-", "limitation", "limitations"),
        ("source: python\n    factory: models.digits.network:cnn", "source: pyton", None, "python"),
        ("task: image-classification", "task: image-clasification", "task", "image-classification"),
        (INT8, INT8.replace("precision: int8", "precision: int_8"), "variants[0].precision", "int8"),
        (INT8, INT8.replace("student", "studnet"), "variants[0].model", "student"),
        (INT8, INT8.replace(" memory", " sheme: static, memory"), "variants[0].sheme", "scheme"),
        (FIRST_GATE, "{metric: acuracy, at_least: 0.5}", "gates[0].metric", "accuracy"),
        (FIRST_GATE, "{metric: nll, variant: onxn-int8, at_most: 1}", "gates[0].variant", "onnx-int8"),
        ("drop_against: onnx-fp32", "drop_against: onnx-fp23", "gates[1].drop_against", "onnx-fp32"),
        ("{teacher: teacher,", "{teacher: techer,", "models.student.distillation.teacher", "teacher"),
    ],
)
def test_the_name_that_was_meant_is_suggested(old: str, new: str, field: str | None, meant: str) -> None:
    error = refusal(changed(TEXT, (old, new)))
    assert field is None or error.subject == field
    assert f"Did you mean {meant}?" in str(error)


def test_a_gate_may_name_the_baseline_that_the_build_was_given() -> None:
    gate = "{metric: accuracy, drop_against: baseline, at_most: 0.1}"
    text = changed(TEXT, (FIRST_GATE, gate))
    assert refusal(text).subject == "gates[0].drop_against"
    assert parse_recipe(text.encode(), "recipe.yaml", has_baseline=True).gates[0].drop_against == "baseline"


def test_further_faults_are_told_with_the_first() -> None:
    error = refusal(
        changed(
            TEXT,
            ("version: 1.0.0", "version: one"),
            ("id: onnx-fp32", "id: onnx-int8"),
            ("kind: std", "kind: words"),
        )
    )
    faults = error.details["faults"]
    assert isinstance(faults, list)
    fields = [fault["field"] for fault in faults]
    assert fields[0] == "version" == error.subject
    assert {"features[1].kind", "variants[1].id"} <= set(fields)
    for fault in faults[1:]:
        assert f"line {fault['line']} ({fault['field']})" in str(error)


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


_WORDS = st.sampled_from(
    [
        "student",
        "teacher",
        "int8",
        "onnx",
        "auto",
        "BYTES",
        "baseline",
        "",
        "a=b",
        "../x",
        "/x",
        "[",
        "text-generation",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(data=st.data())
def test_whatever_one_field_holds_the_error_is_ours_and_names_a_line(data: st.DataObject) -> None:
    import yaml

    value = yaml.safe_load(TEXT)
    at = value
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(_VALUES)
    text = yaml.dump(value, Dumper=yaml.CSafeDumper)
    try:
        parse_recipe(text.encode(), "recipe.yaml")
    except ConfigError as error:
        assert error.message.startswith("recipe.yaml, line ")
        assert isinstance(error.details["line"], int)
        assert 1 <= error.details["line"] <= text.count("\n") + 1


def test_recipes_are_found_by_file_folder_and_packaged_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(TEXT)
    assert find_recipe(str(tmp_path)) == tmp_path / "recipe.yaml"
    assert find_recipe(str(tmp_path / "recipe.yaml")) == tmp_path / "recipe.yaml"
    assert find_recipe("digits") == PACKAGED / "recipe.yaml"
    assert find_recipe("digits/recipe-1.1.0.yaml") == PACKAGED / "recipe-1.1.0.yaml"
    with pytest.raises(ConfigError, match="no recipe 'nosuch'"):
        find_recipe("nosuch")
