"""The update machine's laws, in a world where anything may fail, come late, or be cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from device_agent.core import diagram
from device_agent.core.update import ROWS, TABLE, step
from device_agent.core.update_types import (
    MEANINGS,
    PHASES,
    Activate,
    Activated,
    ConfirmDue,
    DesiredChanged,
    Download,
    DownloadDone,
    DownloadFailed,
    Effect,
    Emit,
    Event,
    Install,
    InstallDone,
    InstallFailed,
    Policy,
    RestartDue,
    Restarted,
    Retire,
    RetryDue,
    Serve,
    ServingCrashed,
    ServingFailed,
    ServingReady,
    ServingStarted,
    Slot,
    SlotDamaged,
    Target,
    Trial,
    UpdateState,
    Verify,
    VerifyDone,
    VerifyFailed,
)
from edgeops.errors import IllegalTransitionError

POLICY = Policy(
    retry_min_ms=100, retry_max_ms=1000, confirm_after_ms=500, crash_limit=3, crash_window_ms=5000
)
ERROR = {"kind": "transport", "message": "The hub did not answer."}
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


def target(generation: int, version: int) -> Target:
    return Target("digits", f"1.{version}.0", f"{version:064x}", generation)


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


UpdateMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestUpdateMachine = UpdateMachine.TestCase


def run(state: UpdateState, *events: Event, now: int = 0) -> tuple[UpdateState, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        state, more = step(state, event, now, POLICY)
        effects += more
    return state, effects


def installed(version: int, generation: int, state: UpdateState | None = None) -> UpdateState:
    """A state in which that version has been installed, activated and confirmed."""
    state, _ = run(state or UpdateState(), DesiredChanged(generation, target(generation, version)))
    state = activated(state)
    state, _ = run(state, ConfirmDue(), now=POLICY.confirm_after_ms)
    assert state.phase == "idle" and state.active and state.active.confirmed
    return state


def activated(state: UpdateState) -> UpdateState:
    n = state.work
    state, _ = run(state, DownloadDone(n, "v"), VerifyDone(n), InstallDone(n), ServingReady(n), Activated(n))
    assert state.phase == "confirming"
    return state


def crash(state: UpdateState, times: int) -> UpdateState:
    for _ in range(times):
        state, _ = run(state, ServingCrashed(state.launch, ERROR, False), now=1000)
        if state.health == "backoff":
            state, _ = run(state, RestartDue(), now=state.restart_at or 0)
            state, _ = run(state, ServingStarted(state.launch), now=1000)
    return state


def test_a_version_that_crashes_too_often_while_confirming_gives_way_to_the_one_before() -> None:
    state = installed(1, 1)
    state, _ = run(state, DesiredChanged(2, target(2, 2)))
    state = crash(activated(state), POLICY.crash_limit)
    assert state.phase == "rolling_back"
    assert state.active == Slot(target(1, 1), "v", confirmed=True)
    assert state.rejected_generation == 2
    state, _ = run(state, ServingStarted(state.launch))
    assert state.phase == "idle" and state.health == "serving"


def test_one_crash_less_is_borne() -> None:
    state = installed(1, 1)
    state, _ = run(state, DesiredChanged(2, target(2, 2)))
    state = crash(activated(state), POLICY.crash_limit - 1)
    assert state.phase == "confirming" and state.rejected_generation == 0


def test_a_first_install_that_crashes_leaves_nothing_serving_and_the_next_desired_state_is_taken() -> None:
    state, _ = run(UpdateState(), DesiredChanged(1, target(1, 1)))
    state = crash(activated(state), POLICY.crash_limit)
    assert (state.phase, state.active, state.rejected_generation) == ("idle", None, 1)
    assert installed(2, 2, state).active == Slot(target(2, 2), "v", confirmed=True)


def test_a_confirmed_version_that_crashes_in_a_loop_gives_way_too() -> None:
    state = crash(installed(2, 2, installed(1, 1)), POLICY.crash_limit)
    assert state.phase == "rolling_back" and state.active and state.active.target == target(1, 1)


def test_crashes_long_ago_do_not_count_against_a_confirmed_version() -> None:
    state = installed(2, 2, installed(1, 1))
    for now in range(10_000, 100_000, POLICY.crash_window_ms):
        state, _ = run(state, ServingCrashed(state.launch, ERROR, False), now=now)
        state, _ = run(state, RestartDue(), now=now)
    assert state.active and state.active.target == target(2, 2)


def test_the_only_version_is_restarted_with_growing_delays_for_ever() -> None:
    state, delays = installed(1, 1), []
    for _ in range(8):
        state, _ = run(state, ServingCrashed(state.launch, ERROR, False, 0.99), now=1000)
        assert state.restart_at is not None
        delays.append(state.restart_at - 1000)
        state, _ = run(state, RestartDue(), now=state.restart_at)
    assert delays[0] == 0 and delays == sorted(delays)
    assert delays[-1] > POLICY.retry_max_ms // 2


def test_an_unconfirmed_version_is_never_rolled_back_to() -> None:
    state, _ = run(installed(1, 1), DesiredChanged(2, target(2, 2)))
    state = activated(state)  # 2 is not confirmed yet
    state, _ = run(state, DesiredChanged(3, target(3, 3)))
    state = activated(state)
    assert state.previous is not None and state.previous.target == target(1, 1)


def test_a_refused_bundle_is_not_tried_again_and_the_running_version_is_untouched() -> None:
    before = installed(1, 1)
    state, effects = run(before, DesiredChanged(2, target(2, 2)))
    state, more = run(state, DownloadFailed(state.work, ERROR, permanent=True))
    assert (state.phase, state.active, state.launch) == ("idle", before.active, before.launch)
    assert state.rejected_generation == 2
    assert [e.kind for e in (*effects, *more) if isinstance(e, Emit)] == ["update_started", "bundle_refused"]
    assert run(state, RetryDue(), DesiredChanged(2, target(2, 2)), now=10**9) == (state, [])


def test_failures_that_may_pass_are_retried_with_growing_delays() -> None:
    state, _ = run(UpdateState(), DesiredChanged(1, target(1, 1)))
    now, delays = 0, []
    for _ in range(6):
        state, _ = run(state, DownloadFailed(state.work, ERROR, False, 0.99), now=now)
        assert state.phase == "waiting" and state.retry_at is not None
        delays.append(state.retry_at - now)
        now = state.retry_at
        state, effects = run(state, RetryDue(), now=now)
        assert isinstance(effects[0], Download)
    assert delays == sorted(delays) and POLICY.retry_max_ms // 2 < delays[-1] <= POLICY.retry_max_ms


@pytest.mark.parametrize("kind", [ServingFailed, ServingCrashed])
def test_a_candidate_that_cannot_load_is_refused_after_as_many_trials_as_crashes_are_allowed(
    kind: type,
) -> None:
    state, _ = run(UpdateState(), DesiredChanged(1, target(1, 1)))
    for trial in range(1, POLICY.crash_limit + 1):
        n = state.work
        state, _ = run(state, DownloadDone(n, "v"), VerifyDone(n), InstallDone(n), kind(n, ERROR, False))
        assert state.phase == ("waiting" if trial < POLICY.crash_limit else "idle")
        state, _ = run(state, RetryDue(), now=state.retry_at or 0)
    assert state.rejected_generation == 1


def test_wanting_what_runs_already_changes_nothing_but_the_generation() -> None:
    state, _ = run(installed(1, 1), DesiredChanged(2, target(2, 2)))
    state, effects = run(state, DesiredChanged(3, target(3, 1)))
    assert state.phase == "idle" and state.active == Slot(target(3, 1), "v", confirmed=True)
    assert Retire(keep=state.launch) in effects and not any(isinstance(e, Download) for e in effects)


def test_an_event_without_a_row_is_a_bug_and_leaves_the_state() -> None:
    state, _ = run(UpdateState(), DesiredChanged(1, target(1, 1)))
    with pytest.raises(IllegalTransitionError, match="ServingReady about the candidate"):
        step(state, ServingReady(state.work), 0, POLICY)


def test_each_row_leads_where_the_table_says() -> None:
    """Drives every row from a state made up for it, as a check on the document."""
    checked = 0
    for (phase, kind, about), row in TABLE.items():
        if kind in (DesiredChanged, Restarted, RetryDue, ConfirmDue, RestartDue) or about == "active":
            continue
        base = replace(installed(1, 1), phase=phase, candidate=target(2, 2), variant="v", work=99, serial=99)
        event = kind(99, "v") if kind is DownloadDone else None
        event = event or (kind(99, ERROR, False) if "error" in kind.__dataclass_fields__ else kind(99))
        after, _ = step(base, event, 0, POLICY)
        assert after.phase in row.to, (phase, kind.__name__)
        checked += 1
    assert checked >= 12


def test_every_phase_has_a_meaning_and_a_way_out() -> None:
    assert set(MEANINGS) == set(PHASES)
    assert all(any(phase in row.phases for row in ROWS) for phase in PHASES)


def test_the_document_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "update-machine.md"
    assert page.read_text() == diagram.page(), "run python -m docs.generate"
