"""Putting a signed bundle into the builder's folder."""

import sys
import threading
from pathlib import Path

import pytest

from edgeops.bundle import verify_bundle
from edgeops.canonical import sha256_file
from edgeops.errors import ConfigError
from edgeops.manifest import MANIFEST_FILE, REVISION_FILE
from edgeops.signing.signers import FileSigner
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.keys import KeyPair, make_keys
from edgeops_testkit.oms import reference_accepts
from toolchain.placing import kept, locked, place, put_folder

pytestmark = pytest.mark.slow

REVISION = {"recipe": {"revision": "a" * 40, "dirty": False}}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


def unsigned(folder: Path, version: str = "1.0.0") -> Path:
    return make_bundle(folder, key=None, version=version)


def test_the_revision_is_signed_and_no_part_of_the_identity(tmp_path: Path, keys: KeyPair) -> None:
    bundle, out = unsigned(tmp_path / "made"), tmp_path / "out"
    out.mkdir()
    signer = FileSigner.open(keys.private)
    placed = []
    for name, revision in (("one", REVISION), ("two", {"recipe": {"revision": "b" * 40, "dirty": True}})):
        placed.append(place(bundle, out / name, signer, keys.ring, revision))
        assert reference_accepts(out / name, keys.public)
    assert placed[0].digest == placed[1].digest == sha256_file(bundle / MANIFEST_FILE)
    assert kept(out / "one", bundle, keys.ring) is not None, "another revision is the same build"
    (out / "one" / REVISION_FILE).write_text("{}")
    assert kept(out / "one", bundle, keys.ring) is None, "a changed one is not"
    assert not reference_accepts(out / "one", keys.public)


def test_another_bundle_takes_the_place_of_the_one_that_is_there(tmp_path: Path, keys: KeyPair) -> None:
    out = tmp_path / "out"
    out.mkdir()
    signer = FileSigner.open(keys.private)
    for version in ("1.0.0", "1.1.0"):
        made = unsigned(tmp_path / version, version)
        verified = place(made, out / "digits", signer, keys.ring, REVISION)
        assert verified.manifest.fields.version == version
    assert [path.name for path in out.iterdir()] == ["digits"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked to exchange two names")
def test_a_folder_is_replaced_in_one_step(tmp_path: Path) -> None:
    staging, target = tmp_path / "staging", tmp_path / "target"
    for folder in (staging, target):
        folder.mkdir()
        (folder / MANIFEST_FILE).touch()
    done, gaps, looks = threading.Event(), 0, 0

    def watch() -> None:
        nonlocal gaps, looks
        while not done.is_set():
            looks += 1
            gaps += not (target / MANIFEST_FILE).exists()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(2000):
            put_folder(staging, target)
            if not staging.exists():  # then it was moved, and the old one aside
                (tmp_path / "replaced").rename(staging)
    finally:
        done.set()
        watcher.join()
    assert looks > 0
    assert gaps == 0


def test_what_a_killed_build_left_beside_the_bundle_goes(tmp_path: Path, keys: KeyPair) -> None:
    out = tmp_path / "out"
    (out / ".digits.abc" / "digits").mkdir(parents=True)
    place(unsigned(tmp_path / "made"), out / "digits", FileSigner.open(keys.private), keys.ring, REVISION)
    assert [path.name for path in out.iterdir()] == ["digits"]


def test_a_folder_that_is_no_bundle_is_not_touched(tmp_path: Path, keys: KeyPair) -> None:
    (tmp_path / "digits").mkdir()
    with pytest.raises(ConfigError, match="is not a bundle"):
        kept(tmp_path / "digits", unsigned(tmp_path / "made"), keys.ring)


def test_a_folder_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with locked(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(tmp_path):
        inside.set()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_signature_that_fails_leaves_the_old_bundle(tmp_path: Path, keys: KeyPair) -> None:
    out = tmp_path / "out"
    out.mkdir()
    signer = FileSigner.open(keys.private)
    place(unsigned(tmp_path / "1.0.0"), out / "digits", signer, keys.ring, REVISION)
    broken = unsigned(tmp_path / "1.1.0", "1.1.0")
    (broken / "variants" / "link").symlink_to("/etc/hostname")
    with pytest.raises(Exception, match="link"):
        place(broken, out / "digits", signer, keys.ring, REVISION)
    assert verify_bundle(out / "digits", keys.ring).manifest.fields.version == "1.0.0"
    assert [path.name for path in out.iterdir()] == ["digits"]
