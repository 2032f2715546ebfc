"""Our verifier against the reference implementation of OMS: never laxer, stricter only where it says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeops.bundle import verify_bundle
from edgeops.canonical import sha256_file
from edgeops.errors import ArtifactError
from edgeops.signing.keys import load_private_key
from edgeops.signing.oms import verify_signature
from edgeops_testkit.bundles import make_bundle
from edgeops_testkit.keys import KeyPair, make_keys
from edgeops_testkit.oms import reference_accepts, seal, statement_over

FILES = (
    "README.md",
    "manifest.json",
    "measurements.json",
    "model.sig",
    "reference/profile.json",
    "selftest/vectors.json",
    "variants/onnx-fp32/model.onnx",
    "variants/teacher-onnx-fp32/model.onnx",
)


@dataclass(frozen=True)
class Signed:
    """A signed bundle and its builder's keys; `copy` gives one to spoil."""

    bundle: Path
    keys: KeyPair

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.bundle, folder / "copy", symlinks=True))

    def refusal(self, bundle: Path) -> ArtifactError | None:
        """Why ours refuses; None if it accepts."""
        try:
            verify_bundle(bundle, self.keys.ring)
        except ArtifactError as error:
            return error
        return None


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("signed")
    keys = make_keys(folder)
    yield Signed(make_bundle(folder, key=keys.private), keys)


def flip(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def test_the_list_of_files_is_whole(signed: Signed) -> None:
    found = sorted(
        str(path.relative_to(signed.bundle)) for path in signed.bundle.rglob("*") if path.is_file()
    )
    assert tuple(found) == FILES


def test_both_accept_what_was_built(signed: Signed) -> None:
    assert signed.refusal(signed.bundle) is None
    assert reference_accepts(signed.bundle, signed.keys.public)


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("path", FILES)
def test_both_refuse_one_changed_byte_in_any_file(
    signed: Signed, tmp_path: Path, path: str, where: str
) -> None:
    bundle = signed.copy(tmp_path)
    size = (bundle / path).stat().st_size
    flip(bundle / path, {"first": 0, "middle": size // 2, "last": size - 1}[where])
    refusal = signed.refusal(bundle)
    assert refusal is not None
    assert refusal.subject == path
    assert not reference_accepts(bundle, signed.keys.public)


@pytest.mark.parametrize("path", FILES)
def test_both_refuse_a_truncated_lengthened_or_missing_file(
    signed: Signed, tmp_path: Path, path: str
) -> None:
    bundle = signed.copy(tmp_path)
    whole = (bundle / path).read_bytes()
    for spoilt in (b"", whole[:-1], whole + b"\x00", None):
        if spoilt is None:
            (bundle / path).unlink()
        else:
            (bundle / path).write_bytes(spoilt)
        refusal = signed.refusal(bundle)
        assert refusal is not None
        assert refusal.subject == path
        assert not reference_accepts(bundle, signed.keys.public)


@pytest.mark.slow
def test_no_changed_bit_of_the_signature_file_is_accepted(signed: Signed) -> None:
    whole = (signed.bundle / "model.sig").read_bytes()
    ring = signed.keys.ring
    accepted = []
    for position in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            try:
                verify_signature(bytes(changed), ring)
            except ArtifactError:
                continue
            accepted.append((position, bit))
    assert accepted == []


def link(bundle: Path) -> None:
    (bundle / "link.md").symlink_to("README.md")


def link_instead_of_file(bundle: Path) -> None:
    (bundle / "README.md").rename(bundle.parent / "README.md")
    (bundle / "README.md").symlink_to(bundle.parent / "README.md")


def link_instead_of_folder(bundle: Path) -> None:
    (bundle / "variants").rename(bundle.parent / "variants")
    (bundle / "variants").symlink_to(bundle.parent / "variants")


def swap(bundle: Path) -> None:
    first, second = (bundle / f"variants/{name}/model.onnx" for name in ("onnx-fp32", "teacher-onnx-fp32"))
    first.rename(bundle / "aside")
    second.rename(first)
    (bundle / "aside").rename(second)


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "extra file": (lambda b: (b / "hook.py").write_text("import os"), "hook.py"),
    "extra file deep down": (
        lambda b: (b / "variants/onnx-fp32/a.so").write_text(""),
        "variants/onnx-fp32/a.so",
    ),
    "empty extra file": (lambda b: (b / "empty").touch(), "empty"),
    "renamed file": (lambda b: (b / "README.md").rename(b / "readme.md"), "readme.md"),
    "moved file": (lambda b: (b / "README.md").rename(b / "selftest/README.md"), "selftest/README.md"),
    "two files swapped": (swap, "variants/onnx-fp32/model.onnx"),
    "symbolic link": (link, "link.md"),
    "link instead of a file": (link_instead_of_file, "README.md"),
    "link instead of a folder": (link_instead_of_folder, "variants"),
    "no signature": (lambda b: (b / "model.sig").unlink(), "model.sig"),
}


@pytest.mark.parametrize(("spoil", "subject"), SPOILS.values(), ids=SPOILS.keys())
def test_both_refuse_what_was_spoilt(
    signed: Signed, tmp_path: Path, spoil: Callable[[Path], object], subject: str
) -> None:
    bundle = signed.copy(tmp_path)
    spoil(bundle)
    refusal = signed.refusal(bundle)
    assert refusal is not None
    assert refusal.subject == subject
    assert not reference_accepts(bundle, signed.keys.public)


def test_both_refuse_another_builder_s_key(signed: Signed, tmp_path: Path) -> None:
    other = make_keys(tmp_path, "other")
    with pytest.raises(ArtifactError, match="trusted"):
        verify_bundle(signed.bundle, other.ring)
    assert not reference_accepts(signed.bundle, other.public)


def test_both_refuse_another_bundle_s_signature(signed: Signed, tmp_path: Path) -> None:
    other = make_bundle(tmp_path, version="1.1.0", key=signed.keys.private)
    bundle = signed.copy(tmp_path)
    shutil.copy(other / "model.sig", bundle / "model.sig")
    refusal = signed.refusal(bundle)
    assert refusal is not None
    assert refusal.subject == "manifest.json"
    assert not reference_accepts(bundle, signed.keys.public)


STRICTER: dict[str, tuple[Callable[[Path], object], str]] = {
    # The reference leaves out Git's files by default, so anyone could add some.
    ".gitignore": (lambda b: (b / ".gitignore").write_text("*"), ".gitignore"),
    ".gitattributes": (lambda b: (b / ".gitattributes").write_text("* -text"), ".gitattributes"),
    ".git": (lambda b: (b / ".git/hooks").mkdir(parents=True), ".git"),
    ".github": (lambda b: (b / ".github").mkdir(), ".github"),
    "empty folder": (lambda b: (b / "variants/empty").mkdir(), "variants/empty"),
}


@pytest.mark.parametrize(("spoil", "subject"), STRICTER.values(), ids=STRICTER.keys())
def test_ours_refuses_what_the_reference_overlooks(
    signed: Signed, tmp_path: Path, spoil: Callable[[Path], object], subject: str
) -> None:
    bundle = signed.copy(tmp_path)
    spoil(bundle)
    refusal = signed.refusal(bundle)
    assert refusal is not None
    assert refusal.subject == subject
    assert reference_accepts(bundle, signed.keys.public)


def test_a_statement_that_ignores_paths_opens_no_hole(signed: Signed, tmp_path: Path) -> None:
    bundle = signed.copy(tmp_path)
    digests = {path: sha256_file(bundle / path) for path in FILES if path != "model.sig"}
    statement = statement_over(digests)
    statement["predicate"]["serialization"]["ignore_paths"] = ["model.sig", "plugins"]
    (bundle / "model.sig").write_text(json.dumps(seal(statement, load_private_key(signed.keys.private))))
    assert signed.refusal(bundle) is None
    assert reference_accepts(bundle, signed.keys.public)
    (bundle / "plugins").mkdir()
    (bundle / "plugins/evil.so").write_text("")
    assert reference_accepts(bundle, signed.keys.public)
    refusal = signed.refusal(bundle)
    assert refusal is not None
    assert refusal.subject == "plugins"


def mutations() -> st.SearchStrategy[tuple[str, str, int, int]]:
    kinds = st.sampled_from(["flip", "cut", "append", "delete", "rename", "extra", "link", "copy over"])
    return st.tuples(kinds, st.sampled_from(FILES), st.integers(0, 2**32), st.integers(1, 255))


def mutate(bundle: Path, kind: str, path: str, number: int, mask: int) -> None:
    target = bundle / path
    if not target.is_file() or target.is_symlink():
        return
    size = target.stat().st_size
    if kind == "flip" and size:
        flip(target, number % size, mask)
    elif kind == "cut":
        target.write_bytes(target.read_bytes()[: number % (size + 1)])
    elif kind == "append":
        target.write_bytes(target.read_bytes() + bytes([mask]))
    elif kind == "delete":
        target.unlink()
    elif kind == "rename":
        target.rename(target.with_name(f"renamed-{mask}"))
    elif kind == "extra":
        target.with_name(f"extra-{mask}").write_bytes(bytes([mask]))
    elif kind == "link":
        target.with_name(f"link-{mask}").symlink_to(target.name)
    elif kind == "copy over":
        target.write_bytes(
            (bundle / FILES[number % len(FILES)]).read_bytes() if number % 2 else target.read_bytes()
        )


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(mutations(), max_size=2))
def test_what_ours_accepts_the_reference_accepts(
    signed: Signed, changes: list[tuple[str, str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = signed.copy(Path(folder))
        for change in changes:
            try:
                mutate(bundle, *change)
            except (FileNotFoundError, FileExistsError):  # what an earlier change took or left
                continue
        unchanged = tree(bundle) == tree(signed.bundle)
        assert (signed.refusal(bundle) is None) == unchanged
        assert reference_accepts(bundle, signed.keys.public) == unchanged


def tree(bundle: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(bundle)): None if path.is_symlink() else path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def reference_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("model_signing")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_stock_command_accepts_and_names_the_file(signed: Signed, tmp_path: Path) -> None:
    bundle = signed.copy(tmp_path)
    options = ("--signature", bundle / "model.sig", "--public_key", signed.keys.public)
    accepted = reference_cli("verify", "key", bundle, *options)
    assert accepted.returncode == 0, accepted.stderr
    flip(bundle / "selftest/vectors.json", 10)
    refused = reference_cli("verify", "key", bundle, *options)
    assert refused.returncode != 0
    assert "selftest/vectors.json" in refused.stderr


@pytest.mark.slow
def test_ours_accepts_what_the_stock_command_signed(signed: Signed, tmp_path: Path) -> None:
    bundle = signed.copy(tmp_path)
    (bundle / "model.sig").unlink()
    done = reference_cli(
        "sign", "key", bundle, "--signature", bundle / "model.sig", "--private_key", signed.keys.private
    )
    assert done.returncode == 0, done.stderr
    assert signed.refusal(bundle) is None
