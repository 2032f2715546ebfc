"""Crash-consistent files: the old content or the new, never a mix."""

import stat
from pathlib import Path

import pytest

from edgeops.durable import write_atomic
from edgeops.errors import ConfigError


def test_the_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "state"
    write_atomic(target, b"old")
    write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_mode_is_as_asked(tmp_path: Path) -> None:
    write_atomic(tmp_path / "secret", b"x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_reader_with_the_old_file_open_still_sees_the_old(tmp_path: Path) -> None:
    target = tmp_path / "state"
    write_atomic(target, b"old")
    with target.open("rb") as reader:
        write_atomic(target, b"new")
        assert reader.read() == b"old"


def test_a_missing_folder_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_atomic(tmp_path / "nowhere" / "state", b"x")
    assert "nowhere" in (caught.value.subject or "")
    assert caught.value.remedy


def test_a_failed_write_leaves_the_old_and_no_litter(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "child").write_bytes(b"kept")
    with pytest.raises(ConfigError):
        write_atomic(folder, b"a file cannot replace a folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]
    assert (folder / "child").read_bytes() == b"kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_plainly() -> None:
    from edgeops.durable import _as_config_error

    with (
        pytest.raises(OSError, match="No space") as caught,
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    error = _as_config_error(caught.value, Path("/var/lib/edgeops/state"))
    assert "full" in error.message
    assert "EDGEOPS_HOME" in (error.remedy or "")
