"""The rollout machine's paths that matter, one by one."""

from __future__ import annotations

import msgspec
import pytest

from edgeops.errors import IllegalTransitionError
from edgeops_testkit.rollout_fleet import CANARIES, NAMES, NEW, OLD, Fleet
from fleet.evidence import Criteria
from fleet.rollout_types import Abort, Pause, Promote, RaiseAlert, Resume, SetProduction


def test_a_good_candidate_goes_from_canaries_to_all() -> None:
    fleet = Fleet()
    fleet.begin()
    assert fleet.assigned == set(CANARIES)
    for name in CANARIES:
        fleet.update(name)
    fleet.good_traffic()
    assert fleet.state.phase == "rolling_out"
    assert fleet.assigned == set(NAMES)
    for name in NAMES:
        fleet.update(name)
    fleet.look()
    assert fleet.state.phase == "completed"
    assert SetProduction(NEW, "prod") in fleet.effects


def test_a_bad_candidate_returns_the_canaries_and_touches_nobody_else() -> None:
    fleet = Fleet()
    fleet.begin()
    for name in CANARIES:
        fleet.update(name)
    fleet.look(*(fleet.traffic(name, requests=50, wrong=20 if name in CANARIES else 1) for name in NAMES))
    assert fleet.state.phase == "rolling_back"
    alerts = [effect.rule for effect in fleet.effects if isinstance(effect, RaiseAlert)]
    assert alerts == ["rollout_aborted"]
    assert all(fleet.desired[name] == OLD for name in NAMES)
    fleet.look()
    assert fleet.state.phase == "rolling_back", "it has only been told to return"
    for name in CANARIES:
        fleet.update(name, served=False)
    fleet.look()
    assert fleet.state.phase == "aborted"
    assert fleet.assigned == set(CANARIES)


@pytest.mark.parametrize("how", ["refuses", "leaves", "vanishes"])
def test_a_canary_that_fails_aborts(how: str) -> None:
    fleet = Fleet(offline_after_s=60)
    fleet.begin()
    fleet.look()
    if how == "refuses":
        fleet.rejected["d1"] = fleet.generation["d1"]
    elif how == "leaves":
        fleet.update("d1")
        fleet.look()
        fleet.running["d1"] = OLD.digest
    else:
        fleet.online["d1"] = False
        fleet.look()
        fleet.now_ms += 61_000
    fleet.look()
    assert fleet.state.phase == "rolling_back"
    assert "d1" in fleet.state.reason


def test_failures_within_the_limit_are_named_and_tolerated() -> None:
    fleet = Fleet("all-at-once", max_failures=1)
    fleet.begin()
    for name in NAMES:
        fleet.update(name)
    fleet.running["d3"], fleet.rejected["d3"] = OLD.digest, fleet.generation["d3"]
    fleet.look()
    assert fleet.state.phase == "completed"
    assert "d3: The device refused it: the self-test failed" in fleet.state.reason


def test_no_evidence_by_the_deadline_holds_and_says_what_is_missing() -> None:
    fleet = Fleet(canary_deadline_s=600)
    fleet.begin()
    for name in CANARIES:
        fleet.update(name)
    fleet.now_ms += 600_000
    fleet.look()
    assert fleet.state.phase == "paused"
    assert "requests on the canaries" in fleet.state.reason
    assert fleet.assigned == set(CANARIES)
    fleet.send(Resume("ann"))
    fleet.good_traffic()
    assert fleet.state.phase == "rolling_out"


def test_installed_is_not_updated_until_it_serves() -> None:
    fleet = Fleet("all-at-once", rollout_deadline_s=600)
    fleet.begin()
    for name in NAMES:
        fleet.update(name, served=name != "d5")
    fleet.look()
    assert fleet.state.progress["d5"].status == "installed"
    assert fleet.state.phase == "rolling_out"
    fleet.look(fleet.traffic("d5", requests=1))
    assert fleet.state.phase == "completed"


def test_loaded_is_enough_where_no_traffic_is_asked_for() -> None:
    fleet = Fleet("all-at-once", require_served=False)
    fleet.begin()
    for name in NAMES:
        fleet.update(name, served=False)
    fleet.look()
    assert fleet.state.phase == "completed"


def test_a_device_that_was_never_there_is_waited_for_and_not_failed() -> None:
    fleet = Fleet("all-at-once", offline_after_s=60, rollout_deadline_s=3600)
    fleet.online["d4"] = False
    fleet.begin()
    fleet.look()
    fleet.now_ms += 1_000_000
    for name in set(NAMES) - {"d4"}:
        fleet.update(name)
    fleet.look()
    assert fleet.state.phase == "rolling_out"
    fleet.now_ms += 3_600_000
    fleet.look()
    assert fleet.state.phase == "paused"
    assert "d4: Not running it yet (offline)" in fleet.state.reason


def test_a_canary_that_does_not_come_back_fails_the_roll_back() -> None:
    fleet = Fleet(rollback_deadline_s=60)
    fleet.begin()
    for name in CANARIES:
        fleet.update(name)
    fleet.send(Abort("ann", "wrong version"))
    fleet.update("d1")
    fleet.now_ms += 60_000
    fleet.look()
    assert fleet.state.phase == "failed"
    assert "d2" in fleet.state.reason
    assert "wrong version" in fleet.state.reason


def test_a_device_that_was_assigned_something_else_meanwhile_is_assigned_anew() -> None:
    fleet = Fleet("all-at-once")
    fleet.begin()
    fleet.desired["d2"] = OLD
    fleet.look()
    assert fleet.desired["d2"] == NEW


def test_a_rollout_that_was_promoted_cannot_be_promoted_again() -> None:
    fleet = Fleet()
    fleet.begin()
    fleet.send(Promote("ann"))
    fleet.send(Pause("ann"))
    before = fleet.rollout
    with pytest.raises(IllegalTransitionError):
        fleet.send(Promote("ann"))
    assert fleet.rollout == before


def test_criteria_decide_how_much_is_needed() -> None:
    """The same evidence, promoted under lax criteria and held under strict ones."""
    phases = []
    for criteria in (Criteria(), Criteria(min_requests=100_000)):
        fleet = Fleet(criteria=msgspec.to_builtins(criteria))
        fleet.begin()
        for name in CANARIES:
            fleet.update(name)
        fleet.good_traffic()
        phases.append(fleet.state.phase)
    assert phases == ["rolling_out", "canary"]
