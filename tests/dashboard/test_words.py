"""Numbers and states as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.dashboard import words
from fleet.rollout_types import PHASES


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.0%"), (0.0004, "0.04%"), (0.01, "1.0%"), (0.973, "97.3%"), (1.0, "100.0%")],
)
def test_share(value: float | None, text: str) -> None:
    assert words.share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.085, "0.09 ms"), (9.994, "9.99 ms"), (10.4, "10 ms"), (1234.5, "1,234 ms")],
)
def test_milliseconds(value: float | None, text: str) -> None:
    assert words.milliseconds(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (4, "just now"),
        (5, "5 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400, "1 d ago"),
        (10 * 86_400, "10 d ago"),
    ],
)
def test_ago(seconds: int, text: str) -> None:
    assert words.ago(1_000_000, 1_000_000 + seconds * 1000) == text


def test_ago_never_and_from_a_clock_that_is_ahead() -> None:
    assert words.ago(None, 5) == "never"
    assert words.ago(60_000, 0) == "just now"


def test_times_are_utc() -> None:
    assert words.clock(1_800_000_000_000) == "08:00:00"
    assert words.stamp(1_800_000_000_000) == "2027-01-15 08:00:00 UTC"


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (0.0, "1"),
        (1.301, "20"),
        (-1.3, "0.0501"),
        (3.0, "1,000"),
        (5.2, "158,489"),
        (6.4, "10^6"),
        (-12.0, "10^-12"),
    ],
)
def test_e_values(log10: float, text: str) -> None:
    assert words.e_value(log10) == text


@given(st.floats(-300, 300))
def test_an_e_value_is_short_whatever_it_is(log10: float) -> None:
    assert len(words.e_value(log10)) <= 9


def test_phases_of_code_become_words_where_they_stand_alone() -> None:
    assert words.phase("rolling_out") == "rolling out"
    assert words.phase_in("Not running it yet (self_testing).") == "Not running it yet (self testing)."
    assert words.phase_in("my_model (v_1) failed") == "my_model (v_1) failed"


def test_digests_are_cut_and_nothing_else() -> None:
    assert words.shortened(f"There is no blob {'ab' * 32}.") == "There is no blob abababababab."
    assert words.shortened("r-0123456789 and ab" + "c" * 70) == "r-0123456789 and ab" + "c" * 70


def test_every_phase_that_an_operator_should_notice_has_a_colour() -> None:
    assert {phase for phase in PHASES if not words.tone(phase)} == {"draft"}
