"""Plans run in real worker processes: side by side where they may, with the same outcome however many."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeops.errors import ArtifactError, ConfigError, EdgeopsError, GateError
from edgeops_testkit.toy_plans import Seen, run_toy, toy_environment, toy_plan
from toolchain.caching.cache import StepCache
from toolchain.plan import Plan
from toolchain.running.executor import LocalExecutor
from toolchain.running.runner import run_plan

pytestmark = pytest.mark.slow

Steps = dict[str, dict[str, Any]]

DIAMOND: Steps = {
    "a": {},
    "b": {"inputs": ["a"]},
    "c": {"inputs": ["a"]},
    "d": {"inputs": ["b"], "exclusive": True},
    "e": {"inputs": ["b", "c"], "isolated": True, "threads": 3},
    "f": {"inputs": ["d", "e"], "attests": True},
}


@pytest.fixture(autouse=True)
def toy_steps_are_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", toy_environment()["PYTHONPATH"])
    yield


def digests(steps: Steps, root: Path, jobs: int) -> dict[str, str]:
    outcome = run_toy(toy_plan(steps), root, jobs)
    assert outcome.steps_run == tuple(steps)
    return {name: entry.digest for name, entry in outcome.entries.items()}


def test_the_outcome_does_not_depend_on_how_many_run_at_once(tmp_path: Path) -> None:
    assert digests(DIAMOND, tmp_path / "1", 1) == digests(DIAMOND, tmp_path / "4", 4)


def test_a_second_run_keeps_everything_and_starts_no_process(tmp_path: Path) -> None:
    first = run_toy(toy_plan(DIAMOND), tmp_path, 2)
    seen = Seen()
    second = run_toy(toy_plan(DIAMOND), tmp_path, 2, seen)
    assert second.steps_run == ()
    assert second.entries == first.entries
    assert sorted(seen.of("keep")) == sorted(DIAMOND)
    assert seen.of("run") == []


def meeting(place: Path, names: list[str]) -> Steps:
    place.mkdir()
    return {name: {"do": "meet", "place": str(place), "others": names} for name in names}


def test_independent_steps_run_at_the_same_time(tmp_path: Path) -> None:
    steps = meeting(tmp_path / "place", ["a", "b", "c"])
    assert run_toy(toy_plan(steps), tmp_path / "cache", 3).steps_run == ("a", "b", "c")


def test_an_exclusive_step_runs_alone(tmp_path: Path) -> None:
    seen = Seen()
    steps: Steps = {"a": {"exclusive": True}, "b": {}, "c": {"exclusive": True}, "d": {}}
    run_toy(toy_plan(steps), tmp_path, 4, seen)
    running: set[str] = set()
    for what, name in seen.events:
        if what == "run":
            running.add(name)
        elif what == "done":
            running.remove(name)
        assert running in ({"a"}, {"c"}) or not running & {"a", "c"}
    assert sorted(seen.of("done")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("jobs", [1, 4])
def test_the_first_error_of_the_plan_is_raised_however_many_run_at_once(tmp_path: Path, jobs: int) -> None:
    until = tmp_path / "b ran"
    until.touch()
    steps: Steps = {
        "a": {},
        "b": {"do": "wait_and_fail", "until": str(until), "inputs": ["a"]},
        "c": {"do": "gate"},
        "d": {"inputs": ["a"]},
        "e": {"inputs": ["c"]},
    }
    seen = Seen()
    with pytest.raises(GateError, match="b is too bad"):
        run_toy(toy_plan(steps), tmp_path / "cache", jobs, seen)
    assert "e" not in seen.of("run")


def test_what_runs_when_another_fails_is_kept(tmp_path: Path) -> None:
    until = tmp_path / "go"
    steps: Steps = {"bad": {"do": "gate"}, "good": {"do": "hold", "until": str(until)}, "later": {}}

    class Watching(Seen):
        def failed(self, step: Any) -> None:
            super().failed(step)
            until.touch()

    seen = Watching()
    with pytest.raises(GateError):
        run_toy(toy_plan(steps), tmp_path / "cache", 2, seen)
    assert seen.of("done") == ["good"]
    assert "later" not in seen.of("run")
    again = Seen()
    run_toy(toy_plan({"good": steps["good"]}), tmp_path / "cache", 2, again)
    assert again.of("keep") == ["good"]


def run_beside(plan: Plan, root: Path, seen: Seen) -> list[str]:
    """Runs a plan; what had happened when what follows it was prepared, one name a call."""
    calls: list[str] = []
    with StepCache(root) as cache, LocalExecutor(1) as executor:
        run_plan(plan, cache, executor, seen, meanwhile=lambda: calls.append(str(seen.of("done"))))
    return calls


def test_what_follows_is_prepared_once_nothing_will_be_measured(tmp_path: Path) -> None:
    plan = toy_plan({"a": {}, "b": {"inputs": ["a"], "exclusive": True}, "c": {"inputs": ["b"]}})
    assert run_beside(plan, tmp_path, Seen()) in (["['a', 'b']"], ["['a', 'b', 'c']"])
    assert run_beside(plan, tmp_path, Seen()) == []


def test_an_error_in_preparing_what_follows_is_not_the_plans(tmp_path: Path) -> None:
    def fail() -> None:
        raise ImportError("no such library")

    with StepCache(tmp_path) as cache, LocalExecutor(1) as executor:
        outcome = run_plan(toy_plan({"a": {}}), cache, executor, Seen(), meanwhile=fail)
    assert outcome.steps_run == ("a",)


def test_a_step_whose_code_cannot_be_found_is_an_error_in_its_turn(tmp_path: Path) -> None:
    plan = toy_plan({"a": {}, "b": {"inputs": ["a"]}})
    broken = type(plan)(plan.label, (plan.steps[0], type(plan.steps[1])("b", "no.such", "", {}, {"a": "a"})))
    seen = Seen()
    with pytest.raises(ConfigError, match=r"'no\.such' cannot be found"):
        run_toy(broken, tmp_path, 2, seen)
    assert seen.of("done") == ["a"]


def test_files_count_by_their_content_and_not_by_their_place(tmp_path: Path) -> None:
    for name, text in (("one", "same"), ("two", "same"), ("three", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text(text)
    entries, ran = {}, {}
    for name in ("one", "two", "three"):
        outcome = run_toy(toy_plan({"a": {"files": {"model": str(tmp_path / name)}}}), tmp_path / "cache", 1)
        entries[name], ran[name] = outcome.entries["a"], outcome.steps_run
    assert (ran["one"], ran["two"], ran["three"]) == (("a",), (), ("a",))
    assert entries["one"].digest == entries["two"].digest != entries["three"].digest
    assert (entries["three"].folder / "text").read_text().endswith("model model other")


def test_a_file_that_changes_while_a_step_reads_it_is_an_error_and_nothing_is_kept(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_text("before")
    plan = toy_plan({"a": {"do": "change", "files": {"model": str(model)}}})
    with pytest.raises(ConfigError, match="changed while the step a read it"):
        run_toy(plan, tmp_path / "cache", 1)
    assert list((tmp_path / "cache" / "steps").glob("*")) == []


def test_a_role_cannot_be_filled_twice(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("x")
    steps: Steps = {"a": {}, "b": {"inputs": ["a"], "files": {"a": str(tmp_path / "model")}}}
    with pytest.raises(ValueError, match="both a step and a file"):
        run_toy(toy_plan(steps), tmp_path / "cache", 1)


def test_workers_get_their_threads_and_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPS_KEY_PASSPHRASE", "sesame")
    monkeypatch.setenv("EDGEOPS_KEY_PIN", "1234")
    steps: Steps = {
        "one": {"do": "tell"},
        "three": {"do": "tell", "threads": 3},
        "too many": {"do": "tell", "threads": 99},
    }
    entries = run_toy(toy_plan(steps), tmp_path, 4).entries
    told = {name: (entry.folder / "threads").read_text() for name, entry in entries.items()}
    assert told == {"one": "1 1", "three": "3 3", "too many": "4 4"}
    assert {(entry.folder / "secrets").read_text() for entry in entries.values()} == {""}


def test_a_checkpoint_is_gone_once_the_step_is_done(tmp_path: Path) -> None:
    plan = toy_plan({"a": {"do": "count", "to": 3, "hold_at": 99, "until": ""}})
    run_toy(plan, tmp_path, 1)
    assert list((tmp_path / "partial").iterdir()) == []
    assert list((tmp_path / "staging").iterdir()) == []


def test_the_death_of_a_worker_is_the_steps_error_and_others_go_on(tmp_path: Path) -> None:
    steps: Steps = {"a": {"do": "abort"}, "b": {"do": "abort", "isolated": True}}
    with pytest.raises(EdgeopsError, match="a was ended by SIGABRT") as caught:
        run_toy(toy_plan(steps), tmp_path, 2)
    assert not isinstance(caught.value, ArtifactError)
    with pytest.raises(ArtifactError, match="b was ended by SIGABRT"):
        run_toy(toy_plan({"b": steps["b"]}), tmp_path, 2)


def test_an_interrupted_run_ends_its_workers(tmp_path: Path) -> None:
    class Impatient(Seen):
        def progressed(self, step: Any, share: float, note: str) -> None:
            raise KeyboardInterrupt

    plan = toy_plan({"a": {"do": "hold", "until": str(tmp_path / "never")}})
    with (
        StepCache(tmp_path / "cache") as cache,
        LocalExecutor(2) as executor,
        pytest.raises(KeyboardInterrupt),
    ):
        run_plan(plan, cache, executor, Impatient())
    assert list((tmp_path / "cache" / "steps").glob("*")) == []
    assert list((tmp_path / "cache" / "staging").iterdir()) == []
