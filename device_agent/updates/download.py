"""Fetching a bundle: only the files that this device needs, and only those it has nowhere else.

Trust comes first: the signature is checked by the pinned builders' keys before a single file is fetched, and
every file is hashed on its way to the disk. A cut download goes on where it stopped (RFC 9110, section 14).
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from device_agent.core.update_types import Target
from device_agent.updates.part_file import PartFile
from device_agent.updates.slots import Slots, disk_errors
from device_agent.updates.variants import choose_variant
from device_agent.uplink.hub_api import error_of, unreachable
from edgeops.canonical import sha256_file
from edgeops.durable import write_atomic
from edgeops.errors import ArtifactError, ConfigError
from edgeops.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, SIGNATURE_FILE, FileEntry, Manifest
from edgeops.signing.keys import PublicKeys
from edgeops.signing.oms import MAX_SIGNATURE_BYTES, check_manifest, verify_signature

_CHUNK_BYTES = 1 << 18
_MAX_ERROR_BYTES = 64 << 10


class Downloader:
    """Fetches bundles from one hub. `tls` makes the context for each download anew, since certificates
    change; `memory_bytes` is what a serving process may have, `bundle_size_bytes` what one may weigh."""

    def __init__(
        self,
        *,
        hub_url: str,
        tls: Callable[[], ssl.SSLContext],
        slots: Slots,
        keys: PublicKeys,
        memory_bytes: int,
        bundle_size_bytes: int,
        connect_timeout_s: float,
        read_timeout_s: float,
    ) -> None:
        self._hub_url = hub_url
        self._tls = tls
        self._slots = slots
        self._keys = keys
        self._memory_bytes = memory_bytes
        self._bundle_size_bytes = bundle_size_bytes
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self.progress = 0.0
        self.fetched_bytes = 0
        self.reused_bytes = 0

    async def fetch(self, target: Target) -> str:
        """Brings what this device needs of a bundle into staging; returns the id of the variant it chose.

        If an intact slot has it already there is nothing to do; a damaged one is deleted. Raises
        `ArtifactError` when the bundle must be refused (wrongly signed, other bytes than signed, too large,
        no variant for this device); `TransportError`, `AccessError` or `NotFoundError` when the hub does not
        hand it out, and `ConfigError` when the disk refuses: what was fetched is kept for the next try.
        """
        self.progress = 0.0
        installed = await asyncio.to_thread(self._intact_slot, target)
        if installed is not None:
            self.progress = 1.0
            return installed
        folder = self._slots.staged(target.digest)
        self._make_folders(target, folder)
        async with self._session() as session:
            manifest = await self._trusted_manifest(session, target, folder)
            variant = choose_variant(manifest, self._memory_bytes)
            files = manifest.device_files(variant.id)
            self._check_room(files, folder)
            await asyncio.to_thread(_drop_others, folder, files)
            total, done = sum(entry.size_bytes for entry in files) or 1, 0
            for entry in files:
                await self._bring(session, target, entry, folder / entry.path)
                done += entry.size_bytes
                self.progress = done / total
        return variant.id

    def _make_folders(self, target: Target, folder: Path) -> None:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._slots.parts(target.digest).mkdir(exist_ok=True)

    def _intact_slot(self, target: Target) -> str | None:
        manifest = self._slots.manifest(target.digest)
        if manifest is None:
            if self._slots.slot(target.digest).exists():
                self._slots.remove(target.digest)
            return None
        try:
            variant = choose_variant(manifest, self._memory_bytes).id
            self._slots.verify_slot(target.digest, variant)
        except ArtifactError:
            # It was intact once; what happened to it here is not the bundle's fault.
            self._slots.remove(target.digest)
            return None
        return variant

    async def _trusted_manifest(
        self, session: aiohttp.ClientSession, target: Target, folder: Path
    ) -> Manifest:
        signature = await self._small(
            session, f"/device/v1/bundles/{target.digest}/signature", SIGNATURE_FILE, MAX_SIGNATURE_BYTES
        )
        statement = verify_signature(signature, self._keys)
        if statement.digests.get(MANIFEST_FILE) != target.digest:
            raise ArtifactError(
                f"The signature that the hub has for {target.name} {target.version} is for another bundle.",
                remedy="Publish the bundle again.",
                subject=SIGNATURE_FILE,
            )
        data = await self._small(
            session, f"/device/v1/blobs/{target.digest}", MANIFEST_FILE, MAX_MANIFEST_BYTES
        )
        manifest = check_manifest(statement, data)
        if (manifest.fields.name, manifest.fields.version) != (target.name, target.version):
            raise ArtifactError(
                f"The hub calls {manifest.label} by the name {target.name} {target.version}.",
                remedy="Check the hub: it may have been tampered with.",
                subject=MANIFEST_FILE,
            )
        write_atomic(folder / SIGNATURE_FILE, signature)
        write_atomic(folder / MANIFEST_FILE, data)
        return manifest

    def _check_room(self, files: tuple[FileEntry, ...], folder: Path) -> None:
        size = sum(entry.size_bytes for entry in files)
        if size > self._bundle_size_bytes:
            raise ArtifactError(
                f"The bundle weighs {size} bytes, and this device takes {self._bundle_size_bytes} at most.",
                remedy="Choose a smaller variant, or raise EDGEOPS_AGENT_BUNDLE_SIZE_BYTES.",
                subject=MANIFEST_FILE,
            )
        missing = sum(e.size_bytes for e in files if not (folder / e.path).exists())
        with disk_errors(folder):
            free = shutil.disk_usage(folder).free
        if missing > free:
            raise ConfigError(
                f"The bundle needs {missing} bytes, and the disk that holds {folder} has {free} left.",
                remedy="Free some space there; the update goes on by itself.",
                subject=str(folder),
            )

    async def _bring(
        self, session: aiohttp.ClientSession, target: Target, entry: FileEntry, path: Path
    ) -> None:
        if await asyncio.to_thread(self._have, entry, path):
            return
        part = await asyncio.to_thread(PartFile, self._slots.parts(target.digest) / entry.sha256, entry)
        try:
            await self._stream(session, entry, part)
            if not part.matches() and part.resumed:
                # What an earlier try left may be damaged, and that is not the hub's fault: from the start.
                part.restart()
                await self._stream(session, entry, part)
            if not part.matches():
                part.restart()
                raise ArtifactError(
                    f"{entry.path} is not the file that was signed.",
                    remedy="The hub's copy is damaged or was tampered with; publish the bundle again.",
                    subject=entry.path,
                )
        finally:
            part.close()
        part.move_to(path)

    def _have(self, entry: FileEntry, path: Path) -> bool:
        """Whether the file is in its place already, perhaps by a copy from another slot just now."""
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and sha256_file(path) == entry.sha256:
                return True
            for source in self._slots.copies_of(entry.sha256):
                shutil.copyfile(source, path)
                if sha256_file(path) == entry.sha256:
                    self.reused_bytes += entry.size_bytes
                    return True
            path.unlink(missing_ok=True)
        return False

    async def _stream(self, session: aiohttp.ClientSession, entry: FileEntry, part: PartFile) -> None:
        """Fetches what is missing behind the bytes that are there."""
        if part.whole and part.resumed:
            return
        headers = {"Range": f"bytes={part.size_bytes}-"} if part.size_bytes else {}
        async with self._get(session, f"/device/v1/blobs/{entry.sha256}", entry.path, headers) as response:
            if part.size_bytes and response.status != 206:
                part.restart()  # a server may answer the whole file to a range
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                part.append(chunk)
                self.fetched_bytes += len(chunk)
        part.require_whole()

    async def _small(self, session: aiohttp.ClientSession, path: str, what: str, limit_bytes: int) -> bytes:
        async with self._get(session, path, what, {}) as response:
            data = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                data += chunk
                if len(data) > limit_bytes:
                    raise ArtifactError(f"{what} is larger than {limit_bytes} bytes.", subject=what)
        self.fetched_bytes += len(data)
        return bytes(data)

    @asynccontextmanager
    async def _get(
        self, session: aiohttp.ClientSession, path: str, what: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            # identity: Content-Encoding would make the lengths and ranges meaningless.
            headers = {"Accept-Encoding": "identity", **headers}
            async with session.get(path, headers=headers, allow_redirects=False) as response:
                if response.status not in (200, 206):
                    raise error_of(response.status, await response.content.read(_MAX_ERROR_BYTES), what)
                yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ssl.SSLError) as error:
            raise unreachable(self._hub_url, error) from error

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(ssl=self._tls(), limit=1)
        async with aiohttp.ClientSession(
            self._hub_url, connector=connector, timeout=self._timeout
        ) as session:
            yield session


def _drop_others(folder: Path, files: tuple[FileEntry, ...]) -> None:
    """Deletes staged files that this variant does not need, such as those of one chosen in an earlier try."""
    wanted = {folder / entry.path for entry in files} | {folder / MANIFEST_FILE, folder / SIGNATURE_FILE}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in wanted:
            path.unlink()
