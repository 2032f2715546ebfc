"""Requests to the hub's device API, and its errors as ours.

Small requests (enrolment, renewal) go through `http.client`; downloads stream through aiohttp
(`device_agent.updates.download`) and share the error mapping.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from edgeops.errors import (
    AccessError,
    BadRequestError,
    ConfigError,
    ConflictError,
    EdgeopsError,
    NotFoundError,
    RateLimitedError,
    TransportError,
    UnauthenticatedError,
)

MAX_ANSWER_BYTES = 1 << 20

_BY_STATUS: Mapping[int, type[EdgeopsError]] = {
    400: BadRequestError,
    401: UnauthenticatedError,
    403: AccessError,
    404: NotFoundError,
    409: ConflictError,
    422: BadRequestError,
    429: RateLimitedError,
}


def call(
    url: str, path: str, *, context: ssl.SSLContext, timeout_s: float, body: Mapping[str, Any] | None = None
) -> bytes:
    """GETs `path` of the hub at `url` (https), or POSTs `body` as JSON; returns the answer's bytes.

    Raises `TransportError` when the hub cannot be reached or fails, `ConfigError` for an unusable URL, and
    what the hub's own error says otherwise.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigError(
            f"{url!r} is no https URL of a hub.", remedy="Check the hub's URL.", subject="hub_url"
        )
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port or 443, timeout=timeout_s, context=context
    )
    try:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        connection.request("GET" if data is None else "POST", path, body=data, headers=headers)
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(url, error) from error
    finally:
        connection.close()
    if len(answer) > MAX_ANSWER_BYTES:
        raise TransportError(
            f"The hub at {url} answered with more than {MAX_ANSWER_BYTES} bytes.", subject=url
        )
    if response.status >= 300:
        raise error_of(response.status, answer, path)
    return answer


def call_json(
    url: str, path: str, *, context: ssl.SSLContext, timeout_s: float, body: Mapping[str, Any]
) -> dict[str, Any]:
    """`call` with a JSON object as the answer; anything else is a `TransportError`."""
    answer = call(url, path, context=context, timeout_s=timeout_s, body=body)
    try:
        value = json.loads(answer)
    except ValueError as error:
        raise TransportError(f"The hub at {url} did not answer with JSON.", subject=url) from error
    if not isinstance(value, dict):
        raise TransportError(f"The hub at {url} did not answer with a JSON object.", subject=url)
    return value


def unreachable(url: str, error: BaseException) -> TransportError:
    """The hub cannot be reached, or the link broke."""
    why = str(error) or type(error).__name__
    return TransportError(
        f"The hub at {url} cannot be reached ({why}).",
        remedy="Check the network, and that the hub runs.",
        subject=url,
    )


def error_of(status: int, answer: bytes, subject: str) -> EdgeopsError:
    """The error that the hub answered with: its class by status, its words from the body if it has any."""
    message, remedy = f"The hub answered with status {status}.", None
    try:
        told = json.loads(answer)["error"]
        message, remedy = str(told["message"]), told.get("remedy")
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not the hub's own error, such as a proxy's page: the status has to do
    return _BY_STATUS.get(status, TransportError)(message, remedy=remedy, subject=subject)
