"""`edgeops cache ls` and `prune`, and what a terminal sees of a build."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from edgeops.clock import now_ms
from edgeops_testkit.recipes import Builder, SmallBuild
from toolchain.build import Built
from toolchain.plan.step import Step
from toolchain.running.view import LineView, LiveView, print_summary

# What `edgeops cache` does, without an entry point.
CACHE = [sys.executable, "-P", "-c", "from toolchain.commands import cache; cache()"]


def cache(builder: Builder, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*CACHE, *arguments], env=builder.environment(COLUMNS="120"), capture_output=True, text=True
    )


def data(builder: Builder, *arguments: str) -> dict[str, Any]:
    done = cache(builder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_what_a_build_keeps_is_listed_and_goes_in_its_time(tmp_path: Path, small_build: SmallBuild) -> None:
    builder = Builder.at(tmp_path)
    assert data(builder, "ls")["entries"] == []
    builder.build(small_build.recipe)
    found = data(builder, "ls")
    steps = {entry["step"] for entry in found["entries"]}
    assert steps == set(small_build.line["steps_run"]) - {"sign"}
    assert all(entry["builds"] == ["digits-1.0.0"] for entry in found["entries"])
    assert found["size_bytes"] == sum(entry["size_bytes"] for entry in found["entries"])
    table = cache(builder, "ls").stdout
    assert "package" in table
    assert "digits-1.0.0" in table

    assert data(builder, "prune", "--keep-days", "1")["entries"] == []
    old = now_ms() / 1000 - 40 * 86400
    for path in (builder.home / "cache/build/steps").glob("*/entry.json"):
        if json.loads(path.read_bytes())["parts"]["step"] != "data":
            os.utime(path, (old, old))
    told = data(builder, "prune", "--keep-days", "30", "--dry-run")
    assert len(told["entries"]) == len(steps) - 1
    assert "Would remove" in cache(builder, "prune", "--keep-days", "30", "--dry-run").stdout
    done = data(builder, "prune", "--keep-days", "30")
    assert (done["freed_bytes"], len(done["entries"])) == (told["freed_bytes"], len(steps) - 1)
    assert [entry["step"] for entry in data(builder, "ls")["entries"]] == ["data"]
    assert builder.build(small_build.recipe)["steps_run"] == [
        step for step in small_build.line["steps_run"] if step not in ("data", "sign")
    ]


@pytest.mark.slow
def test_days_are_asked_for_and_not_negative(tmp_path: Path) -> None:
    builder = Builder.at(tmp_path)
    assert cache(builder, "prune").returncode == 2
    assert cache(builder, "prune", "--keep-days", "-1").returncode == 2


def step(name: str) -> Step:
    return Step(name=name, module="", meaning=f"make [{name}]", config={})


def live() -> tuple[LiveView, Progress, io.StringIO]:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, _environ={})
    progress = Progress(TextColumn("{task.description}", markup=False), BarColumn(), console=console)
    return LiveView(progress, explain=True), progress, shown


def test_a_terminal_sees_a_bar_for_each_running_step_and_one_for_all() -> None:
    view, progress, shown = live()
    view.planned(3)
    view.started(step("a"), "config x changed")
    view.started(step("b"), "config y changed")
    view.progressed(step("b"), 0.25, "half of it")
    bars = {task.description: (task.completed, task.fields["note"]) for task in progress.tasks}
    assert bars == {"all steps": (0, "0 of 3"), "make [a]": (0, ""), "make [b]": (0.25, "half of it")}
    view.finished(step("a"))
    view.reused(step("c"), "nothing that decides it changed")
    view.failed(step("b"))
    assert [(task.description, task.fields["note"]) for task in progress.tasks] == [("all steps", "2 of 3")]
    text = shown.getvalue()
    for line in ("run    a: config x changed", "done   make [a]", "keep   c: nothing", "fail   make [b]"):
        assert line in text


def test_a_step_that_another_build_makes_is_shown_until_it_is_there() -> None:
    view, progress, _ = live()
    view.planned(2)
    view.waiting(step("a"))
    assert [task.fields["note"] for task in progress.tasks] == ["0 of 2", "another build makes it"]
    view.reused(step("a"), "another build made it meanwhile")
    assert [task.fields["note"] for task in progress.tasks] == ["1 of 2"]


def test_a_log_gets_a_line_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    view = LineView(explain=True)
    view.planned(4)
    view.waiting(step("w"))
    view.started(step("a"), "config x changed")
    view.progressed(step("a"), 0.5, "half")
    view.finished(step("a"))
    view.started(step("b"), "new")
    view.failed(step("b"))
    view.reused(step("c"), "same")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0].split(" after ")[0] for line in lines] == [
        "wait   w: another build makes it",
        "run    a (make [a]): config x changed",
        "done   a",
        "run    b (make [b]): new",
        "fail   b",
        "keep   c: same",
    ]


def test_the_summary_is_a_table_in_which_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a-variant-with-a-name-of-many-characters-that-would-not-fit-on-a-terminal-of-eighty-columns"
    built = Built(
        path=Path("out/digits-1.0.0"),
        digest="ab" * 32,
        variants=(
            {"id": long, "target": "device", "quality": {"accuracy": 0.98765}, "size_bytes": 1234567},
            {"id": "b", "target": "gateway", "quality": {}, "size_bytes": 8},
        ),
        main_metric="accuracy",
        gates=({}, {}),
        measurements={
            "variants": {
                long: {"latency_p50_ms": 0.5, "latency_p99_ms": 12.25, "memory_bytes": 3 << 20},
                "b": {"memory_bytes": 1 << 30},
            }
        },
        remarks=("The first remark.",),
        steps_run=(),
    )
    print_summary(built)
    lines = capsys.readouterr().out.splitlines()
    gap = " " * (len(long) - 1)
    assert lines == [
        "",
        f" variant{' ' * (len(long) - 7)}   runs on   accuracy       bytes   p50 ms    p99 ms      MiB",
        " " + "-" * (len(long) + 61),
        f" {long}   device      0.9877   1,234,567   0.5000   12.2500      3.0",
        f" b{gap}   gateway          -           8        -         -   1024.0",
        "",
        "- The first remark.",
        "2 gates passed; nothing had to run.",
        "Bundle  out/digits-1.0.0",
        f"Digest  {'ab' * 32}",
    ]
