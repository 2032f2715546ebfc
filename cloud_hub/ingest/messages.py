"""From a message that a device sent to the row that is stored: what is refused, and which of two wins.

Pure functions. A device is trusted with its own telemetry and with nothing else: each field is bounded, so
that nothing it sends can stop the hub or spoil another device's figures. A sketch's inside is checked where
it is merged (`edgeops.sketches`); here its size, its family and its count.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from edgeops.errors import BadRequestError
from edgeops.messages import BundleRef, DeviceState, Event, FeatureProfile, ReportedState, Window
from edgeops.names import is_digest, is_name, is_version

# Counts, times and sequences stay exact in JSON and far from the end of 64 bits when they are summed.
MAX_COUNT = 1 << 48
MAX_SKETCH_BYTES = 64 << 10
MAX_FEATURES = 1_000
MAX_KEYS = 10_000
MAX_KEY_LENGTH = 200
MAX_DETAIL_BYTES = 64 << 10

# The first bytes of a serialized KLL sketch (see `edgeops.sketches`): its family, its flags, and for more
# than one value their number.
_KLL_FAMILY = 15
_KLL_EMPTY, _KLL_SINGLE = 1, 4
_KLL_COUNT = struct.Struct("<Q")

Row = dict[str, Any]


def window_row(window: Window, payload: bytes, received_ms: int) -> Row:
    """The row of `windows` for a window, `payload` being its encoded form. Raises `BadRequestError`."""
    _check_place(window.session, window.sequence)
    if not 0 <= window.start_ms <= window.end_ms <= MAX_COUNT:
        raise _bad("has times that cannot be")
    bundle = window.bundle
    if not _is_bundle(bundle.name, bundle.version, bundle.digest, window.variant):
        raise _bad("names a bundle or variant that cannot be")
    requests = _count(window.requests)
    errors = _total(window.errors)
    fallbacks = _total(window.fallbacks)
    if errors > requests or fallbacks > requests:
        raise _bad("counts more errors or fallbacks than requests")
    _total(window.classes)
    _total(window.fallback_failures)
    rejected = _count(window.rejected)
    labels_seen, labels_right = _count(window.labels_seen), _count(window.labels_right)
    if labels_right > labels_seen:
        raise _bad("counts more right labels than labels")
    _count(window.cache_hits)
    _count(window.tokens)
    _count(window.unsampled)
    if _count(window.outside) > requests:
        raise _bad("counts more requests outside the data contract than it had")
    _check_sketch(window.latency, None)
    _check_sketch(window.confidence, None)
    if len(window.features) > MAX_FEATURES:
        raise _bad(f"has more than {MAX_FEATURES} features")
    for name, profile in window.features.items():
        _check_feature(name, profile)
    return {
        "device": window.device,
        "session": window.session,
        "sequence": window.sequence,
        "model": bundle.name,
        "digest": bundle.digest,
        "start_ms": window.start_ms,
        "end_ms": window.end_ms,
        "received_ms": received_ms,
        "requests": requests,
        "errors": errors,
        "rejected": rejected,
        "fallbacks": fallbacks,
        "labels_seen": labels_seen,
        "labels_right": labels_right,
        "payload": payload,
    }


def event_row(event: Event, received_ms: int) -> Row:
    """The row of `events` for an event. Raises `BadRequestError`."""
    _check_place(event.session, event.sequence)
    if not 0 <= event.at_ms <= MAX_COUNT:
        raise _bad("has a time that cannot be")
    return {
        "device": event.device,
        "session": event.session,
        "sequence": event.sequence,
        "at_ms": event.at_ms,
        "received_ms": received_ms,
        "kind": _text(event.kind, 64, least=1),
        "detail_json": _json(event.detail),
    }


def state_row(state: DeviceState, received_ms: int) -> Row:
    """The columns of `devices` that come from `state`. Raises `BadRequestError`."""
    return {
        "session": _count(state.session),
        "connection": _count(state.connection),
        "online": state.online,
        "agent_version": _text(state.agent_version, 32),
        "seen_at_ms": received_ms,
    }


def reported_row(reported: ReportedState, received_ms: int) -> Row:
    """The columns of `devices` that come from `reported`. Raises `BadRequestError`."""
    running, status = reported.running, reported.update
    if running is not None:
        bundle = running.bundle
        if not _is_bundle(bundle.name, bundle.version, bundle.digest, running.variant):
            raise _bad("names a running bundle that cannot be")
    if status.target is not None and not _is_reference(status.target):
        raise _bad("names a target that cannot be")
    if not 0.0 <= status.progress <= 1.0:
        raise _bad("has a progress outside 0 to 1")
    return {
        "reported_session": _count(reported.session),
        "reported_revision": _count(reported.revision),
        "reported_generation": _count(reported.generation),
        "rejected_generation": _count(reported.rejected_generation),
        "running_digest": running.bundle.digest if running is not None else None,
        "running_variant": running.variant if running is not None else None,
        "running_requests": _count(running.requests) if running is not None else 0,
        "update_phase": _text(status.phase, 32, least=1),
        "update_generation": _count(status.generation),
        "update_target_digest": status.target.digest if status.target is not None else None,
        "update_progress": status.progress,
        "update_error_json": _json(status.error) if status.error is not None else None,
        "reported_at_ms": received_ms,
    }


def state_rank(connection: int, online: bool) -> tuple[int, bool]:
    """Of two states the one with the greater rank is kept: the higher connection, and within one
    connection offline. So a birth that arrives late never revives a dead device, in whatever order and
    however often messages come."""
    return connection, not online


def _check_place(session: int, sequence: int) -> None:
    if not (0 < session <= MAX_COUNT and 0 < sequence <= MAX_COUNT):
        raise _bad("has a session or sequence that cannot be")


def _check_feature(name: str, profile: FeatureProfile) -> None:
    if not 0 < len(name) <= MAX_KEY_LENGTH:
        raise _bad("has a feature whose name is empty or too long")
    _count(profile.count)
    _count(profile.invalid)
    # A sum is finite only if each of its parts is (or the sum overflows, which no honest profile does).
    if not math.isfinite(profile.mean + profile.m2 + profile.minimum + profile.maximum) or profile.m2 < 0:
        raise _bad("has a feature with moments that cannot be")
    _check_sketch(profile.kll, profile.count)


def _check_sketch(data: bytes, count: int | None) -> None:
    size = len(data)
    if not 8 <= size <= MAX_SKETCH_BYTES or data[2] != _KLL_FAMILY:
        raise _bad("has a sketch that is none")
    flags = data[3]
    if flags & _KLL_EMPTY:
        held = 0
    elif flags & _KLL_SINGLE:
        held = 1
    elif size >= 24:
        held = _KLL_COUNT.unpack_from(data, 8)[0]
    else:
        raise _bad("has a sketch that is none")
    if count is not None and held != count:
        raise _bad("has a sketch of another count than its feature's")


def _count(value: int) -> int:
    if not 0 <= value <= MAX_COUNT:
        raise _bad("has a count that is negative or absurd")
    return value


def _total(counts: Mapping[str, int]) -> int:
    if len(counts) > MAX_KEYS:
        raise _bad(f"has more than {MAX_KEYS} kinds of one thing")
    total = 0
    for key, value in counts.items():
        if len(key) > MAX_KEY_LENGTH:
            raise _bad("has a name that is too long")
        if not 0 <= value <= MAX_COUNT:
            raise _bad("has a count that is negative or absurd")
        total += value
    return _count(total)


def _text(text: str, most: int, *, least: int = 0) -> str:
    if not least <= len(text) <= most or not text.isascii() or not (text.isprintable()):
        raise _bad("has a text that is too long or not plain")
    return text


def _json(value: object) -> str:
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _bad("has details that are not plain data") from error
    if len(encoded) > MAX_DETAIL_BYTES:
        raise _bad(f"has details of more than {MAX_DETAIL_BYTES} bytes")
    return encoded.decode()


# A device sends the same bundle in every window.
@functools.lru_cache(maxsize=4096)
def _is_bundle(name: str, version: str, digest: str, variant: str) -> bool:
    return is_name(name) and is_version(version) and is_digest(digest) and is_name(variant)


def _is_reference(bundle: BundleRef) -> bool:
    return is_name(bundle.name) and is_version(bundle.version) and is_digest(bundle.digest)


def _bad(why: str) -> BadRequestError:
    return BadRequestError(f"This message {why}.")
