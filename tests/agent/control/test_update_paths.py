"""The update machine's paths that matter, one by one, and its table and its document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.core import diagram
from device_agent.core.update import ROWS, TABLE, step
from device_agent.core.update_types import (
    MEANINGS,
    PHASES,
    ConfirmDue,
    DesiredChanged,
    Download,
    DownloadDone,
    DownloadFailed,
    Emit,
    InstallDone,
    RestartDue,
    Restarted,
    Retire,
    RetryDue,
    ServingCrashed,
    ServingFailed,
    ServingReady,
    ServingStarted,
    Slot,
    UpdateState,
    VerifyDone,
)
from edgeops.errors import IllegalTransitionError
from edgeops_testkit.update_states import ERROR, POLICY, activated, crash, installed, run, target


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
