"""The rollout machine: its laws under any order of events, and the paths that matter one by one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeops.errors import IllegalTransitionError
from edgeops.messages import BundleRef
from fleet.evidence import Counts, Criteria, Sample
from fleet.progress import Report
from fleet.rollout import TABLE, step
from fleet.rollout_types import (
    FINAL,
    Abort,
    Approve,
    Assign,
    Effect,
    Event,
    Look,
    Pause,
    Plan,
    PlannedDevice,
    Promote,
    RaiseAlert,
    Resume,
    Rollout,
    SetProduction,
    Spec,
    Start,
    State,
    Strategy,
)

OLD = BundleRef(name="digits", version="1.0.0", digest="0" * 64)
NEW = BundleRef(name="digits", version="1.1.0", digest="1" * 64)
NAMES = ("d1", "d2", "d3", "d4", "d5")
CANARIES = ("d1", "d2")


class Fleet:
    """Devices as a rollout sees them, on a clock that the test moves: what each should and does run."""

    def __init__(self, strategy: Strategy = "canary", **spec: object) -> None:
        fields = {"candidate": NEW, "strategy": strategy, "alias": "prod", **spec}
        canaries = CANARIES if strategy == "canary" else ()
        baseline = OLD if strategy == "canary" else None
        self.plan = Plan(
            devices=tuple(PlannedDevice(name=name, site="here", previous=OLD) for name in NAMES),
            canaries=canaries,
            baseline=baseline,
        )
        self.rollout = Rollout(id="r-1", spec=msgspec.convert(fields, Spec), state=State(plan=self.plan))
        self.now_ms = 1_000_000
        self.desired: dict[str, BundleRef | None] = dict.fromkeys(NAMES, OLD)
        self.generation = dict.fromkeys(NAMES, 1)
        self.running: dict[str, str | None] = dict.fromkeys(NAMES, OLD.digest)
        self.requests = dict.fromkeys(NAMES, 100)
        self.rejected = dict.fromkeys(NAMES, 0)
        self.online = dict.fromkeys(NAMES, True)
        self.revoked: set[str] = set()
        self.effects: list[Effect] = []
        self.candidate_requests = 0
        self.baseline_requests = 0

    @property
    def state(self) -> State:
        return self.rollout.state

    @property
    def assigned(self) -> set[str]:
        """The devices that were ever assigned anything."""
        return {effect.device for effect in self.effects if isinstance(effect, Assign)}

    def send(self, event: Event) -> None:
        """One step; assignments take effect."""
        self.rollout, effects = step(self.rollout, event, self.now_ms)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Assign) and self.desired[effect.device] != effect.bundle:
                self.desired[effect.device] = effect.bundle
                self.generation[effect.device] += 1

    def begin(self) -> None:
        self.send(Approve("ann", self.plan))
        self.send(Start(cursor=0))

    def look(self, *samples: Sample) -> None:
        reports = tuple(
            Report(
                device=name,
                online=self.online[name],
                revoked=name in self.revoked,
                generation=self.generation[name],
                desired_digest=bundle.digest if (bundle := self.desired[name]) is not None else None,
                rejected_generation=self.rejected[name],
                running_digest=self.running[name],
                running_requests=self.requests[name],
                phase="idle",
                error="the self-test failed",
            )
            for name in NAMES
        )
        self.send(Look(reports, samples, cursor=self.state.cursor + 1))

    def update(self, name: str, *, served: bool = True) -> None:
        """The device loads what it should run."""
        bundle = self.desired[name]
        self.running[name] = bundle.digest if bundle is not None else None
        self.requests[name] = 5 if served else 0

    def traffic(self, name: str, *, requests: int = 200, wrong: int = 0, errors: int = 0) -> Sample:
        """A window of one device, with the arm that its loaded bundle puts it in."""
        arm = "canary" if self.running[name] == NEW.digest else "baseline"
        if arm == "canary":
            self.candidate_requests += requests
        else:
            self.baseline_requests += requests
        counts = Counts(requests=requests, errors=errors, labels=requests, wrong=wrong)
        return Sample("canary" if arm == "canary" else "baseline", name, counts)


class AnyOrder(RuleBasedStateMachine):
    """Devices and operators do what they like, in any order."""

    @initialize(
        strategy=st.sampled_from(["canary", "canary", "all-at-once"]),
        max_failures=st.integers(0, 2),
        begun=st.sampled_from([True, True, False]),
    )
    def start(self, strategy: Strategy, max_failures: int, begun: bool) -> None:
        self.fleet = Fleet(strategy, max_failures=max_failures, canary_deadline_s=600, offline_after_s=60)
        self.by_hand = False
        if begun:
            self.fleet.begin()

    def attempt(self, event: Event) -> None:
        before = self.fleet.rollout
        known = (before.state.phase, type(event)) in TABLE
        try:
            self.fleet.send(event)
        except IllegalTransitionError:
            assert self.fleet.rollout == before
            assert not known or isinstance(event, Promote)
            return
        assert known
        assert self.fleet.state.phase in TABLE[before.state.phase, type(event)].to
        self.by_hand |= isinstance(event, Promote)

    @rule(verb=st.sampled_from([Promote("ann"), Pause("ann"), Resume("ann"), Abort("ann"), Start(0)]))
    @precondition(lambda self: self.fleet.state.phase not in ("draft", "approved"))
    def operator_steps_in(self, verb: Event) -> None:
        self.attempt(verb)

    @rule(verb=st.sampled_from([Promote("ann"), Resume("ann")]))
    @precondition(lambda self: self.fleet.state.phase == "paused")
    def operator_goes_on(self, verb: Event) -> None:
        self.attempt(verb)

    @rule(verb=st.sampled_from([Pause("ann"), Abort("ann"), Start(0), Start(0)]))
    @precondition(lambda self: self.fleet.state.phase in ("draft", "approved"))
    def it_begins_or_not(self, verb: Event) -> None:
        self.attempt(Approve("ann", self.fleet.plan))
        self.attempt(verb)

    @rule(name=st.sampled_from(NAMES), served=st.booleans())
    def device_updates(self, name: str, served: bool) -> None:
        self.fleet.update(name, served=served)

    @rule()
    def every_device_updates(self) -> None:
        for name in set(NAMES) - self.fleet.revoked:
            self.fleet.update(name)

    @rule(wrong=st.sampled_from([0, 1, 30]))
    @precondition(lambda self: (self.fleet.state.phase, Look) in TABLE)
    def much_traffic(self, wrong: int) -> None:
        candidate = [name for name in NAMES if self.fleet.running[name] == NEW.digest]
        self.fleet.look(
            *(
                self.fleet.traffic(name, requests=60, wrong=wrong if name in candidate else 1)
                for _ in range(15)
                for name in NAMES
            )
        )

    @rule(name=st.sampled_from(NAMES))
    def device_refuses(self, name: str) -> None:
        self.fleet.rejected[name] = self.fleet.generation[name]

    @rule(name=st.sampled_from(NAMES), online=st.booleans())
    def device_comes_or_goes(self, name: str, online: bool) -> None:
        self.fleet.online[name] = online

    @rule(name=st.sampled_from(NAMES))
    def device_is_revoked(self, name: str) -> None:
        self.fleet.revoked.add(name)

    @rule(seconds=st.sampled_from([1, 30, 700]))
    def time_passes(self, seconds: int) -> None:
        self.fleet.now_ms += seconds * 1000

    @rule(data=st.data(), wrong=st.integers(0, 60))
    @precondition(lambda self: (self.fleet.state.phase, Look) in TABLE)
    def loop_looks(self, data: st.DataObject, wrong: int) -> None:
        names = data.draw(st.lists(st.sampled_from(NAMES), max_size=8))
        self.fleet.look(
            *(self.fleet.traffic(n, wrong=wrong if self.fleet.running[n] == NEW.digest else 2) for n in names)
        )

    @invariant()
    def only_moved_devices_are_ever_assigned(self) -> None:
        assert self.fleet.assigned <= set(self.fleet.state.moved)

    @invariant()
    def the_others_keep_what_they_had_unless_it_was_promoted(self) -> None:
        others = set(NAMES) - set(CANARIES)
        if self.fleet.rollout.spec.strategy == "canary" and self.fleet.assigned & others:
            judged = self.fleet.state.verdict is not None and self.fleet.state.verdict.decision == "promote"
            assert judged or self.by_hand

    @invariant()
    def nothing_is_promoted_without_requests_on_both_arms(self) -> None:
        verdict = self.fleet.state.verdict
        if verdict is not None and verdict.decision == "promote":
            assert self.fleet.candidate_requests > 0
            assert self.fleet.baseline_requests > 0
            evidence = self.fleet.state.evidence
            assert evidence is not None
            served = {name for name, counts in evidence.canary.items() if counts.requests >= 50}
            assert set(CANARIES) - self.fleet.revoked <= served

    @invariant()
    def completed_means_that_it_runs(self) -> None:
        if self.fleet.state.phase == "completed":
            statuses = {each.status for each in self.fleet.state.progress.values()}
            assert "updated" in statuses
            assert statuses <= {"updated", "failed", "revoked"}

    @invariant()
    def production_is_set_exactly_on_completion(self) -> None:
        times = sum(isinstance(effect, SetProduction) for effect in self.fleet.effects)
        assert times == (self.fleet.state.phase == "completed")

    @invariant()
    def the_end_is_the_end(self) -> None:
        if self.fleet.state.phase in FINAL:
            assert not [key for key in TABLE if key[0] == self.fleet.state.phase]
            assert self.fleet.state.deadline_at_ms is None

    @invariant()
    def the_state_survives_storage(self) -> None:
        data = msgspec.json.encode(self.fleet.state)
        assert msgspec.json.decode(data, type=State) == self.fleet.state


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def good_traffic(fleet: Fleet) -> None:
    fleet.look(*(fleet.traffic(name, requests=50, wrong=1) for _ in range(20) for name in NAMES))


def test_a_good_candidate_goes_from_canaries_to_all() -> None:
    fleet = Fleet()
    fleet.begin()
    assert fleet.assigned == set(CANARIES)
    for name in CANARIES:
        fleet.update(name)
    good_traffic(fleet)
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
    good_traffic(fleet)
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
        good_traffic(fleet)
        phases.append(fleet.state.phase)
    assert phases == ["rolling_out", "canary"]
