"""Where bundles lie on the device: `staging/<digest>/bundle` on the way in, `slots/<digest>` once verified.

A folder appears in `slots` by one rename after everything in it is on the disk, so a power cut leaves a slot
whole or not at all. Each slot stands alone (copies, no links): what happens to one cannot touch another.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeops.bundle import read_manifest, verify_bundle
from edgeops.durable import fsync_directory
from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import MANIFEST_FILE, Manifest
from edgeops.signing.keys import PublicKeys


class Slots:
    """The slots and staged bundles below two folders; `keys` are the trusted builders'."""

    def __init__(self, slots: Path, staging: Path, keys: PublicKeys) -> None:
        self._slots = slots
        self._staging = staging
        self._keys = keys

    def slot(self, digest: str) -> Path:
        """Where the slot of that bundle is, or would be."""
        return self._slots / digest

    def staged(self, digest: str) -> Path:
        """Where that bundle is put together. Beside it is `parts`, for files that are not whole yet."""
        return self._staging / digest / "bundle"

    def parts(self, digest: str) -> Path:
        """Where unfinished downloads of that bundle are kept, by digest."""
        return self._staging / digest / "parts"

    def verify_staged(self, digest: str, variant: str) -> Manifest:
        """Checks signature and every byte of a staged bundle. Raises `ArtifactError` naming the file."""
        return self._verify(self.staged(digest), digest, variant)

    def verify_slot(self, digest: str, variant: str) -> Manifest:
        """Checks a slot as if it had just been fetched. Raises `ArtifactError` naming the file."""
        return self._verify(self.slot(digest), digest, variant)

    def manifest(self, digest: str) -> Manifest | None:
        """The manifest in a slot, not verified, or None if there is no readable one."""
        try:
            return read_manifest(self.slot(digest))
        except ArtifactError:
            return None

    def install(self, digest: str) -> None:
        """Moves a verified staged bundle into its slot, for good. Does nothing if it is there already.

        Raises `ConfigError` when the disk refuses.
        """
        target = self.slot(digest)
        with disk_errors(self._slots):
            if not target.exists():
                _fsync_tree(self.staged(digest))
                self.staged(digest).rename(target)
                fsync_directory(self._slots)
            shutil.rmtree(self._staging / digest, ignore_errors=True)

    def remove(self, digest: str) -> None:
        """Deletes a slot and what is staged for it."""
        for folder in (self.slot(digest), self._staging / digest):
            shutil.rmtree(folder, ignore_errors=True)

    def collect(self, keep: Collection[str]) -> list[str]:
        """Deletes every slot and staged bundle whose digest is not in `keep`; returns the slots deleted."""
        gone = []
        for folder in (self._slots, self._staging):
            for path in folder.iterdir():
                if path.name not in keep:
                    shutil.rmtree(path, ignore_errors=True)
                    if folder == self._slots:
                        gone.append(path.name)
        return sorted(gone)

    def copies_of(self, sha256: str) -> Iterator[Path]:
        """Files in slots that should have that content, by their manifests. The reader checks it."""
        for slot in sorted(self._slots.iterdir()):
            manifest = self.manifest(slot.name)
            for entry in manifest.all_files().values() if manifest else ():
                if entry.sha256 == sha256 and (slot / entry.path).is_file():
                    yield slot / entry.path

    def _verify(self, folder: Path, digest: str, variant: str) -> Manifest:
        bundle = verify_bundle(folder, self._keys, variant=variant)
        if bundle.digest != digest:
            raise ArtifactError(
                f"The bundle in {folder.name} is another one ({bundle.digest}).",
                remedy="It is fetched again.",
                subject=MANIFEST_FILE,
            )
        return bundle.manifest


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """The disk's errors as `ConfigError`: not the bundle's fault, so it may be tried again later."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ConfigError(
            f"The disk that holds {folder} is full."
            if full
            else f"{folder} cannot be written ({error.strerror}).",
            remedy="Free some space there; the update goes on by itself."
            if full
            else "Check the disk and its permissions; the update is tried again by itself.",
            subject=str(folder),
        ) from error


def _fsync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            fd = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        fsync_directory(Path(folder))
