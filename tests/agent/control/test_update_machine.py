"""The update machine's laws, in a world where anything may fail, come late, or be cut off."""

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

from device_agent.core.update import step
from device_agent.core.update_types import (
    Activate,
    Activated,
    ConfirmDue,
    DesiredChanged,
    Download,
    DownloadDone,
    DownloadFailed,
    Emit,
    Event,
    Install,
    InstallDone,
    InstallFailed,
    RestartDue,
    Restarted,
    Retire,
    RetryDue,
    Serve,
    ServingCrashed,
    ServingFailed,
    ServingReady,
    ServingStarted,
    SlotDamaged,
    Trial,
    UpdateState,
    Verify,
    VerifyDone,
    VerifyFailed,
)
from edgeops_testkit.update_states import ERROR, POLICY, target

Work = Download | Verify | Install | Trial | Activate | Serve
DONE = {Verify: VerifyDone, Install: InstallDone, Trial: ServingReady, Activate: Activated}
FAILED = {
    Download: DownloadFailed,
    Verify: VerifyFailed,
    Install: InstallFailed,
    Trial: ServingFailed,
    Activate: ServingFailed,
    Serve: ServingFailed,
}


class UpdateMachine(RuleBasedStateMachine):
    """The shell's side: effects under way may succeed, fail or vanish in a restart, in any order."""

    @initialize()
    def power_on(self) -> None:
        self.state = UpdateState()
        self.now = 0
        self.open: list[Work] = []  # work that was asked for and not answered
        self.running: dict[int, str] = {}  # live processes that were told to accept, by number: digest
        self.held: dict[int, str] = {}  # live processes that have not been told yet
        self.verified: set[str] = set()
        self.refused: set[int] = set()

    def tell(self, event: Event) -> None:
        before = self.state
        self.state, effects = step(self.state, event, self.now, POLICY)
        # What was saved is all that a restart has: it must survive its own encoding.
        assert msgspec.json.decode(msgspec.json.encode(self.state), type=UpdateState) == self.state
        self.refused |= {
            e.detail["generation"] for e in effects if isinstance(e, Emit) and e.kind == "bundle_refused"
        }
        self.refused |= {
            e.detail["generation"] for e in effects if isinstance(e, Emit) and e.kind == "rolled_back"
        }
        if before.active != self.state.active and self.state.active is not None:
            assert self.state.active.target.digest in self.verified
        for effect in effects:
            if isinstance(effect, Retire):
                self.open = [e for e in self.open if e.number == effect.keep]
                self.running = {n: d for n, d in self.running.items() if n == effect.keep}
                self.held = {n: d for n, d in self.held.items() if n == effect.keep}
            elif isinstance(effect, Trial | Serve):
                assert effect.slot.target.digest in self.verified, (
                    "a process was started on an unverified slot"
                )
                self.open.append(effect)
            elif isinstance(effect, Work):
                self.open.append(effect)

    @rule(version=st.integers(0, 3), stale=st.sampled_from([False] * 7 + [True]))
    def hub_wants(self, version: int, stale: bool) -> None:
        generation = self.state.generation + (not stale)
        if generation == 0:
            return
        before = self.state
        self.tell(DesiredChanged(generation, target(generation, version) if version else None))
        assert (self.state == before) == stale

    @rule(times=st.integers(1, 8), oldest=st.booleans())
    def all_goes_well_for_a_while(self, times: int, oldest: bool) -> None:
        for _ in range(times):
            if self.open:
                self.succeed(self.open.pop(0 if oldest else -1))

    def succeed(self, effect: Work) -> None:
        number = effect.number
        if isinstance(effect, Verify):
            self.verified.add(effect.target.digest)
        if isinstance(effect, Trial):
            self.held[number] = effect.slot.target.digest
        if isinstance(effect, Activate):
            self.running[number] = self.held.pop(number)
        if isinstance(effect, Serve):
            self.running[number] = effect.slot.target.digest
            self.tell(ServingStarted(number))
        elif isinstance(effect, Download):
            self.tell(DownloadDone(number, "onnx-int8"))
        else:
            self.tell(DONE[type(effect)](number))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), permanent=st.booleans(), chance=st.floats(0, 0.99), crash=st.booleans())
    def work_fails(self, data: st.DataObject, permanent: bool, chance: float, crash: bool) -> None:
        effect = self.take(data)
        kind = FAILED[type(effect)]
        if kind is ServingFailed and crash:
            kind = ServingCrashed
        self.held.pop(effect.number, None)
        self.tell(kind(effect.number, ERROR, permanent, chance))

    @precondition(lambda self: any(isinstance(e, Serve) for e in self.open))
    @rule()
    def files_rot(self) -> None:
        effect = next(e for e in self.open if isinstance(e, Serve))
        self.open.remove(effect)
        self.verified.discard(effect.slot.target.digest)
        if self.state.previous and self.state.previous.target.digest == effect.slot.target.digest:
            self.verified.add(effect.slot.target.digest)
        self.tell(SlotDamaged(effect.number, ERROR, True))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), chance=st.floats(0, 0.99))
    def process_dies(self, data: st.DataObject, chance: float) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[number]
        self.tell(ServingCrashed(number, ERROR, False, chance))

    @rule(wait_ms=st.sampled_from([1, 100, 1000, 10_000]))
    def time_passes(self, wait_ms: int) -> None:
        self.now += wait_ms
        for event in (RetryDue(), ConfirmDue(), RestartDue()):
            self.tell(event)

    @rule()
    def agent_restarts(self) -> None:
        self.open, self.running, self.held, self.now = [], {}, {}, 0
        self.tell(Restarted())

    @rule(number=st.integers(1, 50), kind=st.sampled_from([DownloadFailed, VerifyFailed, ServingCrashed]))
    def late_answer(self, number: int, kind: type[DownloadFailed]) -> None:
        if number in (self.state.work, self.state.launch):
            return
        before = self.state
        self.tell(kind(number, ERROR, True))
        assert self.state == before

    def take(self, data: st.DataObject) -> Work:
        effect = data.draw(st.sampled_from(self.open))
        self.open.remove(effect)
        return effect

    @invariant()
    def never_two_accept(self) -> None:
        if hasattr(self, "state"):
            assert len(self.running) <= 1
            if self.state.active is None:
                assert not self.running

    @invariant()
    def no_process_is_forgotten(self) -> None:
        if hasattr(self, "state"):
            assert set(self.held) <= {self.state.work}

    @invariant()
    def what_accepts_is_the_active_version(self) -> None:
        if hasattr(self, "state") and self.state.health == "serving":
            assert self.state.active is not None
            assert self.running == {self.state.launch: self.state.active.target.digest}

    @invariant()
    def a_refused_generation_is_not_active(self) -> None:
        if hasattr(self, "state") and self.state.active is not None:
            assert self.state.active.target.generation not in self.refused

    @invariant()
    def something_goes_on_or_nothing_is_left_to_do(self) -> None:
        if not hasattr(self, "state"):
            return
        state = self.state
        under_way = {effect.number for effect in self.open}
        if state.phase in ("downloading", "verifying", "installing", "self_testing", "activating"):
            assert state.work in under_way
        elif state.phase == "waiting":
            assert state.retry_at is not None and state.candidate is not None
        elif state.phase == "confirming" and state.health == "serving":
            assert state.confirm_at is not None
        elif state.phase == "idle":
            assert state.candidate is None
            wanted = state.desired.digest if state.desired else None
            have = state.active.target.digest if state.active else None
            assert have == wanted or state.rejected_generation == state.generation
        if state.active is None:
            assert state.health == "none"
        elif state.health == "starting":
            assert state.launch in under_way
        elif state.health == "backoff":
            assert state.restart_at is not None
        else:
            assert state.health == "serving"


# A look at every check, and a long one with the slow tests.
UpdateMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestUpdateMachine = UpdateMachine.TestCase


@pytest.mark.slow
def test_many_worlds() -> None:
    run_state_machine_as_test(
        UpdateMachine, settings=settings(max_examples=300, stateful_step_count=40, deadline=None)
    )
