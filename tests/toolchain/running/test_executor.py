"""Steps run in other processes: what they raise arrives, and their death is an error, not a hang."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeops.errors import ArtifactError, EdgeopsError, GateError
from toolchain.caching.cache import KeyParts
from toolchain.plan.step import Step
from toolchain.running.executor import LocalExecutor, Task

pytestmark = pytest.mark.slow

Expected = tuple[tuple[Step, int], ...]

STEPS = """
import os, sys
from pathlib import Path
from edgeops.errors import GateError

def run(context):
    do = context.config["do"]
    print("printed by the step")
    if do == "write":
        context.progress(0.5, "half")
        (context.out / "pid").write_text(str(os.getpid()))
        (context.out / "read").write_bytes((context.inputs["before"] / "text").read_bytes())
        (context.out / "records").write_text(repr(context.records))
        (context.out / "imported").write_text(str("sklearn" in sys.modules))
    elif do == "abort":
        os.abort()
    elif do == "leave":
        sys.exit(3)
    elif do == "own":
        class OwnError(GateError):
            pass
        raise OwnError("own", details={"gates": []})
    elif do == "gate":
        raise GateError("too bad", remedy="try", subject="accuracy", details={"gates": [1]})
    else:
        raise KeyError(do)
"""


@pytest.fixture(autouse=True)
def steps_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps_under_test.py").write_text(STEPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor() as made:
        yield made


def step_that(do: str, **more: Any) -> Step:
    return Step(name=f"step-{do}", module="steps_under_test", meaning="test", config={"do": do}, **more)


def run(
    executor: LocalExecutor, folder: Path, do: str, *, expected: Expected = (), **more: Any
) -> list[tuple[float, str]]:
    step = step_that(do, **more)
    out, before = folder / "out", folder / "before"
    out.mkdir(exist_ok=True)
    before.mkdir(exist_ok=True)
    (before / "text").write_text("input")
    seen: list[tuple[float, str]] = []
    task = Task(
        step=step,
        parts=KeyParts(step=step.name, code={}, tools={}, config={}, inputs={}),
        inputs={"before": before},
        out=out,
        checkpoints=folder,
        records={"a": {"k": "v"}},
        threads=step.threads,
        expected=expected,
    )
    executor.run(task, lambda share, note: seen.append((share, note)))
    return seen


def test_a_step_reads_its_inputs_and_writes_its_output(executor: LocalExecutor, tmp_path: Path) -> None:
    assert run(executor, tmp_path, "write") == [(0.5, "half")]
    assert (tmp_path / "out/read").read_text() == "input"
    assert (tmp_path / "out/records").read_text() == "{'a': {'k': 'v'}}"


def test_ordinary_steps_share_a_process_and_isolated_ones_do_not(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    pids = []
    for isolated in (False, True, False, True):
        run(executor, tmp_path, "write", isolated=isolated)
        pids.append((tmp_path / "out/pid").read_text())
    assert pids[0] == pids[2]
    assert len(set(pids)) == 3


def test_an_error_arrives_whole(executor: LocalExecutor, tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        run(executor, tmp_path, "gate")
    error = caught.value
    assert (error.message, error.remedy, error.subject, error.details) == (
        "too bad",
        "try",
        "accuracy",
        {"gates": [1]},
    )
    assert run(executor, tmp_path, "write"), "the worker goes on after an error"


def test_any_other_exception_names_the_step_and_brings_its_log(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    with pytest.raises(EdgeopsError, match="step-nonsense failed: KeyError: 'nonsense'") as caught:
        run(executor, tmp_path, "nonsense")
    log = "\n".join(caught.value.details["log"])  # type: ignore[call-overload]
    assert "Traceback" in log
    assert "printed by the step" in log


@pytest.mark.parametrize(
    ("do", "more", "kind", "how"),
    [
        ("abort", {"isolated": True}, ArtifactError, "was ended by SIGABRT"),
        ("abort", {"foreign": True}, ArtifactError, "was ended by SIGABRT"),
        ("abort", {}, EdgeopsError, "was ended by SIGABRT"),
        ("leave", {}, EdgeopsError, "ended with status 3"),
    ],
)
def test_the_death_of_a_process_is_an_error(
    executor: LocalExecutor, tmp_path: Path, do: str, more: Any, kind: type[EdgeopsError], how: str
) -> None:
    with pytest.raises(EdgeopsError, match=f"step-{do} {how}") as caught:
        run(executor, tmp_path, do, **more)
    assert type(caught.value) is kind
    assert run(executor, tmp_path, "write"), "a fresh worker takes over"


def test_an_error_class_of_the_recipes_own_arrives_as_the_one_of_ours_below_it(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    with pytest.raises(GateError, match="own") as caught:
        run(executor, tmp_path, "own")
    assert type(caught.value) is GateError


def test_after_a_stop_nothing_runs(executor: LocalExecutor, tmp_path: Path) -> None:
    executor.stop()
    with pytest.raises(EdgeopsError, match="step-write was ended by SIGKILL"):
        run(executor, tmp_path, "write")


SKLEARN = ("scikit-learn",)


def seen(folder: Path) -> tuple[int, bool]:
    """The process that ran the last step, and whether scikit-learn was in it."""
    return int((folder / "out/pid").read_text()), (folder / "out/imported").read_text() == "True"


def test_what_an_expected_step_needs_is_imported_meanwhile_elsewhere(tmp_path: Path) -> None:
    with LocalExecutor(jobs=2) as executor:
        run(executor, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))
        first, imported = seen(tmp_path)
        assert not imported
        run(executor, tmp_path, "write", tools=SKLEARN)
        assert seen(tmp_path)[1]
        assert seen(tmp_path)[0] != first


def test_no_more_processes_are_started_for_what_is_expected_than_jobs(tmp_path: Path) -> None:
    with LocalExecutor(jobs=1) as executor:
        run(executor, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))
        run(executor, tmp_path, "write", tools=SKLEARN)
        assert not seen(tmp_path)[1]


def test_a_step_that_measures_time_waits_for_the_imports(tmp_path: Path) -> None:
    with LocalExecutor(jobs=2) as executor:
        run(executor, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))
        idle = seen(tmp_path)[0]
        # A worker that still imports is not taken by a step that needs nothing of it: both are free by now.
        run(executor, tmp_path, "write", exclusive=True, isolated=True)
        run(executor, tmp_path, "write", tools=SKLEARN)
        assert seen(tmp_path)[1]
        assert seen(tmp_path)[0] != idle


def test_an_isolated_step_is_not_prepared(tmp_path: Path) -> None:
    with LocalExecutor(jobs=2) as executor:
        expected = step_that("write", tools=SKLEARN, isolated=True)
        run(executor, tmp_path, "write", expected=((expected, 1),))
        run(executor, tmp_path, "write", tools=SKLEARN)
        assert not seen(tmp_path)[1]


def test_a_process_that_died_meanwhile_is_not_prepared_but_replaced(tmp_path: Path) -> None:
    with LocalExecutor(jobs=2) as executor:
        run(executor, tmp_path, "write")
        dead = seen(tmp_path)[0]
        os.kill(dead, signal.SIGKILL)
        os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
        run(executor, tmp_path, "write", isolated=True, expected=((step_that("write", tools=SKLEARN), 1),))
        run(executor, tmp_path, "write", tools=SKLEARN)
        assert seen(tmp_path)[0] != dead
