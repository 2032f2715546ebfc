"""The bundle on disk: what a device's slot may hold, what is no bundle, and how one is written."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgeops.bundle import (
    file_entry,
    open_file,
    other_files,
    read_manifest,
    verify_bundle,
    walk,
    write_manifest,
)
from edgeops.canonical import sha256_file
from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import FileEntry, ManifestFields
from edgeops.signing.oms import sign_bundle
from edgeops_testkit.bundles import CLOUD_VARIANT, DEVICE_VARIANT, digits_data, make_bundle
from edgeops_testkit.keys import KeyPair, make_keys


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return make_keys(tmp_path / "keys")


@pytest.fixture
def bundle(tmp_path: Path, keys: KeyPair) -> Path:
    return make_bundle(tmp_path, key=keys.private)


def slot_of(bundle: Path, folder: Path, variant: str) -> Path:
    """What a device has fetched for one variant."""
    manifest = read_manifest(bundle)
    paths = ["manifest.json", "model.sig", *(entry.path for entry in manifest.device_files(variant))]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle / path, folder / path)
    return folder


def test_a_verified_bundle_says_what_it_is(bundle: Path, keys: KeyPair) -> None:
    verified = verify_bundle(bundle, keys.ring)
    assert verified.digest == sha256_file(bundle / "manifest.json") == verified.manifest.digest
    assert [verified.key_id] == list(keys.ring)
    assert verified.manifest.label == "digits 1.0.0"
    assert verified.directory == bundle


def test_a_bundle_without_measurements_is_whole(bundle: Path, keys: KeyPair) -> None:
    before = verify_bundle(bundle, keys.ring).digest
    (bundle / "measurements.json").unlink()
    with pytest.raises(ArtifactError) as caught:
        verify_bundle(bundle, keys.ring)
    assert caught.value.subject == "measurements.json"
    sign_bundle(bundle, keys.private)
    assert verify_bundle(bundle, keys.ring).digest == before


@pytest.mark.parametrize("variant", [DEVICE_VARIANT, CLOUD_VARIANT])
def test_a_slot_holds_one_variant(bundle: Path, keys: KeyPair, tmp_path: Path, variant: str) -> None:
    slot = slot_of(bundle, tmp_path / "slot", variant)
    assert verify_bundle(slot, keys.ring, variant=variant).digest == verify_bundle(bundle, keys.ring).digest
    with pytest.raises(ArtifactError):
        verify_bundle(slot, keys.ring)


def test_a_slot_may_hold_nothing_else(bundle: Path, keys: KeyPair, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as whole:
        verify_bundle(bundle, keys.ring, variant=DEVICE_VARIANT)
    assert whole.value.subject in {"README.md", "measurements.json", f"variants/{CLOUD_VARIANT}"}
    slot = slot_of(bundle, tmp_path / "slot", DEVICE_VARIANT)
    shutil.copy(bundle / "README.md", slot / "README.md")
    with pytest.raises(ArtifactError) as signed_elsewhere:
        verify_bundle(slot, keys.ring, variant=DEVICE_VARIANT)
    assert signed_elsewhere.value.subject == "README.md"


def test_each_file_of_a_slot_is_checked(bundle: Path, keys: KeyPair, tmp_path: Path) -> None:
    paths = [entry.path for entry in read_manifest(bundle).device_files(DEVICE_VARIANT)]
    assert len(paths) == 3
    for path in [*paths, "manifest.json", "model.sig"]:
        slot = slot_of(bundle, tmp_path / path.replace("/", "-"), DEVICE_VARIANT)
        data = bytearray((slot / path).read_bytes())
        data[len(data) // 2] ^= 1
        (slot / path).write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            verify_bundle(slot, keys.ring, variant=DEVICE_VARIANT)
        assert caught.value.subject == path


def test_a_file_of_another_size_is_told_before_it_is_read(bundle: Path, keys: KeyPair) -> None:
    path, whole = "variants/onnx-fp32/model.onnx", (bundle / "variants/onnx-fp32/model.onnx").read_bytes()
    for data, what in ((whole[:-1], "is truncated"), (whole + b"x", "is too long")):
        (bundle / path).write_bytes(data)
        with pytest.raises(ArtifactError, match=what) as caught:
            verify_bundle(bundle, keys.ring)
        assert caught.value.subject == path


def test_a_signed_manifest_that_lies_about_a_size_is_refused(bundle: Path, keys: KeyPair) -> None:
    fields = read_manifest(bundle).fields
    first, *others = fields.files
    lie = msgspec.structs.replace(first, size_bytes=first.size_bytes - 1)
    write_manifest(bundle, msgspec.structs.replace(fields, files=(lie, *others)))
    sign_bundle(bundle, keys.private)
    with pytest.raises(ArtifactError, match="too long") as caught:
        verify_bundle(bundle, keys.ring)
    assert caught.value.subject == first.path


def test_an_unknown_variant_is_refused(bundle: Path, keys: KeyPair) -> None:
    with pytest.raises(ArtifactError, match="no variant"):
        verify_bundle(bundle, keys.ring, variant="onnx-int2")


def test_hard_links_are_ordinary_files(bundle: Path, keys: KeyPair, tmp_path: Path) -> None:
    # A device may share blobs between slots that way.
    (tmp_path / "other").mkdir()
    os.link(bundle / "README.md", tmp_path / "other" / "README.md")
    assert verify_bundle(bundle, keys.ring).key_id in keys.ring


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [fifo, unix_socket, folder])
@pytest.mark.parametrize("path", ["README.md", "model.sig", "manifest.json"])
def test_what_is_no_regular_file_is_refused_without_waiting(
    bundle: Path, keys: KeyPair, path: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / path).unlink()
    monkeypatch.chdir(bundle)  # a socket's path must be short
    make(Path(path))
    with pytest.raises(ArtifactError) as caught:
        verify_bundle(bundle, keys.ring)
    assert caught.value.subject == path


def test_a_link_to_a_bundle_is_no_bundle(bundle: Path, keys: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    for path in (tmp_path / "link", tmp_path / "missing", bundle / "README.md"):
        with pytest.raises(ArtifactError, match="not a bundle"):
            verify_bundle(path, keys.ring)


def test_an_empty_folder_is_an_unsigned_bundle(tmp_path: Path, keys: KeyPair) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="not signed") as caught:
        verify_bundle(tmp_path / "empty", keys.ring)
    assert caught.value.subject == "model.sig"


def test_a_relative_path_will_do(bundle: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    assert verify_bundle(Path(), keys.ring).key_id in keys.ring


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said_plainly(bundle: Path, keys: KeyPair) -> None:
    (bundle / "README.md").chmod(0)
    with pytest.raises(ConfigError, match="cannot be read"):
        verify_bundle(bundle, keys.ring)


def test_walk_finds_every_file_and_follows_no_link(bundle: Path, tmp_path: Path) -> None:
    expected = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert sorted(walk(bundle)) == sorted(expected)
    (bundle / "variants/loop").symlink_to(bundle)
    with pytest.raises(ArtifactError) as caught:
        list(walk(bundle))
    assert caught.value.subject == "variants/loop"


def test_a_file_s_entry(bundle: Path) -> None:
    assert file_entry(bundle, "README.md") == FileEntry(
        path="README.md",
        sha256=sha256_file(bundle / "README.md"),
        size_bytes=(bundle / "README.md").stat().st_size,
    )
    with pytest.raises(ArtifactError, match="missing"):
        file_entry(bundle, "nothing")


def test_other_files_are_those_of_no_variant(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    others = other_files(bundle, manifest.fields.variants)
    assert others == manifest.fields.files
    assert [entry.path for entry in others] == [
        "README.md",
        "reference/profile.json",
        "selftest/vectors.json",
    ]


def test_an_unfit_manifest_is_not_written(tmp_path: Path) -> None:
    fields = ManifestFields(
        schema_version="1.0",
        name="No Name",
        version="1.0.0",
        task="x",
        variants=(),
        inputs=(),
        outputs=(),
        files=(),
    )
    with pytest.raises(ArtifactError):
        write_manifest(tmp_path, fields)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_opened(bundle: Path) -> None:
    (bundle / "link").symlink_to("README.md")
    with pytest.raises(ArtifactError) as caught:
        open_file(bundle, "link")
    assert caught.value.subject == "link"


def test_the_testkit_s_bundles_are_what_they_say(tmp_path: Path) -> None:
    accuracy = {}
    for quality, version in (("good", "1.0.0"), ("bad", "1.2.0")):
        path = make_bundle(tmp_path, version=version, key=None, quality=quality)
        accuracy[quality] = right_answers(path, f"variants/{DEVICE_VARIANT}/model.onnx")
        teacher = right_answers(path, f"variants/{CLOUD_VARIANT}/model.onnx")
        manifest = read_manifest(path)
        assert accuracy[quality] == pytest.approx(
            manifest.variant(DEVICE_VARIANT).quality["accuracy"], abs=5e-3
        )
        assert teacher == pytest.approx(manifest.variant(CLOUD_VARIANT).quality["accuracy"], abs=5e-3)
        assert teacher > accuracy[quality]
    assert accuracy["good"] > 0.95 > 0.8 > accuracy["bad"]


def test_the_testkit_s_bundles_have_one_digest_per_version(tmp_path: Path, keys: KeyPair) -> None:
    def digest(folder: str, version: str) -> str:
        return verify_bundle(
            make_bundle(tmp_path / folder, version=version, key=keys.private), keys.ring
        ).digest

    assert digest("a", "1.0.0") == digest("b", "1.0.0") != digest("a", "1.1.0")


def right_answers(bundle: Path, model: str) -> float:
    import onnxruntime

    _, _, images, labels = digits_data()
    session = onnxruntime.InferenceSession(str(bundle / model), providers=["CPUExecutionProvider"])
    answers = session.run(["probabilities"], {"image": images})[0].argmax(axis=1)
    return float((answers == labels).mean())
