"""Puts a finished bundle into the builder's folder: signed, on disk, and in one step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeops.bundle import VerifiedBundle, verify_bundle
from edgeops.canonical import canonical_json
from edgeops.durable import fsync_directory
from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import MANIFEST_FILE, REVISION_FILE
from edgeops.signing.keys import PublicKeys

if TYPE_CHECKING:
    from edgeops.signing.signers import Signer

_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h
# What file systems and kernels that cannot exchange two names answer.
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def make_folder(out: Path) -> None:
    """Makes the builder's folder if it is missing. `ConfigError` if that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {out} cannot be made ({error.strerror}).",
            remedy="Choose another one with --out.",
            subject=str(out),
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One build at a time puts its bundle into a folder. The kernel frees the lock of a killed one."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def kept(target: Path, unsigned: Path, keys: PublicKeys) -> VerifiedBundle | None:
    """The bundle that is there already, if it is this build, whole, and signed by the key. What is outside a
    bundle's identity, its measurements and revision, may be of an earlier run."""
    if not target.exists():
        return None
    if not (target / MANIFEST_FILE).exists():
        raise ConfigError(
            f"{target} is there already, and is not a bundle.",
            remedy="Move it away, or choose another folder with --out.",
            subject=str(target),
        )
    try:
        verified = verify_bundle(target, keys)
    except ArtifactError:
        return None  # it is made anew
    same = (target / MANIFEST_FILE).read_bytes() == (unsigned / MANIFEST_FILE).read_bytes()
    return verified if same else None


def place(
    unsigned: Path, target: Path, signer: Signer, keys: PublicKeys, revision: Mapping[str, Any]
) -> VerifiedBundle:
    """Copies the bundle, adds the revision that it was made from, signs it, and puts it at `target`, which is
    replaced in one step. Call it with the folder around `target` locked."""
    for stale in target.parent.glob(f".{target.name}.*"):  # of a build that was killed
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        staging = Path(scratch) / target.name
        shutil.copytree(unsigned, staging)
        (staging / REVISION_FILE).parent.mkdir(exist_ok=True)
        (staging / REVISION_FILE).write_bytes(canonical_json(revision))
        signer.sign_bundle(staging)
        _sync(staging)
        put_folder(staging, target)
        fsync_directory(target.parent)
    return verify_bundle(target, keys)


def put_folder(staging: Path, target: Path) -> None:
    """Renames the folder `staging` to `target`, in one step where the system can do so even if there is one
    already. That one is then at `staging`, or at `replaced` beside it."""
    if not target.exists():
        staging.rename(target)
        return
    if sys.platform == "linux":
        # renameat2(2), RENAME_EXCHANGE: at no instant is there neither bundle.
        libc = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(staging), os.fsencode(target)
        if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NO_EXCHANGE:
            raise OSError(number, os.strerror(number), str(target))
    target.rename(staging.with_name("replaced"))
    staging.rename(target)


def _sync(folder: Path) -> None:
    """The rename must not reach the disk before what it names."""
    for path in [folder, *folder.rglob("*")]:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
