"""Protocol Buffers' wire format, walked field by field in a file that nobody trusts yet.

https://protobuf.dev/programming-guides/encoding/. Nothing is kept and payloads are stepped over, so memory
does not grow with the file; each field costs a step of a fixed budget, so time does not either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edgeops.errors import ArtifactError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 2_000_000
_WINDOW_BYTES = 1 << 16
_MAX_VARINT_BYTES = 10


class Field(NamedTuple):
    """One field of a message. A varint has its `value`; anything else lies from `start` to `end`."""

    number: int
    wire: int
    value: int
    start: int
    end: int


def unpacked_run(number: int, wire: int) -> tuple[int, re.Pattern[bytes]]:
    """The first byte of a field whose number is below 16, and a pattern of many such fields in a row."""
    tag = number << 3 | wire
    body = rb"[\x80-\xff]{0,9}[\x00-\x7f]" if wire == VARINT else rb"[\x00-\xff]{4}"
    return tag, re.compile(rb"(?:" + re.escape(bytes([tag])) + body + rb")+")


@dataclass
class WireFile:
    """An open file of `size_bytes`. Read by position (pread), not mapped: a file that shrinks meanwhile is
    then an error, not a signal."""

    fd: int
    size_bytes: int
    subject: str
    _left: int = MAX_FIELDS
    _base: int = 0
    _window: bytes = b""

    def fields(
        self, start: int, end: int, runs: Mapping[int, re.Pattern[bytes]] | None = None
    ) -> Iterator[Field]:
        """The fields of the message from `start` to `end`. Those that match one of `runs` (by first byte, see
        `unpacked_run`) are stepped over many at a time and not given.

        Raises `ArtifactError` on what is no such message, and when the budget of fields is spent.
        """
        position = start
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise self.refused(f"has more than {MAX_FIELDS} fields")
            if runs:
                position = self._step_over(runs, position, end)
                if position == end:
                    return
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self.refused(f"is no protobuf message at byte {position}")
            if wire == VARINT:
                value, position = self._varint(position, end)
                yield Field(number, wire, value, position, position)
                continue
            if wire == BYTES:
                length, position = self._varint(position, end)
            elif wire in (FIXED64, FIXED32):
                length = 8 if wire == FIXED64 else 4
            else:  # groups are out of use since 2008, and no ONNX message has one
                raise self.refused(f"is no protobuf message at byte {position}")
            if length > end - position:
                raise self.refused(f"is cut short: a field at byte {position} claims {length} bytes")
            yield Field(number, wire, 0, position, position + length)
            position += length

    def numbers(self, field: Field) -> Iterator[int]:
        """The values of a repeated integer field, packed or not, as signed 64 bit numbers."""
        if field.wire == VARINT:
            yield _signed(field.value)
            return
        position = field.start
        while position < field.end:
            self._left -= 1
            if self._left < 0:
                raise self.refused(f"has more than {MAX_FIELDS} fields")
            value, position = self._varint(position, field.end)
            yield _signed(value)

    def read(self, field: Field, max_bytes: int) -> bytes:
        """The content of a field of bytes. Raises `ArtifactError` if it is longer than `max_bytes`."""
        length = field.end - field.start
        if length > max_bytes:
            raise self.refused(f"has a text of {length} bytes where {max_bytes} is the most")
        offset = field.start - self._base
        if offset >= 0 and offset + length <= len(self._window):
            return self._window[offset : offset + length]
        return self._pread(length, field.start)

    def refused(self, why: str) -> ArtifactError:
        """The error that says `why` this file is refused."""
        return ArtifactError(
            f"{self.subject} {why}.", remedy="Export the model again, or get it again.", subject=self.subject
        )

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        offset = self._load(position, end)
        window = self._window
        byte = window[offset]
        if byte < 0x80:
            return byte, position + 1
        value, shift = byte & 0x7F, 7
        last = min(offset + _MAX_VARINT_BYTES, offset + end - position, len(window))
        for index in range(offset + 1, last):
            byte = window[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position + index - offset + 1
            shift += 7
        raise self.refused(f"is no protobuf message at byte {position}")

    def _step_over(self, runs: Mapping[int, re.Pattern[bytes]], position: int, end: int) -> int:
        while position < end:
            offset = self._load(position, end)
            pattern = runs.get(self._window[offset])
            if pattern is None:
                return position
            match = pattern.match(self._window, offset, min(len(self._window), offset + end - position))
            if match is None:
                return position
            position += match.end() - offset
        return position

    def _load(self, position: int, end: int) -> int:
        """Makes the window hold what can be had of a varint at `position`; returns where in it that is."""
        offset = position - self._base
        wanted = min(_MAX_VARINT_BYTES, end - position)
        if offset < 0 or offset + wanted > len(self._window):
            self._window = self._pread(min(_WINDOW_BYTES, self.size_bytes - position), position)
            self._base, offset = position, 0
        if offset >= len(self._window):
            raise self.refused("is cut short")
        return offset

    def _pread(self, length: int, position: int) -> bytes:
        data = os.pread(self.fd, length, position)
        if len(data) != length:
            raise self.refused("changed while it was read")
        return data


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
