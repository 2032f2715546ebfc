"""A bundle on disk: reading, writing and verifying the folder.

Verifying trusts nothing but the keys: the signature first, then the manifest by the signature, then each
file by both. What is not listed may not be there, since an engine could open it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from edgeops.canonical import sha256_bytes, sha256_stream, strict_json
from edgeops.durable import write_atomic
from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    OUTSIDE_IDENTITY,
    SIGNATURE_FILE,
    FileEntry,
    Manifest,
    ManifestFields,
    Variant,
)
from edgeops.signing.keys import PublicKeys
from edgeops.signing.oms import MAX_SIGNATURE_BYTES, SignedStatement, check_manifest, verify_signature

_UNLISTED = (MANIFEST_FILE, SIGNATURE_FILE, *OUTSIDE_IDENTITY)


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle whose every byte was checked: its identity, and which key vouches for it."""

    manifest: Manifest
    digest: str
    key_id: str
    directory: Path


def verify_bundle(bundle_dir: Path, keys: PublicKeys, *, variant: str | None = None) -> VerifiedBundle:
    """Checks the folder against the signature of one of `keys` (by key id).

    Without `variant` every signed file must be there and match, and nothing else may be there. With one,
    the same holds for what a device's slot has: manifest, signature, that variant, self-test and reference.

    Raises `ArtifactError` whose `subject` is the offending path relative to the bundle: tampered, truncated,
    missing, extra, a symbolic link or no regular file; `model.sig` if unsigned or wrongly signed;
    `manifest.json` if its schema is another major one. `ConfigError` if this user may not read a file.
    """
    root = bundle_dir.absolute()
    if root.is_symlink() or not root.is_dir():
        raise _refused(str(bundle_dir), "is not a bundle: it must be a folder, and no symbolic link")
    statement = verify_signature(_read(root, SIGNATURE_FILE, MAX_SIGNATURE_BYTES), keys)
    data = _read(root, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = check_manifest(statement, data)
    expected = _expected(manifest, statement, variant)
    allowed = expected.keys() | {MANIFEST_FILE, SIGNATURE_FILE}
    for path in walk(root, folders=_folders(allowed)):
        if path not in allowed:
            raise _refused(path, "does not belong to the bundle")
    for path, (digest, size_bytes) in expected.items():
        _check_file(root, path, digest, size_bytes)
    return VerifiedBundle(manifest, sha256_bytes(data), statement.key_id, bundle_dir)


def read_manifest(bundle_dir: Path) -> Manifest:
    """The manifest of a bundle, parsed and not verified. `ArtifactError` if there is none or it is unfit."""
    return Manifest.parse(_read(bundle_dir, MANIFEST_FILE, MAX_MANIFEST_BYTES))


def file_entry(bundle_dir: Path, relative_path: str) -> FileEntry:
    """Digest and size of one file as the manifest lists them. `ArtifactError` if it is no regular file."""
    with open_file(bundle_dir, relative_path) as file:
        return FileEntry(
            path=relative_path,
            sha256=sha256_stream(file),
            size_bytes=os.fstat(file.fileno()).st_size,
        )


def other_files(bundle_dir: Path, variants: Sequence[Variant]) -> tuple[FileEntry, ...]:
    """The manifest's `files`: everything below `bundle_dir` that belongs to no variant, by path.

    Manifest, signature and what is true of one build only (`OUTSIDE_IDENTITY`) are not listed.
    """
    listed = {entry.path for variant in variants for entry in variant.files}.union(_UNLISTED)
    return tuple(file_entry(bundle_dir, path) for path in sorted(walk(bundle_dir)) if path not in listed)


def write_manifest(bundle_dir: Path, fields: ManifestFields) -> Manifest:
    """Writes `manifest.json` atomically, in canonical form. `ArtifactError` if the fields break a rule."""
    manifest = Manifest.create(fields)
    write_atomic(bundle_dir / MANIFEST_FILE, manifest.to_bytes())
    return manifest


def walk(bundle_dir: Path, *, folders: frozenset[str] | None = None) -> Iterator[str]:
    """The paths of all files below `bundle_dir`, with forward slashes, relative to it.

    Raises `ArtifactError` on symbolic links and special files, and, if `folders` is given, on a folder
    that is not among them.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(bundle_dir / prefix) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if folders is not None and path not in folders:
                        raise _refused(path, "does not belong to the bundle")
                    pending.append(f"{path}/")
                elif entry.is_file(follow_symlinks=False):
                    yield path
                else:
                    raise _refused(path, "is a symbolic link or a special file")


def open_file(bundle_dir: Path, path: str) -> BinaryIO:
    """Opens one regular file of the bundle for reading; symbolic links are not followed.

    Raises `ArtifactError` naming the file when it is missing or not a regular file.
    """
    try:
        # O_NONBLOCK: a FIFO must not hang the verifier before fstat tells what it is.
        fd = os.open(bundle_dir / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        what = "is missing: the bundle is not signed" if path == SIGNATURE_FILE else "is missing"
        raise _refused(path, what) from None
    except PermissionError as error:
        raise ConfigError(
            f"{bundle_dir / path} cannot be read ({error.strerror}).",
            remedy="Let this user read the bundle.",
            subject=path,
        ) from error
    except OSError as error:
        raise _refused(path, f"cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _refused(path, "is not a regular file")
    return os.fdopen(fd, "rb")


def read_document(bundle_dir: Path, path: str, *, max_bytes: int) -> dict[str, Any]:
    """The JSON object in one file of the bundle. Raises as `open_file` does, and `ValueError` with the reason
    when it is larger than `max_bytes` or no strict JSON object."""
    with open_file(bundle_dir, path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes")
    document = strict_json(data)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    return document


def _expected(
    manifest: Manifest, statement: SignedStatement, variant: str | None
) -> dict[str, tuple[str, int | None]]:
    entries = manifest.all_files().values() if variant is None else manifest.device_files(variant)
    expected: dict[str, tuple[str, int | None]] = {
        entry.path: (entry.sha256, entry.size_bytes) for entry in entries
    }
    if variant is None:
        outside = statement.digests.keys() & set(OUTSIDE_IDENTITY)
        expected |= {path: (statement.digests[path], None) for path in outside}
    return expected


def _folders(paths: set[str]) -> frozenset[str]:
    return frozenset(str(parent) for path in paths for parent in PurePosixPath(path).parents)


def _check_file(root: Path, path: str, digest: str, size_bytes: int | None) -> None:
    with open_file(root, path) as file:
        have = os.fstat(file.fileno()).st_size
        if size_bytes is not None and have != size_bytes:
            what = "is truncated" if have < size_bytes else "is too long"
            raise _refused(path, f"{what}: {have} bytes, and {size_bytes} were signed")
        if sha256_stream(file) != digest:
            raise _refused(path, "is not the file that was signed")


def _read(root: Path, path: str, limit_bytes: int) -> bytes:
    with open_file(root, path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise _refused(path, f"is larger than {limit_bytes} bytes")
    return data


def _refused(path: str, what: str) -> ArtifactError:
    return ArtifactError(f"{path} {what}.", remedy="Fetch or build the bundle again.", subject=path)
