"""The gateway's engines: each in a process of its own, a few of them kept loaded."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cloud_hub.bundles.blobs import BlobStore
from cloud_hub.fallback.catalog import Served
from edgeops.canonical import sha256_file
from edgeops.engines.worker import EngineWorker
from edgeops.errors import ArtifactError, ConfigError, EdgeopsError, TransportError
from edgeops.manifest import FileEntry
from edgeops.serving.host import Array

logger = logging.getLogger(__name__)

# After a failed load it is not tried again for this long: each try starts a process.
_RETRY_LOAD_S = 30.0
_CHUNK_BYTES = 1 << 20


class OverloadedError(TransportError):
    """More requests wait than the settings allow. The caller may try again later."""

    kind = "overloaded"


@dataclass
class _Slot:
    """A loaded engine, or one that is being loaded or has failed to. `waiting` counts its requests."""

    loading: asyncio.Task[EngineWorker]
    waiting: int = 0
    failed_at_s: float | None = None


class EnginePool:
    """At most `size` engine processes, the one used longest ago making room for a new one. An engine that
    answers or loads is never taken away; when all do, a further one is refused (`OverloadedError`).

    For one event loop. `on_load` is told of each load: "ok", or the error's kind.
    """

    def __init__(
        self,
        folder: Path,
        blobs: BlobStore,
        *,
        threads: int,
        memory_bytes: int,
        size: int,
        queue: int,
        on_load: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._blobs = blobs
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._size = size
        self._queue = queue
        self._on_load = on_load
        self._slots: OrderedDict[tuple[str, str], _Slot] = OrderedDict()

    def __len__(self) -> int:
        """How many engines are loaded or being loaded."""
        return sum(slot.failed_at_s is None for slot in self._slots.values())

    async def run(self, served: Served, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, from the bundle's cloud variant, which is loaded first if need be.

        Raises as `EngineWorker.run` and its loading do, and `OverloadedError`.
        """
        slot = self._slot(served)
        if slot.waiting >= self._queue:
            raise OverloadedError(
                f"{slot.waiting} requests wait for {served.manifest.label} already.",
                remedy="Try again later, or answer on the device.",
                subject=served.name,
            )
        slot.waiting += 1
        try:
            # shield: a caller that goes away must not stop the load that others wait for.
            worker = await asyncio.shield(slot.loading)
            return await worker.arun(inputs)
        finally:
            slot.waiting -= 1

    async def close(self) -> None:
        """Ends all processes, each after the requests that it has accepted."""
        slots = list(self._slots.values())
        self._slots.clear()
        await asyncio.gather(*(_end(slot) for slot in slots))

    def sweep(self, digests: Collection[str]) -> list[str]:
        """Removes the files of bundles that are not among `digests`; returns whose."""
        if not self._folder.is_dir():
            return []
        stale = [folder for folder in self._folder.iterdir() if folder.name not in digests]
        for folder in stale:
            shutil.rmtree(folder)
        return [folder.name for folder in stale]

    def _slot(self, served: Served) -> _Slot:
        key = (served.digest, served.variant.id)
        slot = self._slots.get(key)
        if slot is not None:
            failed = slot.failed_at_s
            if failed is None or time.monotonic() - failed < _RETRY_LOAD_S:
                self._slots.move_to_end(key)
                return slot
            del self._slots[key]
        victim = self._make_room(served)
        slot = _Slot(asyncio.create_task(self._load(served, victim)))
        slot.loading.add_done_callback(lambda task: self._loaded(served, task))
        self._slots[key] = slot
        return slot

    def _make_room(self, served: Served) -> _Slot | None:
        if len(self._slots) < self._size:
            return None
        for key, slot in self._slots.items():
            if slot.waiting == 0:
                del self._slots[key]
                return slot
        raise OverloadedError(
            f"All {self._size} engines are busy, and {served.manifest.label} is not among them.",
            remedy="Try again later, or raise EDGEOPS_HUB_FALLBACK_ENGINES.",
            subject=served.name,
        )

    async def _load(self, served: Served, victim: _Slot | None) -> EngineWorker:
        if victim is not None:
            await _end(victim)  # first, so that memory for one more process is never needed
        return await asyncio.to_thread(self._start, served)

    def _start(self, served: Served) -> EngineWorker:
        folder = self._folder / served.digest
        try:
            for entry in served.variant.files:
                _materialise(folder, entry, self._blobs)
        except OSError as error:
            raise ConfigError(
                f"The files of {served.manifest.label} cannot be written to {folder} ({error.strerror}).",
                remedy="Check that the disk has space and that the hub's user may write there.",
                subject=str(folder),
            ) from error
        return EngineWorker(served.variant, folder, threads=self._threads, memory_bytes=self._memory_bytes)

    def _loaded(self, served: Served, task: asyncio.Task[EngineWorker]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._on_load("ok")
            return
        self._on_load(error.kind if isinstance(error, EdgeopsError) else "internal")
        logger.error("The cloud variant of %s cannot be loaded: %s", served.manifest.label, error)
        slot = self._slots.get((served.digest, served.variant.id))
        if slot is not None and slot.loading is task:
            slot.failed_at_s = time.monotonic()


async def _end(slot: _Slot) -> None:
    await asyncio.wait([slot.loading])
    if slot.loading.exception() is None:  # else it never came up, and its callers were told why
        await asyncio.to_thread(slot.loading.result().close)


def _materialise(folder: Path, entry: FileEntry, blobs: BlobStore) -> None:
    """Puts one file where the engine expects it, with the digest that the manifest names, checked now."""
    target = folder / entry.path
    if target.is_file() and sha256_file(target) == entry.sha256:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with (
        blobs.path(entry.sha256).open("rb") as source,
        tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as copy,
    ):
        place = Path(copy.name)
        try:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            if digest.hexdigest() != entry.sha256:
                _changed(entry)
            place.replace(target)
        except BaseException:
            place.unlink(missing_ok=True)
            raise


def _changed(entry: FileEntry) -> NoReturn:
    raise ArtifactError(
        f"The stored file of {entry.path} is not the one that was published.",
        remedy="Restore the hub's blobs from a backup.",
        subject=entry.path,
    )
