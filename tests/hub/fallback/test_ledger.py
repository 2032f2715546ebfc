"""What the gateway writes down: every request once, under a closed set of names, and no less when the
database was away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError

from cloud_hub.fallback.ledger import REASONS, Ledger, _upsert, require_reason
from cloud_hub.store import schema
from cloud_hub.store.database import reading, writing
from cloud_hub.trust.access import Services
from edgeops.errors import BadRequestError
from edgeops_testkit.hub_core import open_hub

table = schema.fallback_minutes


def _rows(engine: Engine) -> dict[tuple[int, str, str, str], tuple[int, int, float]]:
    with reading(engine) as connection:
        return {tuple(row[:4]): tuple(row[4:]) for row in connection.execute(select(table))}


_requests = st.tuples(
    st.integers(0, 200_000),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["cam-1", "cam-2"]),
    st.sampled_from(sorted(REASONS)),
    st.integers(0, 50),
    st.booleans(),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(_requests, max_size=12), max_size=4))
def test_the_rows_are_the_sums_however_they_are_batched(services: Services, batches: list) -> None:
    with writing(services.engine) as connection:
        connection.execute(delete(table))
    ledgers = [Ledger(services.engine), Ledger(services.engine)]  # two gateways on one database
    requests, errors, latency = Counter(), Counter(), Counter()
    for index, batch in enumerate(batches):
        for at_ms, model, caller, reason, latency_ms, failed in batch:
            ledgers[index % 2].add(
                at_ms=at_ms, model=model, caller=caller, reason=reason, latency_ms=latency_ms, failed=failed
            )
            key = (at_ms // 60_000 * 60_000, model, caller, reason)
            requests[key] += 1
            errors[key] += failed
            latency[key] += latency_ms
        ledgers[index % 2].flush()
    assert [ledger.flush() for ledger in ledgers] == [0, 0]
    assert _rows(services.engine) == {
        key: (count, errors[key], latency[key]) for key, count in requests.items()
    }


def test_nothing_is_lost_while_the_database_is_away(tmp_path: Path) -> None:
    with open_hub(tmp_path) as services:
        ledger = Ledger(services.engine)
        with writing(services.engine) as connection:
            connection.execute(text("ALTER TABLE fallback_minutes RENAME TO away"))
        one = {"model": "m", "caller": "c", "reason": "requested", "latency_ms": 2.0}
        ledger.add(at_ms=5, failed=False, **one)
        with pytest.raises(OperationalError):
            ledger.flush()
        ledger.add(at_ms=6, failed=True, **one)
        with pytest.raises(OperationalError):
            ledger.flush()
        with writing(services.engine) as connection:
            connection.execute(text("ALTER TABLE away RENAME TO fallback_minutes"))
        assert ledger.flush() == 1
        assert _rows(services.engine) == {(0, "m", "c", "requested"): (2, 1, 4.0)}
        assert ledger.dropped == 0


@pytest.mark.slow
def test_memory_is_bounded_while_the_database_is_away(services: Services) -> None:
    ledger = Ledger(services.engine)
    for minute in range(100_005):
        ledger.add(
            at_ms=minute * 60_000, model="m", caller="c", reason="requested", latency_ms=1.0, failed=False
        )
    assert ledger.dropped == 5
    ledger.add(at_ms=0, model="m", caller="c", reason="requested", latency_ms=1.0, failed=False)
    assert ledger.dropped == 5


def test_reasons_are_a_closed_set() -> None:
    assert require_reason(None) == "requested"
    assert {require_reason(reason) for reason in REASONS} == REASONS
    for other in ("", "LOW_CONFIDENCE", "x" * 1000):
        with pytest.raises(BadRequestError, match="is not a reason"):
            require_reason(other)


def test_postgresql_gets_an_upsert_too() -> None:
    statement = str(_upsert("postgresql").compile(dialect=postgresql.dialect()))
    assert "ON CONFLICT (minute_ms, model, caller, reason) DO UPDATE" in statement
    assert "requests = (fallback_minutes.requests + excluded.requests)" in statement
