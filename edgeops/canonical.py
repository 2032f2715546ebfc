"""Canonical JSON and digests: the bytes that identities are made of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import rfc8785


def canonical_json(value: object) -> bytes:
    """JSON as RFC 8785 (JCS) has it: one byte string for one value.

    Raises `ValueError` on what JCS cannot express (NaN, infinities, integers beyond 2^53).
    """
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def strict_json(data: bytes) -> Any:
    """The value in UTF-8 JSON that has only one reading: no key twice, no NaN or infinity by name, no
    integer that a double would round.

    Raises `ValueError` on anything else, too deep a nesting included.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constants, parse_int=_number
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _number(text: str) -> int | float:
    value = int(text)
    if -(2**53) < value < 2**53:
        return value
    # RFC 8785 writes doubles from 2^53 to 10^21 as integers: what it would write for one, is one.
    double = float(text)
    if canonical_json(double) != text.encode():
        raise ValueError(f"the integer {text} is beyond 2^53")
    return double


def _no_constants(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of `data` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content in lower-case hex, read in chunks."""
    with path.open("rb") as file:
        return sha256_stream(file)


def sha256_stream(file: BinaryIO) -> str:
    """The SHA-256, in lower-case hex, of what is left in an open file; memory use does not grow with it."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def digest_of(value: Mapping[str, object]) -> str:
    """The SHA-256 of a mapping's canonical JSON."""
    return sha256_bytes(canonical_json(value))
