"""Steps run in other processes: what they raise arrives, and their death is an error, not a hang."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgeops.errors import ArtifactError, EdgeopsError, GateError
from toolchain.caching.cache import KeyParts
from toolchain.plan.step import Step
from toolchain.running.executor import LocalExecutor, Task
from toolchain.running.forking import CAN_FORK
from toolchain.running.machine import processors

pytestmark = pytest.mark.slow

# Both ways to import ahead.
WAYS = pytest.mark.parametrize(
    "forks", [True, False] if CAN_FORK else [False], ids=lambda forks: "template" if forks else "spare"
)
Expected = tuple[tuple[Step, int], ...]

SKLEARN = ("scikit-learn",)

STEPS = """
import os, signal, sys
from pathlib import Path
from edgeops.errors import GateError

with open(Path(__file__).with_name("pids"), "a") as file:
    print(os.getpid(), file=file)

def run(context):
    do = context.config["do"]
    print("printed by the step")
    if do == "write":
        context.progress(0.5, "half")
        (context.out / "pid").write_text(str(os.getpid()))
        (context.out / "read").write_bytes((context.inputs["before"] / "text").read_bytes())
        (context.out / "records").write_text(repr(context.records))
        (context.out / "imported").write_text(str("sklearn" in sys.modules))
        (context.out / "parent").write_text(str(os.getppid()))
        (context.out / "processors").write_text(str(context.processors))
    elif do == "mark":
        Path(__file__).with_name("timed").touch()
    elif do == "abort":
        os.abort()
    elif do == "leave":
        sys.exit(3)
    elif do == "kill parent":
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
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


@pytest.fixture
def ready(forks: bool, tmp_path: Path) -> Iterator[LocalExecutor]:
    """An executor that has been told to expect a step with scikit-learn."""
    with LocalExecutor(forks=forks) as made:
        run(made, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))
        yield made


def step_that(do: str, **more: Any) -> Step:
    return Step(name=f"step-{do}", module="steps_under_test", meaning="test", config={"do": do}, **more)


def run(
    executor: LocalExecutor,
    folder: Path,
    do: str,
    *,
    expected: Expected = (),
    processors: int = 1,
    **more: Any,
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
        processors=processors,
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


def seen(folder: Path) -> tuple[int, bool]:
    """The process that ran the last step, and whether scikit-learn was in it."""
    return int((folder / "out/pid").read_text()), (folder / "out/imported").read_text() == "True"


@WAYS
def test_what_an_expected_step_needs_is_imported_meanwhile_elsewhere(
    ready: LocalExecutor, tmp_path: Path
) -> None:
    first, imported = seen(tmp_path)
    assert not imported
    run(ready, tmp_path, "write", tools=SKLEARN)
    second, imported = seen(tmp_path)
    assert imported
    assert second != first


@WAYS
def test_a_worker_that_has_it_is_asked_again_if_that_is_expected(
    ready: LocalExecutor, tmp_path: Path
) -> None:
    run(ready, tmp_path, "write", tools=SKLEARN, expected=((step_that("write", tools=SKLEARN), 1),))
    before = seen(tmp_path)
    run(ready, tmp_path, "write", tools=SKLEARN)
    assert seen(tmp_path) == before


def test_an_idle_worker_that_died_is_not_asked(executor: LocalExecutor, tmp_path: Path) -> None:
    run(executor, tmp_path, "write")
    dead = seen(tmp_path)[0]
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    run(executor, tmp_path, "write")
    assert seen(tmp_path)[0] != dead


# It imports until the step after it has run, or for two seconds if that waits.
IMPORTING = """
import time
from pathlib import Path

here = Path(__file__).parents[1]
until = time.monotonic() + 2
while not (ran := (here / "timed").exists()) and time.monotonic() < until:
    time.sleep(0.01)
(here / "ran beside").write_text(str(ran))
"""


@WAYS
def test_a_step_that_measures_time_waits_for_the_imports(tmp_path: Path, forks: bool) -> None:
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn/__init__.py").touch()
    (tmp_path / "sklearn/base.py").write_text(IMPORTING)
    with LocalExecutor(forks=forks) as executor:
        run(executor, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))
        run(executor, tmp_path, "mark", exclusive=True, isolated=True)
    assert (tmp_path / "ran beside").read_text() == "False"


@WAYS
@pytest.mark.parametrize(
    ("do", "how"),
    [
        ("abort", "was ended by SIGABRT"),
        ("leave", "ended with status 3"),
        ("nonsense", "KeyError: 'nonsense'"),
    ],
)
def test_the_end_of_a_prepared_process_is_told_alike(
    ready: LocalExecutor, tmp_path: Path, do: str, how: str
) -> None:
    with pytest.raises(EdgeopsError, match=how) as caught:
        run(ready, tmp_path, do, tools=SKLEARN)
    assert "printed by the step" in caught.value.details["log"]  # type: ignore[operator]
    assert run(ready, tmp_path, "write", tools=SKLEARN), "another worker takes over"


@WAYS
def test_a_stop_ends_what_was_prepared(ready: LocalExecutor, tmp_path: Path) -> None:
    ready.stop()
    with pytest.raises(EdgeopsError, match="was ended by SIGKILL"):
        run(ready, tmp_path, "write", tools=SKLEARN)


def waiting_beside(folder: Path) -> int:
    """Of the two processes that imported the steps, the one that has run none."""
    (pid,) = set(map(int, (folder / "pids").read_text().split())) - {seen(folder)[0]}
    return pid


def test_an_isolated_step_gets_a_process_that_waits_for_it_and_has_nothing_but_its_code(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    expected = step_that("write", tools=SKLEARN, isolated=True)
    run(executor, tmp_path, "write", expected=((expected, 1),))
    run(executor, tmp_path, "write", exclusive=True)  # waits for what is imported
    waiting = waiting_beside(tmp_path)
    run(executor, tmp_path, "write", tools=SKLEARN, isolated=True)
    pid, imported = seen(tmp_path)
    assert pid == waiting
    assert not imported


def test_an_isolated_step_does_not_get_a_process_that_died_waiting(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    expected = step_that("write", isolated=True)
    run(executor, tmp_path, "write", expected=((expected, 1),))
    run(executor, tmp_path, "write", exclusive=True)
    dead = waiting_beside(tmp_path)
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    run(executor, tmp_path, "write", isolated=True)
    assert seen(tmp_path)[0] != dead


def test_a_step_is_told_how_many_processors_there_are_for_it_and_here(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    run(executor, tmp_path, "write")
    assert (tmp_path / "out/processors").read_text() == "1"
    run(executor, tmp_path, "write", processors=1 << 20)
    assert (tmp_path / "out/processors").read_text() == str(processors())


@pytest.mark.skipif(not CAN_FORK, reason="there are templates on Linux only")
class TestTemplate:
    @pytest.fixture
    def forking(self, tmp_path: Path) -> Iterator[LocalExecutor]:
        with LocalExecutor(forks=True) as made:
            run(made, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))
            run(made, tmp_path, "write", tools=SKLEARN)
            yield made

    def test_workers_are_children_of_the_template(self, forking: LocalExecutor, tmp_path: Path) -> None:
        template, first = int((tmp_path / "out/parent").read_text()), seen(tmp_path)[0]
        assert template != os.getpid()
        run(forking, tmp_path, "write", tools=SKLEARN)
        assert seen(tmp_path)[0] != first
        assert int((tmp_path / "out/parent").read_text()) == template

    def test_what_nothing_needs_that_is_expected_is_ended(
        self, forking: LocalExecutor, tmp_path: Path
    ) -> None:
        assert not Path(f"/proc/{seen(tmp_path)[0]}").exists()

    def test_there_is_one_however_many_steps_expect_something(self, tmp_path: Path) -> None:
        expected = tuple((step_that("write", tools=SKLEARN, isolated=alone), 1) for alone in (False, True))
        folders = [tmp_path / str(number) for number in range(6)]
        for folder in folders:
            folder.mkdir()
        with LocalExecutor(6) as executor, ThreadPoolExecutor(6) as threads:
            for _ in threads.map(lambda folder: run(executor, folder, "write", expected=expected), folders):
                pass
            kinds = [child.cmdline()[3] for child in psutil.Process().children()]
        assert kinds.count("toolchain.running.template") == 1
        assert kinds.count("toolchain.running.worker") <= len(folders) + 1

    def test_its_workers_end_with_it_and_others_take_over(
        self, forking: LocalExecutor, tmp_path: Path
    ) -> None:
        with pytest.raises(EdgeopsError, match="step-kill parent was ended by SIGKILL"):
            run(forking, tmp_path, "kill parent", tools=SKLEARN)
        run(forking, tmp_path, "write", tools=SKLEARN)
        assert (tmp_path / "out/parent").read_text() == str(os.getpid())
        run(forking, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))

    def test_it_is_not_forked_with_threads_in_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
        )
        with LocalExecutor(forks=True) as executor:
            run(executor, tmp_path, "write", expected=((step_that("write", tools=SKLEARN), 1),))
            for _ in range(2):  # by a new process, then by a spare one
                run(executor, tmp_path, "write", tools=SKLEARN, isolated=False)
                assert (tmp_path / "out/parent").read_text() == str(os.getpid())
