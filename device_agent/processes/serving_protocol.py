"""What the control process and a serving process say to each other: JSON lines over a socket pair.

The control process starts `python -P -m device_agent.serving --channel FD` with the listening socket
and the channel inherited. Then, in this order:

    control                          serving
    Start  ─────────────────────────► loads the engine, checks digests, runs the self-test, warms up
           ◄───────────────────────── Ready, or Failed (and exits with status 1)
    Serve  ─────────────────────────► accepts on the inherited socket
           ◄───────────────────────── Serving
    Drain  ─────────────────────────► stops accepting, answers what is open with `Connection: close`
           ◄───────────────────────── Drained (and exits with status 0)

The channel's end (the other side died) means: drain and exit. A serving process never outlives its
control process for longer than `drain_timeout_s`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgeops.messages import BundleRef


class Start(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load this. `slot_dir` holds the verified bundle; `ring_path` is the telemetry ring to create.
    `device_key_path`, `device_cert_path` and `ca_path` are for mutual TLS to the gateway."""

    slot_dir: str
    variant: str
    bundle: BundleRef
    ring_path: str
    ring_size_bytes: int
    listen_fd: int
    engine_threads: int
    memory_bytes: int
    request_size_bytes: int
    drain_timeout_s: float
    gateway_url: str | None = None
    fallback_timeout_s: float = 2.0
    device_key_path: str = ""
    device_cert_path: str = ""
    ca_path: str = ""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Loaded and self-tested. `largest_difference` is what the self-test saw, `run_ms` the median time of
    one item; a slow model runs in a thread, not `inline` in the event loop."""

    load_ms: float
    largest_difference: float
    run_ms: float = 0.0
    inline: bool = True


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Could not load or failed its self-test; `error` as `EdgeopsError.to_dict()` has it."""

    error: dict[str, Any]


class Serve(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Accept connections now."""


class Serving(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Accepting."""


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stop accepting, finish what is open, exit."""


class Drained(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nothing is open any more."""


Message = Start | Ready | Failed | Serve | Serving | Drain | Drained

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def encode_line(message: Message) -> bytes:
    """One line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_line(line: bytes) -> Message:
    """The message of one line. Raises `msgspec.DecodeError` on anything else."""
    message: Message = _decoder.decode(line)
    return message
