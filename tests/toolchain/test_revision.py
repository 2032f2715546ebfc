"""The revision that a build was made from."""

import subprocess
from pathlib import Path

import pytest

from toolchain.revision import revision_record, source_revision

pytestmark = pytest.mark.slow


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "recipe.yaml").write_text("a: 1\n")
    (tmp_path / ".gitignore").write_text("venv\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert source_revision(checkout / "recipes") == {"revision": commit, "dirty": False}


@pytest.mark.parametrize("change", ["edited", "staged", "new", "elsewhere"])
def test_any_change_makes_it_dirty(checkout: Path, change: str) -> None:
    file = checkout / "recipes" / "recipe.yaml"
    if change in ("edited", "staged"):
        file.write_text("a: 2\n")
    if change == "staged":
        git(checkout, "add", ".")
    if change == "new":
        (checkout / "recipes" / "code.py").write_text("")
    if change == "elsewhere":
        (checkout / "code.py").write_text("")
    assert source_revision(checkout / "recipes")["dirty"] is True


def test_ignored_files_do_not_count_and_ignored_folders_have_no_revision(checkout: Path) -> None:
    (checkout / "venv" / "models").mkdir(parents=True)
    (checkout / "venv" / "models" / "recipe.yaml").write_text("")
    assert source_revision(checkout / "recipes")["dirty"] is False
    assert source_revision(checkout / "venv" / "models") == {"revision": None, "dirty": None}


def test_another_repositorys_variables_do_not_decide(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert source_revision(checkout / "recipes")["dirty"] is False


def test_without_a_repository_or_a_commit_or_git_there_is_none(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {"revision": None, "dirty": None}
    folder = tmp_path_factory.mktemp("plain")
    (folder / "recipe.yaml").write_text("")
    assert source_revision(folder) == none
    git(folder, "init", "-q")
    git(folder, "add", ".")
    assert source_revision(folder) == none
    git(folder, "commit", "-q", "-m", "first")
    assert source_revision(folder)["dirty"] is False
    monkeypatch.setenv("PATH", "")
    assert source_revision(folder) == none


def test_the_record_tells_no_paths(checkout: Path) -> None:
    record = revision_record(checkout / "recipes")
    assert record["recipe"]["dirty"] is False
    assert set(record["edgeops"]) == {"version", "revision", "dirty"}
    assert "/" not in str(record)
