"""The hub's API from an operator's side: what the command line is made of.

Errors come back as the classes that the hub raised, so a command's exit status is the same whether the hub
or the command found the fault.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from cloud_hub.settings import HubSettings
from cloud_hub.trust.access import read_operator_token
from edgeops.bundle import open_file
from edgeops.canonical import sha256_bytes
from edgeops.errors import ArtifactError, ConfigError, EdgeopsError, TransportError, UnauthenticatedError
from edgeops.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MEASUREMENTS_FILE,
    SIGNATURE_FILE,
    Manifest,
)
from edgeops.settings import load

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT = httpx.Timeout(30.0, read=120.0)
_PIECE_BYTES = 1 << 20

# (path, bytes sent of it, its size); for a progress bar.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Published:
    """What a publication came to. `new` is false when the hub had this very bundle already."""

    digest: str
    name: str
    version: str
    new: bool
    uploaded_files: int
    uploaded_bytes: int


class HubClient:
    """A connection to the operators' API; use it as a context manager. Not thread-safe."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        if not (token.isascii() and token.isprintable()):
            raise UnauthenticatedError(
                "The operator's token has characters that no token has.",
                remedy="Copy all of admin.token in the hub's state folder, and nothing else.",
                subject="EDGEOPS_HUB_TOKEN",
            )
        headers = {"Authorization": f"Bearer {token}"}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False)
        except httpx.InvalidURL as error:
            raise ConfigError(
                f"{url!r} is no address of a hub ({error}).",
                remedy="Give one such as http://127.0.0.1:8080 with EDGEOPS_HUB_URL.",
                subject="EDGEOPS_HUB_URL",
            ) from error

    @classmethod
    def from_environment(cls, url: str | None = None) -> HubClient:
        """The hub at `url`, else at EDGEOPS_HUB_URL, else on this machine; the token from EDGEOPS_HUB_TOKEN,
        else from this machine's hub. Raises `ConfigError` when there is no token or the address is none,
        and `UnauthenticatedError` for a token that cannot be one."""
        found = url or os.environ.get("EDGEOPS_HUB_URL") or DEFAULT_URL
        token = os.environ.get("EDGEOPS_HUB_TOKEN") or read_operator_token(load(HubSettings))
        return cls(found, token)

    def __enter__(self) -> HubClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON behind `path`. Parameters that are None are left out."""
        given = {key: value for key, value in (params or {}).items() if value is not None}
        return self._request("GET", path, params=given)

    def post(self, path: str, body: object | None = None) -> Any:
        """The JSON answered to a POST of `body` as JSON."""
        return self._request("POST", path, json={} if body is None else body)

    def put(self, path: str, body: object) -> Any:
        """The JSON answered to a PUT of `body` as JSON."""
        return self._request("PUT", path, json=body)

    def publish(self, bundle: Path, progress: Progress) -> Published:
        """Uploads what the hub lacks of a bundle folder, then publishes it.

        The hub verifies; here only the files are found. Raises `ArtifactError` naming the file relative to
        the bundle, and what the hub refuses.
        """
        if not bundle.is_dir():
            raise ArtifactError(
                f"{bundle} is no bundle: there is no such folder.",
                remedy="Give the folder that edgeops build wrote.",
                subject=str(bundle),
            )
        signature = _read(bundle, SIGNATURE_FILE, 8 << 20)
        data = _read(bundle, MANIFEST_FILE, MAX_MANIFEST_BYTES)
        digest = sha256_bytes(data)
        entries = Manifest.parse(data).all_files()
        paths = {digest: MANIFEST_FILE} | {entry.sha256: path for path, entry in entries.items()}
        missing = self.post("/api/v1/blobs/missing", {"sha256": list(paths)})["missing"]
        sent = sum(self._upload(bundle, paths[each], each, progress) for each in missing)
        body: dict[str, object] = {"digest": digest, "signature_b64": _base64(signature)}
        if (bundle / MEASUREMENTS_FILE).exists():
            body["measurements_b64"] = _base64(_read(bundle, MEASUREMENTS_FILE, 4 << 20))
        response = self._send("POST", "/api/v1/bundles", json=body)
        answer = response.json()
        return Published(
            digest=answer["digest"],
            name=answer["name"],
            version=answer["version"],
            new=response.status_code == 201,
            uploaded_files=len(missing),
            uploaded_bytes=sent,
        )

    def _upload(self, bundle: Path, path: str, sha256: str, progress: Progress) -> int:
        with open_file(bundle, path) as file:
            size = os.fstat(file.fileno()).st_size

            def pieces() -> Iterator[bytes]:
                sent = 0
                while piece := file.read(_PIECE_BYTES):
                    yield piece
                    sent += len(piece)
                    progress(path, sent, size)

            try:
                self._request(
                    "PUT", f"/api/v1/blobs/{sha256}", content=pieces(), headers={"Content-Length": str(size)}
                )
            except ArtifactError as error:
                raise ArtifactError(
                    f"{path} is not the file that {MANIFEST_FILE} lists.",
                    remedy="Fetch or build the bundle again.",
                    subject=path,
                    details={"expected_sha256": sha256},
                ) from error
        return size

    def _request(self, method: str, path: str, **options: Any) -> Any:
        response = self._send(method, path, **options)
        try:
            return response.json()
        except ValueError as error:
            raise _not_a_hub(response) from error

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise TransportError(
                f"The hub at {self.url} does not answer ({error}).",
                remedy="Start it with edgeops hub serve, or give its address with EDGEOPS_HUB_URL.",
                subject=self.url,
            ) from error
        if response.is_success:
            return response
        raise _error_of(response)


def _error_of(response: httpx.Response) -> EdgeopsError:
    try:
        body = response.json()["error"]
        kind = _kinds().get(body["kind"], EdgeopsError)
        return kind(body["message"], remedy=body["remedy"], subject=body["subject"], details=body["details"])
    except (ValueError, KeyError, TypeError):
        return _not_a_hub(response)


def _not_a_hub(response: httpx.Response) -> TransportError:
    return TransportError(
        f"{response.request.url.netloc.decode()} answered {response.status_code}, and not as a hub does.",
        remedy="Check that EDGEOPS_HUB_URL is the address of a hub.",
        subject=str(response.request.url),
    )


def _kinds() -> dict[str, type[EdgeopsError]]:
    found: dict[str, type[EdgeopsError]] = {}
    pending: list[type[EdgeopsError]] = [EdgeopsError]
    while pending:
        kind = pending.pop()
        found[kind.kind] = kind
        pending += kind.__subclasses__()
    return found


def _read(bundle: Path, path: str, limit_bytes: int) -> bytes:
    with open_file(bundle, path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ArtifactError(f"{path} is larger than {limit_bytes} bytes.", subject=path)
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
