"""Reading the body of an inference request: bounded, decompressed, of a media type the protocol has."""

from __future__ import annotations

import zlib

from starlette.types import Receive, Scope

from edgeops.errors import BadRequestError

# Window bits for zlib: gzip, and the zlib format that HTTP calls deflate (RFC 9110, section 8.4.1).
_CODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


class PayloadTooLargeError(BadRequestError):
    """The body is larger than this server takes, as sent or after decompression."""

    http_status = 413
    kind = "payload_too_large"


class MediaTypeError(BadRequestError):
    """The body is in a media type or content coding that the protocol does not have."""

    http_status = 415
    kind = "media_type"


class DisconnectedError(Exception):
    """The client went away before its request was whole."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> tuple[bytes, int | None]:
    """The decompressed body, and the size in bytes of its JSON part if the request says that binary data
    follows (`Inference-Header-Content-Length`).

    Never holds more than `limit` bytes and one chunk, as received or decompressed. Raises
    `PayloadTooLargeError`, `MediaTypeError`, `BadRequestError`, or `DisconnectedError`.
    """
    coding = b""
    header_size: int | None = None
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise _too_large(limit)
        if name == b"content-type":
            _check_media_type(value)
        elif name == b"content-encoding":
            coding = value.strip().lower()
        elif name == b"inference-header-content-length":
            header_size = _number(value)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        body = await _rest(body, receive, limit)
    elif message["type"] == "http.disconnect":
        raise DisconnectedError
    if len(body) > limit:
        raise _too_large(limit)
    if coding not in (b"", b"identity"):
        body = _decompress(body, coding, limit)
    return body, header_size


async def _rest(first: bytes, receive: Receive, limit: int) -> bytes:
    chunks, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _decompress(body: bytes, coding: bytes, limit: int) -> bytes:
    bits = _CODINGS.get(coding)
    if bits is None:
        raise MediaTypeError(
            f"The content encoding {coding[:40].decode('latin-1')!r} is not supported.",
            remedy="Use gzip, deflate, or none.",
            subject="Content-Encoding",
        )
    stream = zlib.decompressobj(bits)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadRequestError(f"The body cannot be decompressed ({error}).", subject="body") from error
    if len(plain) > limit:
        raise _too_large(limit)
    if not stream.eof or stream.unused_data:
        raise BadRequestError("The compressed body is cut short, or more follows it.", subject="body")
    return plain


def _check_media_type(value: bytes) -> None:
    media_type = value.partition(b";")[0].strip().lower()
    if media_type not in (b"application/json", b"application/octet-stream", b""):
        raise MediaTypeError(
            f"The content type {media_type[:80].decode('latin-1')!r} is not supported.",
            remedy="Use application/json, or application/octet-stream with binary tensor data.",
            subject="Content-Type",
        )


def _number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadRequestError(
            "Inference-Header-Content-Length is not a size in bytes.",
            subject="Inference-Header-Content-Length",
        )
    return int(value)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"The request is larger than {limit} bytes.",
        remedy="Send fewer rows at a time.",
        subject="body",
        details={"limit_bytes": limit},
    )
