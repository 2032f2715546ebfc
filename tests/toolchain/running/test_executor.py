"""Steps run in other processes: what they raise arrives, and their death is an error, not a hang."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeops.errors import ArtifactError, EdgeopsError, GateError
from toolchain.caching.cache import KeyParts
from toolchain.plan.step import Step
from toolchain.running.executor import LocalExecutor, Task

pytestmark = pytest.mark.slow

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


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalExecutor]:
    (tmp_path / "steps_under_test.py").write_text(STEPS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalExecutor() as made:
        yield made


def run(executor: LocalExecutor, folder: Path, do: str, *, isolated: bool = False) -> list[tuple[float, str]]:
    step = Step(
        name=f"step-{do}", module="steps_under_test", meaning="test", config={"do": do}, isolated=isolated
    )
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
    ("do", "isolated", "kind", "how"),
    [
        ("abort", True, ArtifactError, "was ended by SIGABRT"),
        ("abort", False, EdgeopsError, "was ended by SIGABRT"),
        ("leave", False, EdgeopsError, "ended with status 3"),
    ],
)
def test_the_death_of_a_process_is_an_error(
    executor: LocalExecutor, tmp_path: Path, do: str, isolated: bool, kind: type[EdgeopsError], how: str
) -> None:
    with pytest.raises(EdgeopsError, match=f"step-{do} {how}") as caught:
        run(executor, tmp_path, do, isolated=isolated)
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
