"""The digest of files and folders outside a build."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeops.canonical import sha256_bytes
from edgeops.errors import ConfigError
from toolchain.caching.trees import tree_digest, tree_files

trees = st.dictionaries(
    st.sampled_from(["a", "b", "deep/a", "deep/er/c"]), st.binary(max_size=8), min_size=1, max_size=4
)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@given(one=trees, other=trees)
@settings(max_examples=60, deadline=None)
def test_equal_content_and_only_that_gives_equal_digests(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    folders = [write(tmp_path_factory.mktemp("tree"), files) for files in (one, other)]
    assert (tree_digest(folders[0]) == tree_digest(folders[1])) == (one == other)


def test_a_file_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    assert tree_digest(tmp_path / "x") == sha256_bytes(b"1")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"1")
    before = tree_digest(file)
    file.write_bytes(b"2")
    os.utime(file, ns=(1, 1))
    assert tree_digest(file) != before


def test_what_others_keep_beside_a_model_does_not_count(tmp_path: Path) -> None:
    before = tree_digest(write(tmp_path, {"config.json": b"{}"}))
    write(tmp_path, {".git/HEAD": b"x", ".cache/huggingface/download/config.json.metadata": b"now"})
    assert tree_digest(tmp_path) == before
    assert tree_files(tmp_path) == ["config.json"]
    write(tmp_path, {".cache/other": b"x"})
    assert tree_digest(tmp_path) != before


def test_links_inside_are_refused_and_the_folder_itself_may_be_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"a": b"1"})
    (tmp_path / "link").symlink_to(folder)
    assert tree_digest(tmp_path / "link") == tree_digest(folder)
    (folder / "weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"weights is a symbolic link.*cp -rL"):
        tree_digest(folder)


@pytest.mark.parametrize("what", ["missing", "fifo", "fifo inside"])
def test_what_is_no_file_is_named(tmp_path: Path, what: str) -> None:
    place = tmp_path / "model"
    if what == "fifo":
        os.mkfifo(place)
    elif what == "fifo inside":
        place.mkdir()
        os.mkfifo(place / "pipe")
    with pytest.raises(ConfigError, match="model"):
        tree_digest(place)
    if what == "fifo inside":
        shutil.rmtree(place)
