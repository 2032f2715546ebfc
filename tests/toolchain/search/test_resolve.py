"""A search by the build's own steps, and the lock file that is followed until the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeops.errors import ConfigError, GateError
from edgeops_testkit.recipes import changed, small_recipe
from toolchain.build import read_source, run_source
from toolchain.caching.cache import StepCache
from toolchain.plan import Plan
from toolchain.recipe import Recipe
from toolchain.recipe.file import read_recipe
from toolchain.recipe.lock import AGAIN, lock_path, read_lock, write_lock
from toolchain.running.executor import LocalExecutor
from toolchain.running.machine import machine_facts
from toolchain.running.runner import Outcome, run_plan
from toolchain.running.view import LineView
from toolchain.search.candidates import candidates
from toolchain.search.resolve import Resolved, resolve

SEARCH = """\
variants: auto
search:
  {model: student, formats: [onnx], metric: accuracy, max_drop: 0.2, memory_budget_mb: 64, max_variants: 2,
   keep: [{id: teacher-onnx-fp32, model: teacher, precision: fp32, memory_budget_mb: 64, target: cloud}]}

"""


def auto_recipe(folder: Path, *changes: tuple[str, str]) -> Path:
    """The small digits recipe with a search instead of its variants."""
    path = small_recipe(folder)
    text = path.read_text()
    listed = text[text.index("# In the order") : text.index("features:")]
    gates = text[text.index("gates:") :]
    text = changed(text, (listed, SEARCH), (gates, "gates:\n  - {metric: accuracy, at_least: 0.01}\n"))
    path.write_text(changed(text, *changes))
    return path


@dataclass
class Desk:
    """Runs plans for a search and counts the steps that ran."""

    cache: StepCache
    executor: LocalExecutor
    steps_run: list[str]

    def run(self, plan: Plan) -> Outcome:
        outcome = run_plan(plan, self.cache, self.executor, LineView(explain=False))
        self.steps_run += outcome.steps_run
        return outcome

    def resolve(self, path: Path, *, search: bool = False, lock: Path | None = None) -> Resolved:
        self.steps_run.clear()
        return resolve(read_recipe(path), path, search=search, lock=lock, run=self.run)


def must_not_run(plan: Plan) -> Outcome:
    raise AssertionError(f"{plan.label} was searched")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with LocalExecutor() as executor, StepCache(tmp_path_factory.mktemp("cache")) as cache:
        yield Desk(cache, executor, [])


@pytest.fixture(scope="module")
def searched(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Resolved]:
    """A recipe that was searched for, with its lock file beside it."""
    path = auto_recipe(tmp_path_factory.mktemp("recipe"))
    return path, desk.resolve(path)


@pytest.fixture
def copied(searched: tuple[Path, Resolved], tmp_path: Path) -> Path:
    """The recipe and its lock in a folder of the test's own."""
    path = searched[0]
    for file in (path, lock_path(path)):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / path.name


def told(recipe: Recipe) -> list[str]:
    return [variant.id for variant in recipe.listed]


@pytest.mark.slow
def test_every_candidate_is_kept_or_rejected_with_a_reason(searched: tuple[Path, Resolved]) -> None:
    path, resolved = searched
    lock = read_lock(lock_path(path))
    assert lock is not None
    ids = {spec.id for spec in candidates(read_recipe(path))}
    chosen = [one.variant.id for one in lock.variants]
    assert {*chosen, *(one.id for one in lock.rejected)} == ids
    assert 1 <= len(chosen) <= 2
    assert told(resolved.recipe) == [*chosen, "teacher-onnx-fp32"]
    assert all(one.reason for one in lock.rejected)
    for one in lock.variants:
        assert one.figures["size_bytes"] > 0
        assert one.figures["latency_p50_ms"] > 0
        assert lock.reference - one.figures["accuracy"] <= 0.2
    assert resolved.outcome is not None
    assert resolved.outcome["lock"] == "recipe.lock.yaml"
    assert resolved.outcome["machine"] == lock.machine == machine_facts()
    assert len(resolved.outcome["variants"]) == len(chosen)


@pytest.mark.slow
def test_the_lock_is_followed_and_nothing_runs(searched: tuple[Path, Resolved], copied: Path) -> None:
    again = resolve(read_recipe(copied), copied, search=False, lock=None, run=must_not_run)
    assert again.recipe == searched[1].recipe
    # To the letter, since it stands in the bundle.
    assert json.dumps(again.outcome) == json.dumps(searched[1].outcome)


@pytest.mark.slow
def test_another_search_finds_its_steps_cached_and_writes_the_same_lock(desk: Desk, copied: Path) -> None:
    before = lock_path(copied).read_bytes()
    desk.resolve(copied, search=True)
    assert desk.steps_run == []
    assert lock_path(copied).read_bytes() == before


@pytest.mark.slow
def test_the_build_that_follows_evaluates_nothing_again(desk: Desk, searched: tuple[Path, Resolved]) -> None:
    from toolchain.plan import make_plan

    path, resolved = searched
    plan = make_plan(resolved.recipe, folder=path.parent, created="2026-01-01T00:00:00Z")
    own = [f"evaluate-{name}" for name in told(resolved.recipe) if name != "teacher-onnx-fp32"]
    steps = {step.name: step for step in plan.steps}
    assert set(own) <= steps.keys()
    ends = plan.steps.index(steps[own[-1]])
    desk.steps_run.clear()
    desk.run(Plan(plan.label, plan.steps[: ends + 1]))
    ran = [name for name in desk.steps_run if "teacher" not in name]
    assert ran == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("max_drop: 0.2", "max_drop: 0.1", "search section is another"),
        ("max_variants: 2", "max_variants: 1", "search section is another"),
        ("hidden: [32]", "hidden: [16]", "the model or its data are others"),
        ("channels: 2, hidden: 8", "channels: 3, hidden: 8", "the model or its data are others"),
        ("seed: 20260101", "seed: 7", "the model or its data are others"),
    ],
)
def test_a_lock_made_for_something_else_is_refused(copied: Path, old: str, new: str, what: str) -> None:
    copied.write_text(changed(copied.read_text(), (old, new)))
    with pytest.raises(ConfigError, match=what) as caught:
        resolve(read_recipe(copied), copied, search=False, lock=None, run=must_not_run)
    assert caught.value.remedy == AGAIN


@pytest.mark.slow
def test_what_does_not_decide_the_choice_leaves_the_lock_valid(copied: Path) -> None:
    text = changed(
        copied.read_text(), ("version: 1.0.0", "version: 1.0.1"), ("selftest: {rows: 6", "selftest: {rows: 5")
    )
    copied.write_text(text)
    assert (
        resolve(read_recipe(copied), copied, search=False, lock=None, run=must_not_run).recipe.version
        == "1.0.1"
    )


@pytest.mark.slow
def test_the_page_of_a_build_that_fails_tells_of_the_search_too(
    desk: Desk, copied: Path, tmp_path: Path
) -> None:
    gate = "gates:\n  - {metric: size_bytes, variant: teacher-onnx-fp32, at_most: 1}\n"
    text = copied.read_text()
    copied.write_text(changed(text, (text[text.index("gates:") :], gate)))
    plan = read_source(str(copied)).resolved(must_not_run).plan()
    with pytest.raises(GateError):
        run_source(plan, tmp_path, desk.cache, desk.executor, LineView(explain=False), jobs=None)
    page = (tmp_path / f"{plan.label}.report.html").read_text()
    assert "follows the choice in the lock file recipe.lock.yaml" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("schema_version: '1.0'", "schema_version: '2.0'"),
        ("schema_version", "schema_versoin"),
        ("precision: ", "precision: q4_0 #"),
        ("model: student", "model: nobody"),
        ("id: onnx", "id: Onnx!"),
    ],
)
def test_a_lock_that_a_hand_spoiled_is_refused(copied: Path, old: str, new: str) -> None:
    file = lock_path(copied)
    file.write_text(changed(file.read_text(), (old, new)))
    with pytest.raises(ConfigError) as caught:
        resolve(read_recipe(copied), copied, search=False, lock=None, run=must_not_run)
    assert "recipe.lock.yaml" in caught.value.message


@pytest.mark.slow
def test_another_place_for_the_lock(copied: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.yaml"
    other.write_bytes(lock_path(copied).read_bytes())
    lock_path(copied).unlink()
    assert (
        resolve(read_recipe(copied), copied, search=False, lock=other, run=must_not_run).outcome is not None
    )
    with pytest.raises(ConfigError, match="there is no such folder") as caught:
        missing = tmp_path / "no" / "x.yaml"
        resolve(read_recipe(copied), copied, search=False, lock=missing, run=must_not_run)
    assert "--lock FILE" in str(caught.value)


@pytest.mark.slow
def test_a_lock_is_read_as_it_was_written(searched: tuple[Path, Resolved], tmp_path: Path) -> None:
    lock = read_lock(lock_path(searched[0]))
    assert lock is not None
    write_lock(tmp_path / "copy.yaml", lock)
    assert read_lock(tmp_path / "copy.yaml") == lock
    assert (tmp_path / "copy.yaml").read_bytes() == lock_path(searched[0]).read_bytes()
    assert read_lock(tmp_path / "none.yaml") is None


@pytest.mark.slow
def test_if_nothing_fits_nothing_is_written_and_every_reason_told(desk: Desk, tmp_path: Path) -> None:
    path = auto_recipe(tmp_path, ("at_least: 0.01", "at_least: 1"))
    with pytest.raises(GateError, match="can be kept") as caught:
        desk.resolve(path)
    details: Any = caught.value.details["search"]
    assert len(details["rejected"]) == len(candidates(read_recipe(path)))
    assert all("accuracy" in one["reason"] or "refused" in one["reason"] for one in details["rejected"])
    assert not lock_path(path).exists()


@pytest.mark.slow
def test_what_all_candidates_need_fails_as_in_a_build(desk: Desk, tmp_path: Path) -> None:
    path = auto_recipe(tmp_path, ("factory: models.digits.data:load", "factory: models.digits.data:nothing"))
    with pytest.raises(ConfigError, match=r"models\.digits\.data:nothing"):
        desk.resolve(path)
    assert not lock_path(path).exists()


def test_a_name_that_is_kept_must_not_be_a_candidates(tmp_path: Path) -> None:
    path = auto_recipe(tmp_path)
    path.write_text(path.read_text().replace("teacher-onnx-fp32", "onnx-fp32"))
    with pytest.raises(ConfigError, match="the name of a candidate"):
        resolve(read_recipe(path), path, search=False, lock=None, run=must_not_run)


def test_a_recipe_that_lists_its_variants_stays_as_it_is(tmp_path: Path) -> None:
    path = small_recipe(tmp_path)
    recipe = read_recipe(path)
    assert resolve(recipe, path, search=False, lock=None, run=must_not_run) == Resolved(recipe, None)
    for options in ({"search": True, "lock": None}, {"search": False, "lock": tmp_path / "x.yaml"}):
        with pytest.raises(ConfigError, match="lists its variants"):
            resolve(recipe, path, run=must_not_run, **options)  # type: ignore[arg-type]


def test_candidates_are_what_formats_and_source_allow(tmp_path: Path) -> None:
    recipe = read_recipe(auto_recipe(tmp_path))
    onnx = [spec.id for spec in candidates(recipe)]
    assert onnx[:3] == ["onnx-fp32", "onnx-int8-dynamic", "onnx-int8-static-minmax"]
    assert len(set(onnx)) == len(onnx)
    assert recipe.search is not None
    language = msgspec.structs.replace(
        recipe,
        task="text-generation",
        search=msgspec.structs.replace(recipe.search, formats=("mlx", "gguf", "onnx")),
    )
    ids = [spec.id for spec in candidates(language)]
    assert ids[0] == "mlx-8bit-g32"
    assert "gguf-q4_k_m-imatrix" in ids
    assert not any("static" in name for name in ids)
