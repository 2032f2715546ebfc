"""What devices and the hub say to each other over MQTT: MessagePack of msgspec structs.

Unknown fields are ignored on reading, so that either side may be newer. A payload that does not fit
raises `BadRequestError`; the receiver counts and drops it. Times are milliseconds UTC.

Idempotence: windows and events carry (`device`, `session`, `sequence`). A *session* is one run of an
agent (a number that only grows); a *sequence* counts windows and events together within a session from 1
without gaps, so the hub can tell duplicates and losses apart.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edgeops.errors import BadRequestError

MAX_MESSAGE_BYTES = 1 << 20


class BundleRef(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle by name, version and identity. Only `digest` is trusted; the rest is for people."""

    name: str
    version: str
    digest: str


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """`state`, retained, and the last will: whether the device is connected.

    `connection` grows with every attempt to connect and is stored before it, so a message that
    arrives late (the will of an older connection, or a birth after it) is recognised and ignored:
    keep the highest connection; within one connection offline wins.
    """

    device: str
    session: int
    connection: int
    online: bool
    at_ms: int
    agent_version: str = ""


class DesiredState(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub wants a device to run. Travels inside a `SignedEnvelope`.

    `generation` only grows per device; a device refuses one that is not above the last it accepted,
    unless it is the very same. `bundle` None means: run nothing.
    """

    device: str
    generation: int
    bundle: BundleRef | None
    rollout: str | None
    issued_at_ms: int


class SignedEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """`desired`, retained: MessagePack of a `DesiredState` and the hub's signature over
    `DESIRED_CONTEXT + payload` (ECDSA P-256 with SHA-256, DER). `key_id` is the SHA-256 of the
    public key's DER SubjectPublicKeyInfo."""

    payload: bytes
    key_id: str
    signature: bytes


DESIRED_CONTEXT = b"edgeops desired state v1\x00"


class RunningBundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a device's serving process has loaded: `bundle.digest` is that of the verified manifest
    whose weights are in memory, `requests` how many it has answered from them since."""

    bundle: BundleRef
    variant: str
    loaded_at_ms: int
    requests: int


class UpdateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where an update stands. `phase` is a phase of the update machine (`idle`, `downloading`, …);
    `error` the last failure as `EdgeopsError.to_dict()` has it."""

    phase: str
    generation: int
    target: BundleRef | None = None
    attempts: int = 0
    progress: float = 0.0
    error: dict[str, Any] | None = None


class ReportedState(msgspec.Struct, frozen=True, kw_only=True):
    """`reported`: the device's side of the twin. The hub keeps the one with the highest
    (`session`, `revision`). `generation` is the last desired generation accepted."""

    device: str
    session: int
    revision: int
    generation: int
    running: RunningBundle | None
    update: UpdateStatus
    at_ms: int
    rejected_generation: int = 0


class FeatureProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in one window: count of finite values, count of others, mean, sum of squared
    deviations (M2, Welford), extremes, and a serialized KLL sketch (float32, k = 200)."""

    count: int
    invalid: int
    mean: float
    m2: float
    minimum: float
    maximum: float
    kll: bytes


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One interval of telemetry of one loaded bundle.

    `requests` counts well-formed requests, whoever answered them; `errors` those among them that the
    device's engine failed on, by error kind, also where the cloud then answered; `rejected` malformed ones
    (answered 4xx, not in `requests`). `latency` is a KLL sketch of the milliseconds that the device's own
    answers took, `confidence` one of [0, 1]. `classes` counts the device's own predicted classes by name.
    `fallbacks` counts requests answered by the cloud, by reason; `fallback_failures` those that should
    have been.
    `labels_seen` and `labels_right` count labels that arrived within the window.
    `unsampled` counts requests whose details (sketches, classes, features) were lost; `outside` those of
    `requests` that had a value beyond the bounds of the model's data contract.
    """

    device: str
    session: int
    sequence: int
    start_ms: int
    end_ms: int
    bundle: BundleRef
    variant: str
    requests: int
    errors: dict[str, int]
    rejected: int
    latency: bytes
    confidence: bytes
    classes: dict[str, int]
    features: dict[str, FeatureProfile]
    fallbacks: dict[str, int]
    fallback_failures: dict[str, int] = {}
    labels_seen: int = 0
    labels_right: int = 0
    cache_hits: int = 0
    tokens: int = 0
    unsampled: int = 0
    outside: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened on a device, such as an update's phase or a refused bundle."""

    device: str
    session: int
    sequence: int
    at_ms: int
    kind: str
    detail: dict[str, Any]


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """`acks`: the hub has committed these (session, sequence) pairs; the spool may drop them."""

    device: str
    pairs: tuple[tuple[int, int], ...]


MessageT = TypeVar("MessageT", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {}


def encode(message: msgspec.Struct) -> bytes:
    """MessagePack of one message."""
    return _encoder.encode(message)


def decode(data: bytes, kind: type[MessageT]) -> MessageT:
    """The message of type `kind` in `data`. Raises `BadRequestError` if it is none, or too large."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise BadRequestError(f"A message of {len(data)} bytes is larger than {MAX_MESSAGE_BYTES}.")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        message: MessageT = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"This is no {kind.__name__}: {error}.") from error
    return message
