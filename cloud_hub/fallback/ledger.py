"""What the gateway answered, by minute, model, caller and reason, in the database."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite

from cloud_hub.store import schema
from cloud_hub.store.database import writing
from edgeops.errors import BadRequestError

Reason = Literal["low_confidence", "device_error", "requested"]
REASONS: frozenset[str] = frozenset(get_args(Reason))
REASON_HEADER = "X-Edgeops-Reason"
_MINUTE_MS = 60_000
# Rows that may wait while the database is away.
_MAX_PENDING = 100_000


class Key(NamedTuple):
    """What one row counts."""

    minute_ms: int
    model: str
    caller: str
    reason: str


@dataclass
class _Sums:
    requests: int = 0
    errors: int = 0
    latency_ms_sum: float = 0.0


def require_reason(text: str | None) -> str:
    """The reason that a request gives; `requested` if it gives none. Raises `BadRequestError` for others:
    they would become rows and time series of their own."""
    if text is None:
        return "requested"
    if text not in REASONS:
        raise BadRequestError(
            f"{text[:40]!r} is not a reason to ask the cloud.",
            remedy=f"Use one of {', '.join(sorted(REASONS))} in {REASON_HEADER}.",
            subject=REASON_HEADER,
        )
    return text


class Ledger:
    """Sums up in memory, and adds to the database's rows at each `flush`. Thread-safe.

    A process that is killed loses what it had summed up since the last flush: these are statistics, and
    no request waits for them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._pending: dict[Key, _Sums] = {}
        self.dropped = 0

    def add(
        self, *, at_ms: int, model: str, caller: str, reason: str, latency_ms: float, failed: bool
    ) -> None:
        """Counts one request. `model` must be one that is published, or callers could make up rows. While
        100,000 rows wait for a database that is away, further ones are dropped and counted in `dropped`."""
        key = Key(at_ms - at_ms % _MINUTE_MS, model, caller, reason)
        with self._lock:
            sums = self._pending.get(key)
            if sums is None:
                if len(self._pending) >= _MAX_PENDING:
                    self.dropped += 1
                    return
                sums = self._pending[key] = _Sums()
            sums.requests += 1
            sums.errors += failed
            sums.latency_ms_sum += latency_ms

    def flush(self) -> int:
        """Adds what was summed up, in one transaction; returns the number of rows. Blocks on the database.

        If that fails everything stays pending, and the error (SQLAlchemy's) goes to the caller.
        """
        with self._lock:
            taken, self._pending = self._pending, {}
        if not taken:
            return 0
        rows = [
            {**key._asdict(), **vars(sums)} for key, sums in sorted(taken.items(), key=lambda item: item[0])
        ]
        try:
            with writing(self._engine) as connection:
                connection.execute(_upsert(connection.dialect.name), rows)
        except BaseException:
            self._put_back(taken)
            raise
        return len(rows)

    def _put_back(self, taken: dict[Key, _Sums]) -> None:
        with self._lock:
            for key, sums in taken.items():
                now = self._pending.setdefault(key, _Sums())
                now.requests += sums.requests
                now.errors += sums.errors
                now.latency_ms_sum += sums.latency_ms_sum


def _upsert(dialect: str) -> Any:
    """INSERT … ON CONFLICT DO UPDATE, which both databases have and SQLAlchemy has per dialect only."""
    table = schema.fallback_minutes
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    sums = ("requests", "errors", "latency_ms_sum")
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + insert.excluded[name] for name in sums},
    )
