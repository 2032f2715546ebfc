"""The rollout machine's laws under any order of events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edgeops.errors import IllegalTransitionError
from edgeops_testkit.rollout_fleet import CANARIES, NAMES, NEW, Fleet
from fleet.rollout import TABLE
from fleet.rollout_types import (
    FINAL,
    Abort,
    Approve,
    Event,
    Look,
    Pause,
    Promote,
    Resume,
    SetProduction,
    Start,
    State,
    Strategy,
)


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


# A look at every check, and a long one with the slow tests.
AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@pytest.mark.slow
def test_many_orders() -> None:
    run_state_machine_as_test(
        AnyOrder, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
