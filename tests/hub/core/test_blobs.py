"""The blob store: content by its hash, or nothing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_hub.bundles.blobs import BlobStore, StorageFullError, TooLargeError
from edgeops.errors import ArtifactError, BadRequestError, NotFoundError


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


@settings(deadline=None)
@given(chunks=st.lists(st.binary(max_size=300), max_size=6))
def test_what_was_put_can_be_read(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"), 1 << 20)
    data = b"".join(chunks)
    assert store.missing([digest(data), digest(data)]) == [digest(data)]
    assert store.put(digest(data), chunks) is True
    assert store.put(digest(data), chunks) is False
    assert store.path(digest(data)).read_bytes() == data
    assert store.missing([digest(data)]) == []


@pytest.mark.parametrize("sent", [b"", b"other", b"conten", b"content and more"])
def test_other_bytes_are_refused_and_leave_nothing(tmp_path: Path, sent: bytes) -> None:
    store = BlobStore(tmp_path, 1 << 20)
    with pytest.raises(ArtifactError) as caught:
        store.put(digest(b"content"), [sent])
    assert caught.value.subject == digest(b"content")
    assert not store.has(digest(b"content"))
    assert files_in(tmp_path) == []


def test_too_large_a_blob_is_refused_on_the_way(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 10)
    with pytest.raises(TooLargeError), store.writer(digest(b"x" * 11)) as writer:
        writer.write(b"x" * 10)
        writer.write(b"x")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["", "..", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"])
def test_only_digests_become_paths(tmp_path: Path, name: str) -> None:
    store = BlobStore(tmp_path, 10)
    with pytest.raises(BadRequestError):
        store.path(name)
    with pytest.raises(BadRequestError):
        store.writer(name)


def test_an_unknown_blob_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        BlobStore(tmp_path, 10).path("a" * 64)


def test_old_cut_uploads_are_swept(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 10)
    old, fresh = tmp_path / "uploads" / "old", tmp_path / "uploads" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"cut")
    os.utime(old, (1, 1))
    assert store.sweep() == 1
    assert files_in(tmp_path) == ["fresh"]


_FILL = """
import sys, hashlib
from pathlib import Path
from cloud_hub.bundles.blobs import BlobStore, StorageFullError
data = bytes(range(256)) * 16384
try:
    BlobStore(Path(sys.argv[1]), 1 << 30).put(hashlib.sha256(data).hexdigest(), [data])
except StorageFullError as error:
    print("full", error.http_status, [p.name for p in Path(sys.argv[1]).rglob("*") if p.is_file()])
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """On a real file system of 1 MiB, in a mount namespace of its own."""
    script = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec {sys.executable} -c "$FILL" {tmp_path}'
    command = ["unshare", "--mount", "sh", "-c", script]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "FILL": _FILL},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "not permitted" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("this user may not mount a file system")
    assert done.stdout.split() == ["full", "507", "[]"], done.stderr
    assert StorageFullError.http_status == 507
