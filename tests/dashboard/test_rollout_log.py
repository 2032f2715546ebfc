"""What a rollout's page gets of its log: a long canary's looks never push the transitions out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete, insert

from cloud_hub.control import rollouts
from cloud_hub.store import schema

KINDS = st.lists(st.sampled_from(["look", "look", "look", "transition", "device"]), max_size=60)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Connection:
    folder: Path = tmp_path_factory.mktemp("log")
    engine = create_engine(f"sqlite:///{folder / 'hub.db'}")
    schema.metadata.create_all(engine)
    return engine.connect()


def fill(connection: Connection, kinds: list[str]) -> None:
    """One rollout's log, with another's between."""
    connection.execute(delete(schema.rollout_log))
    for at_ms, kind in enumerate(kinds):
        for rollout in ("r", "other"):
            connection.execute(
                insert(schema.rollout_log).values(
                    rollout=rollout, at_ms=at_ms, kind=kind, detail_json=json.dumps({"of": rollout})
                )
            )


@settings(deadline=None)
@given(kinds=KINDS, limit=st.integers(2, 12))
def test_both_kinds_get_their_share(connection: Connection, kinds: list[str], limit: int) -> None:
    fill(connection, kinds)
    entries = rollouts.log(connection, "r", limit=limit)
    assert all(entry.detail == {"of": "r"} for entry in entries)
    assert [entry.id for entry in entries] == sorted((entry.id for entry in entries), reverse=True)
    others = [at for at, kind in enumerate(kinds) if kind != "look"]
    assert [entry.at_ms for entry in entries if entry.kind != "look"] == others[::-1][:limit]
    looks = [at for at, kind in enumerate(kinds) if kind == "look"]
    shown = [entry.at_ms for entry in entries if entry.kind == "look"]
    assert len(shown) <= limit
    if len(looks) < limit:
        assert shown == looks[::-1]
    else:
        assert (shown[0], shown[-1]) == (looks[-1], looks[0]), "the newest and the oldest look are there"
        places = [looks.index(at) for at in shown[1:]]
        steps = {after - before for after, before in pairwise(places)}
        assert len(steps) <= 1, "thinned out evenly"
