"""Asking the cloud in the device's place: Open Inference Protocol v2 over mutual TLS, with a deadline.

A device that is offline must stay fast, so after a few failures in a row the cloud is not asked for a while.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

import aiohttp

from device_agent.core.rows import FallbackReason
from device_agent.serving.gateway_codec import HEADER_SIZE, decode_response, encode_request
from edgeops.errors import ConfigError, TransportError
from edgeops.serving.host import Array, InferRequest

FAILURES_TO_OPEN: Final = 3
OPEN_S: Final = 5.0
_CONNECTIONS: Final = 32
REASON_HEADER: Final = "X-Edgeops-Reason"

Scalar = str | int | float | bool


@dataclass(frozen=True)
class CloudAnswer:
    """What the cloud said: outputs by name, and its response's parameters (digest, variant, …)."""

    outputs: dict[str, Array]
    parameters: Mapping[str, Scalar]


class Cloud(Protocol):
    """Whoever answers in the device's place."""

    async def ask(self, request: InferRequest, version: str, reason: FallbackReason) -> CloudAnswer:
        """The cloud's answer, or `TransportError` when there is none in time."""

    async def close(self) -> None:
        """Lets go of connections."""


class Circuit:
    """Open after `failures` failures in a row: then no attempt for `open_s`, and after that one at a time
    until one succeeds."""

    def __init__(
        self,
        failures: int = FAILURES_TO_OPEN,
        open_s: float = OPEN_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._open_s, self._now = failures, open_s, now
        self._failures = 0
        self._closed_until_s = 0.0

    def allows(self) -> bool:
        """Whether to try now. While open, a true answer lets nobody else try for another `open_s`."""
        if self._failures < self._limit:
            return True
        if self._now() < self._closed_until_s:
            return False
        self._closed_until_s = self._now() + self._open_s
        return True

    def succeeded(self) -> None:
        """An attempt was answered."""
        self._failures = 0

    def failed(self) -> None:
        """An attempt was not."""
        self._failures += 1
        self._closed_until_s = self._now() + self._open_s


class Gateway:
    """The hub's gateway. Certificate files are read again when they change, so a renewed certificate is used
    without a restart. Raises `ConfigError` when they cannot be used.

    An answer larger than `answer_size_bytes` counts as none.
    """

    def __init__(
        self,
        url: str,
        *,
        key_path: Path,
        cert_path: Path,
        ca_path: Path,
        timeout_s: float,
        answer_size_bytes: int,
    ) -> None:
        self._url = url.rstrip("/")
        self._key_path, self._cert_path, self._ca_path = key_path, cert_path, ca_path
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._answer_size_bytes = answer_size_bytes
        self._circuit = Circuit()
        self._session: aiohttp.ClientSession | None = None
        self._changed_ns = self._stamp()
        self._tls = self._context()

    async def ask(self, request: InferRequest, version: str, reason: FallbackReason) -> CloudAnswer:
        """The cloud's answer. Raises `TransportError` at once while the circuit is open, else when there is
        no good answer within the timeout."""
        if not self._circuit.allows():
            raise TransportError("The gateway did not answer lately; it is not asked.", subject=self._url)
        try:
            answer = await self._ask(request, version, reason)
        except TransportError:
            self._circuit.failed()
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ConfigError) as error:
            self._circuit.failed()
            why = "timed out" if isinstance(error, TimeoutError) else type(error).__name__
            raise TransportError(f"The gateway did not answer ({why}).", subject=self._url) from error
        self._circuit.succeeded()
        return answer

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, request: InferRequest, version: str, reason: FallbackReason) -> CloudAnswer:
        body, header_size = encode_request(request)
        url = (
            f"{self._url}/v2/models/{quote(request.model, safe='')}/versions/{quote(version, safe='')}/infer"
        )
        headers = {
            "Content-Type": "application/octet-stream",
            HEADER_SIZE: str(header_size),
            REASON_HEADER: reason,
        }
        session = await self._open()
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise TransportError(f"The gateway answered {response.status}.", subject=self._url)
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > self._answer_size_bytes:
                    raise TransportError("The gateway's answer is too large.", subject=self._url)
            outputs, parameters = decode_response(bytes(answer), response.headers.get(HEADER_SIZE))
            return CloudAnswer(outputs, parameters)

    async def _open(self) -> aiohttp.ClientSession:
        stamp = self._stamp()
        if stamp != self._changed_ns:
            self._tls, self._changed_ns = self._context(), stamp
            await self.close()
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._tls, limit=_CONNECTIONS)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    def _stamp(self) -> tuple[int, ...]:
        try:
            paths = (self._key_path, self._cert_path, self._ca_path)
            return tuple(path.stat().st_mtime_ns for path in paths)
        except OSError as error:
            raise self._unusable(error) from error

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=str(self._ca_path))
            context.load_cert_chain(str(self._cert_path), str(self._key_path))
        except (OSError, ssl.SSLError) as error:
            raise self._unusable(error) from error
        return context

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"The device's certificate or key cannot be used ({error.strerror or error}).",
            remedy="Enrol the device again.",
            subject=str(self._cert_path),
        )
