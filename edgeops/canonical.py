"""Canonical JSON and digests: the bytes that identities are made of."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import rfc8785


def canonical_json(value: object) -> bytes:
    """JSON as RFC 8785 (JCS) has it: one byte string for one value.

    Raises `ValueError` on what JCS cannot express (NaN, infinities, integers beyond 2^53).
    """
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of `data` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content in lower-case hex, read in chunks of 1 MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Mapping[str, object]) -> str:
    """The SHA-256 of a mapping's canonical JSON."""
    return sha256_bytes(canonical_json(value))
