"""The dispatcher: fast, helpful, and plain about what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from edgeops.cli import GROUP, SHELLS, cli

EDGEOPS = str(Path(sys.executable).with_name("edgeops"))
# What takes tens of milliseconds to import, and what some role does not have installed.
HEAVY = (
    "aiohttp", "alembic", "asyncio", "cryptography", "datasketches", "fastapi", "httpx", "model_signing",
    "msgspec", "nicegui", "numpy", "onnx", "onnxruntime", "paho", "pydantic", "pydantic_settings", "rich",
    "scipy", "sklearn", "sqlalchemy", "sqlite3", "starlette", "torch", "uvicorn", "yaml",
)  # fmt: skip
# Runs the command line in this interpreter and tells afterwards what it has loaded.
PROBE = """
import json, sys
from edgeops.cli import main
try:
    main()
except SystemExit as end:
    print(json.dumps({"status": end.code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command below `command` with the words that call it."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["help"], ["help", "keys", "new"], ["--version"], ["verify", "-h"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    done = run(sys.executable, "-P", "-c", PROBE, *arguments)
    report = json.loads(done.stderr.splitlines()[-1])
    assert report["status"] == 0
    assert {name.split(".")[0] for name in report["modules"]}.isdisjoint(HEAVY)
    assert done.stdout


@pytest.mark.slow
def test_completion_loads_nothing_heavy() -> None:
    done = run(
        sys.executable, "-P", "-c", PROBE,
        _EDGEOPS_COMPLETE="bash_complete", COMP_WORDS="edgeops ver", COMP_CWORD="1",
    )  # fmt: skip
    report = json.loads(done.stderr.splitlines()[-1])
    assert done.stdout.splitlines() == ["plain,verify"]
    assert {name.split(".")[0] for name in report["modules"]}.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", sorted(entry.name for entry in entry_points(group=GROUP)))
def test_every_entry_point_is_a_command(name: str) -> None:
    command = next(entry for entry in entry_points(group=GROUP) if entry.name == name).load()
    assert isinstance(command, click.Command)
    assert command.name == name


def test_every_command_explains_itself_and_ends_with_an_example() -> None:
    mute = []
    for path, command in commands(cli):
        if not (command.help and "Example" in (command.epilog or "")):
            mute.append(path)
        mute += [
            f"{path} {option.opts[0]}"
            for option in command.params
            if isinstance(option, click.Option) and not option.help
        ]
    assert mute == []


def test_examples_use_options_that_exist() -> None:
    by_path = dict(commands(cli))
    wrong = []
    for path, command in by_path.items():
        for part in (command.epilog or "").partition("Example: ")[2].split("|"):
            words = part.split()
            if words[:1] != ["edgeops"]:
                continue
            typed = " ".join(words[1:])
            called = max(
                (known for known in by_path if f"{typed} ".startswith(f"{known} ")), key=len, default=""
            )
            options = {
                name for param in by_path[called].params for name in (*param.opts, *param.secondary_opts)
            }
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            wrong += [f"{path}: {option}" for option in used - options]
    assert wrong == []


@pytest.mark.slow
def test_help_explains_a_command_by_its_path() -> None:
    by_word, by_option = run(EDGEOPS, "help", "keys", "new"), run(EDGEOPS, "keys", "new", "--help")
    assert by_word.stdout == by_option.stdout
    assert "Usage: edgeops keys new" in by_word.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("help", "nonsense"), ("nonsense",), ("help", "keys", "new", "deeper")]
)
def test_an_unknown_command_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = run(EDGEOPS, *arguments)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_the_completion_script_calls_back(shell: str) -> None:
    done = run(EDGEOPS, "completion", shell)
    assert done.returncode == 0
    assert f"_EDGEOPS_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.slow
def test_bash_completes_with_the_script() -> None:
    script = (
        f'eval "$({EDGEOPS} completion bash)"; COMP_WORDS=({EDGEOPS} keys ne); COMP_CWORD=2; '
        f'_edgeops_completion {EDGEOPS}; echo "${{COMPREPLY[@]}}"'
    )
    done = run("bash", "-c", script)
    assert done.stdout.split() == ["new"]


# A role whose packages are missing: the module behind its entry point cannot be imported.
MISSING = """
import sys
from importlib.metadata import EntryPoint
from edgeops import cli
found = EntryPoint("hub", "no_such_package.commands:hub", cli.GROUP)
cli.cli._found = {"hub": found}
cli.main()
"""


@pytest.mark.slow
def test_a_missing_role_takes_only_its_own_command_away() -> None:
    listed = run(sys.executable, "-P", "-c", MISSING, "--help")
    assert listed.returncode == 0
    assert "Not available here: no_such_package is not installed" in " ".join(listed.stdout.split())
    called = run(sys.executable, "-P", "-c", MISSING, "hub", "serve", "--port", "1", "--json")
    assert called.returncode == 6
    assert "pip install" in called.stderr
    assert json.loads(called.stdout)["error"]["subject"] == "no_such_package"


@pytest.mark.slow
def test_a_closed_pipe_is_no_crash() -> None:
    done = run("bash", "-c", f"{EDGEOPS} help | head -n 1")
    assert "Usage: edgeops" in done.stdout
    assert "Traceback" not in done.stderr
