"""Flat package names can be shadowed by a folder in the current directory: these are the right ones."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from importlib.metadata import entry_points, packages_distributions, requires
from pathlib import Path

import pytest

from edgeops.cli import GROUP

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("edgeops", "toolchain", "quantize", "models", "device_agent", "fleet", "cloud_hub", "examples")


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_comes_from_this_repository(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None, f"{name} is a namespace package: its __init__.py is missing"
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", PACKAGES)
def test_each_folder_of_a_package_is_a_package(name: str) -> None:
    holes = [
        str(folder.relative_to(ROOT))
        for folder in {path.parent for path in (ROOT / name).rglob("*.py")}
        if not (folder / "__init__.py").exists()
    ]
    assert holes == []


def test_each_package_says_that_it_is_typed() -> None:
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").exists()] == []


def test_entry_points_lead_into_these_packages() -> None:
    assert {entry.module.split(".")[0] for entry in entry_points(group=GROUP)} <= set(PACKAGES)


@pytest.mark.slow
def test_a_folder_of_the_same_name_shadows_nothing(tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
    code = (
        f"import importlib as i, json; print(json.dumps([i.import_module(n).__file__ for n in {PACKAGES!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(str(tmp_path) not in path for path in json.loads(done.stdout))
    command = str(Path(sys.executable).with_name("edgeops"))
    shown = subprocess.run(
        [command, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "edgeops, version" in shown.stdout


def test_no_module_bears_the_name_of_a_library_that_it_may_import() -> None:
    required = {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in requires("edgeops") or []}
    libraries = {
        name
        for name, distributions in packages_distributions().items()
        if required & {distribution.lower().replace("_", "-") for distribution in distributions}
    }
    assert {"click", "msgspec", "numpy", "sklearn"} <= libraries
    modules = {path: path.stem for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [str(path.relative_to(ROOT)) for path, stem in modules.items() if stem in libraries] == []
