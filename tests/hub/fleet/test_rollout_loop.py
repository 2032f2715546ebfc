"""Rollouts against a real database: windows come through the ingest, the loop moves the machine."""

from __future__ import annotations

import json

import msgspec
import pytest
from sqlalchemy import event

from cloud_hub.control import rollouts
from cloud_hub.store.database import reading, writing
from edgeops.errors import ConflictError
from edgeops.messages import BundleRef
from edgeops.signing.desired import open_desired
from edgeops_testkit.hub_fleet import FleetHub
from fleet.rollout_types import Rollout, Spec, State, parse_spec

DEVICES = [f"d{number}" for number in range(6)]


def create(hub: FleetHub, version: str, **spec: object) -> str:
    """A rollout that is approved."""
    bundle = msgspec.to_builtins(hub.bundles[version])
    parsed = parse_spec({"candidate": bundle, "alias": "prod", **spec})
    with writing(hub.services.engine) as connection:
        rollout_id = rollouts.create(connection, parsed, "operator", hub.now_ms).rollout.id
    approve(hub, rollout_id)
    return rollout_id


def approve(hub: FleetHub, rollout_id: str) -> None:
    with writing(hub.services.engine) as connection:
        rollouts.approve(connection, hub.services.desired_key, rollout_id, "operator", hub.now_ms)


def load(hub: FleetHub, rollout_id: str) -> Rollout:
    with reading(hub.services.engine) as connection:
        return rollouts.load(connection, rollout_id).rollout


def phase(hub: FleetHub, rollout_id: str) -> str:
    return load(hub, rollout_id).state.phase


def serve_all(hub: FleetHub, *, rounds: int = 1, wrong: dict[str, int] | None = None) -> None:
    """Every device loads what it should run, and serves from it; `wrong` answers by version, of 50."""
    for _ in range(rounds):
        for name in DEVICES:
            bundle = hub.wanted(name)
            hub.report(name, bundle, requests=50)
            if bundle is not None:
                hub.window(name, bundle, wrong=(wrong or {}).get(bundle.version, 1))


def install_first(hub: FleetHub) -> str:
    """1.0.0 on all."""
    rollout_id = create(hub, "1.0.0", strategy="all-at-once")
    hub.tick()
    serve_all(hub)
    hub.tick()
    assert phase(hub, rollout_id) == "completed"
    return rollout_id


def versions(hub: FleetHub) -> dict[str, str | None]:
    wanted = {name: hub.wanted(name) for name in DEVICES}
    return {name: bundle.version if bundle is not None else None for name, bundle in wanted.items()}


def test_a_first_install_counts_a_device_only_once_it_serves(hub: FleetHub) -> None:
    rollout_id = create(hub, "1.0.0", strategy="all-at-once")
    assert versions(hub) == dict.fromkeys(DEVICES), "an approval moves nothing yet"
    hub.tick()
    assert versions(hub) == dict.fromkeys(DEVICES, "1.0.0")
    for name in DEVICES:
        hub.report(name, hub.bundles["1.0.0"])
    hub.tick()
    state = load(hub, rollout_id).state
    assert state.phase == "rolling_out"
    assert {each.status for each in state.progress.values()} == {"installed"}
    serve_all(hub)
    hub.tick()
    assert phase(hub, rollout_id) == "completed"
    assert [row["digest"] for row in hub.rows("aliases")] == [hub.bundles["1.0.0"].digest]
    lifecycles = {row["version"]: row["lifecycle"] for row in hub.rows("bundles")}
    assert lifecycles == {"1.0.0": "production", "1.1.0": "staging", "1.2.0": "staging"}


@pytest.mark.slow
def test_a_good_candidate_is_promoted_by_its_windows(hub: FleetHub) -> None:
    install_first(hub)
    rollout_id = create(hub, "1.1.0", canary_count=2)
    hub.tick()
    canaries = load(hub, rollout_id).state.plan.canaries
    expected = {name: "1.1.0" if name in canaries else "1.0.0" for name in DEVICES}
    assert versions(hub) == expected
    for _ in range(12):
        serve_all(hub, wrong={"1.0.0": 4, "1.1.0": 1})
        hub.tick()
    state = load(hub, rollout_id).state
    assert state.phase == "completed"
    assert versions(hub) == dict.fromkeys(DEVICES, "1.1.0")
    kinds = [row["kind"] for row in hub.rows("rollout_log") if row["rollout"] == rollout_id]
    assert {"transition", "look", "device"} == set(kinds)


def test_a_bad_candidate_is_rolled_back_and_the_others_never_hear_of_it(hub: FleetHub) -> None:
    install_first(hub)
    before = {row["device"]: row["generation"] for row in hub.rows("desired")}
    rollout_id = create(hub, "1.2.0", canary_count=2)
    hub.tick()
    canaries = load(hub, rollout_id).state.plan.canaries
    serve_all(hub, wrong={"1.0.0": 1, "1.2.0": 20})
    hub.tick()
    assert phase(hub, rollout_id) == "rolling_back"
    assert versions(hub) == dict.fromkeys(DEVICES, "1.0.0")
    serve_all(hub)
    hub.tick()
    assert phase(hub, rollout_id) == "aborted"
    after = {row["device"]: row["generation"] for row in hub.rows("desired")}
    assert {name for name in DEVICES if after[name] != before[name]} == set(canaries)
    (alert,) = hub.rows("alerts")
    assert (alert["rule"], alert["model"], alert["resolved_at_ms"]) == ("rollout_aborted", "digits", None)
    assert "more wrong labels" in str(alert["message"])


def test_the_alert_of_an_abort_goes_when_a_later_rollout_completes(hub: FleetHub) -> None:
    test_a_bad_candidate_is_rolled_back_and_the_others_never_hear_of_it(hub)
    create(hub, "1.1.0", strategy="all-at-once")
    hub.tick()
    serve_all(hub)
    hub.tick()
    (alert,) = hub.rows("alerts")
    assert alert["resolved_at_ms"] == hub.now_ms


def test_a_device_that_refuses_the_candidate_ends_the_rollout(hub: FleetHub) -> None:
    install_first(hub)
    rollout_id = create(hub, "1.1.0", canary_count=2)
    hub.tick()
    refuser = load(hub, rollout_id).state.plan.canaries[0]
    hub.report(refuser, hub.bundles["1.0.0"], requests=50, rejected=True)
    hub.tick()
    state = load(hub, rollout_id).state
    assert state.phase == "rolling_back"
    assert f"{refuser}: The device refused it: The self-test failed." in state.reason


def test_windows_count_once_late_ones_too_and_old_ones_never(hub: FleetHub) -> None:
    install_first(hub)
    rollout_id = create(hub, "1.1.0", canary_count=2)
    hub.tick()
    state = load(hub, rollout_id).state
    canary = state.plan.canaries[0]
    other = next(name for name in DEVICES if name not in state.plan.canaries)
    old, new = hub.bundles["1.0.0"], hub.bundles["1.1.0"]
    hub.window(canary, new, requests=40)
    hub.window(canary, old, requests=500)  # what the canary ran before is on neither arm
    hub.window(other, new, requests=500)  # nor is the candidate where it was not sent
    hub.window(other, old, requests=30, start_ms=state.started_at_ms - 1)
    hub.tick()
    hub.tick()
    hub.window(other, old, requests=60, start_ms=state.started_at_ms)  # spooled, and late
    hub.tick()
    evidence = load(hub, rollout_id).state.evidence
    assert evidence is not None
    assert {name: counts.requests for name, counts in evidence.canary.items()} == {canary: 40}
    assert {name: counts.requests for name, counts in evidence.baseline.items()} == {other: 60}


def test_a_kill_between_state_and_effects_leaves_neither(hub: FleetHub) -> None:
    """The transaction dies at its commit, as when the process is killed there; the next turn does it all."""
    install_first(hub)
    rollout_id = create(hub, "1.1.0", canary_count=2)

    class KilledError(BaseException):
        pass

    def kill(_connection: object) -> None:
        raise KilledError

    event.listen(hub.services.engine, "commit", kill)
    try:
        with pytest.raises(KilledError), writing(hub.services.engine) as connection:
            rollouts.turn(connection, hub.services.desired_key, rollout_id, hub.now_ms)
    finally:
        event.remove(hub.services.engine, "commit", kill)
    assert phase(hub, rollout_id) == "approved"
    assert versions(hub) == dict.fromkeys(DEVICES, "1.0.0")
    hub.tick()
    assert phase(hub, rollout_id) == "canary"
    assert sorted(versions(hub).values(), key=str) == ["1.0.0"] * 4 + ["1.1.0"] * 2


def test_two_rollouts_never_hold_one_device(hub: FleetHub) -> None:
    install_first(hub)
    first = create(hub, "1.1.0", cohort={"labels": {"site": "north"}}, canary_count=1)
    elsewhere = create(hub, "1.1.0", cohort={"labels": {"site": "south"}}, canary_count=1)
    assert phase(hub, elsewhere) == "approved"
    with pytest.raises(ConflictError, match=first):
        create(hub, "1.2.0", cohort={"devices": ["d0", "d2"]}, canary_count=1)


def test_a_revoked_device_stops_neither_loop_nor_abort(hub: FleetHub) -> None:
    install_first(hub)
    rollout_id = create(hub, "1.1.0", canary_count=2)
    hub.tick()
    gone, stays = load(hub, rollout_id).state.plan.canaries
    serve_all(hub)
    hub.revoke(gone)
    with writing(hub.services.engine) as connection:
        rollouts.abort(connection, hub.services.desired_key, rollout_id, "operator", "enough", hub.now_ms)
    hub.report(stays, hub.bundles["1.0.0"])
    hub.tick()
    assert phase(hub, rollout_id) == "aborted"
    assert "enough" in load(hub, rollout_id).state.reason


def test_what_is_assigned_is_signed_for_the_device(hub: FleetHub) -> None:
    rollout_id = create(hub, "1.0.0", strategy="all-at-once")
    hub.tick()
    row = next(row for row in hub.rows("desired") if row["device"] == "d3")
    envelope = row["envelope"]
    assert isinstance(envelope, bytes)
    state = open_desired(envelope, hub.services.desired_key.public_key(), "d3")
    assert state.bundle == hub.bundles["1.0.0"]
    assert state.rollout == rollout_id


def test_every_act_is_in_the_audit_log(hub: FleetHub) -> None:
    rollout_id = install_first(hub)
    acts = [(row["actor"], row["action"]) for row in hub.rows("audit") if "rollout" in str(row["action"])]
    assert acts == [("operator", "rollout.create"), ("operator", "rollout.approve")]
    aliases = [row for row in hub.rows("audit") if row["action"] == "alias.set"]
    assert [row["actor"] for row in aliases] == [rollouts.CONTROL_LOOP]
    assert rollout_id


def test_a_turn_that_changes_nothing_writes_nothing(hub: FleetHub) -> None:
    install_first(hub)
    rollout_id = create(hub, "1.1.0", canary_count=2)
    hub.tick()
    hub.tick()
    before = hub.rows("rollouts"), hub.rows("rollout_log")
    hub.tick()
    assert (hub.rows("rollouts"), hub.rows("rollout_log")) == before
    assert phase(hub, rollout_id) == "canary"


def test_state_and_specification_are_readable_json(hub: FleetHub) -> None:
    install_first(hub)
    rollout_id = create(hub, "1.1.0", canary_count=2)
    row = next(row for row in hub.rows("rollouts") if row["id"] == rollout_id)
    assert json.loads(str(row["state_json"]))["phase"] == row["phase"]
    assert msgspec.json.decode(str(row["spec_json"]), type=Spec).canary_count == 2
    assert isinstance(msgspec.json.decode(str(row["state_json"]), type=State).plan.baseline, BundleRef)
