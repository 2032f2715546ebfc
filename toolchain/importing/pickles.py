"""Pickles run code of whoever made them, so none is ever opened. They are told by their first bytes."""

from __future__ import annotations

from pathlib import Path

from edgeops.errors import ArtifactError

# Protocols 2 to 5 begin with the opcode PROTO and the protocol's number
# (https://peps.python.org/pep-3154/); torch.save writes a zip archive around one, joblib one that may be
# compressed by zlib, gzip, bzip2, xz, lzma or lz4.
_PICKLE = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_OTHER = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00\x00", b"\x04\x22M\x18")
_ARCHIVE = (b"PK\x03\x04", *_ZLIB, *_OTHER)


def refuse_pickle(path: Path, name: str, remedy: str, *, archives: bool = True) -> None:
    """Raises `ArtifactError` (subject: `name`) if the file looks like a pickle; with `archives` also if it
    looks like one inside an archive."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_PICKLE) or (archives and start.startswith(_ARCHIVE)):
        raise ArtifactError(
            f"{name} is a pickle, and opening one runs whatever code it holds.", remedy=remedy, subject=name
        )
