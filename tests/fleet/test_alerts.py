"""Alert rules: when an alert opens, stays and resolves."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fleet.alerts import (
    Measurement,
    OpenAlert,
    Reading,
    Rule,
    offline_measurement,
    persistent,
    reconcile,
)

RULE = Rule("too_hot", "warning", quiet_ms=100)


def measured(reading: Reading, key: str = "too_hot/a") -> Measurement:
    return Measurement(rule=RULE, key=key, reading=reading, message="It is too hot.")


def acts(open_alerts: dict[str, OpenAlert], reading: Reading, now_ms: int) -> list[str]:
    return [change.act for change in reconcile(open_alerts, [measured(reading)], now_ms)]


OPEN = {"too_hot/a": OpenAlert("too_hot/a", true_at_ms=1000)}


def test_it_opens_once_and_is_then_updated() -> None:
    assert acts({}, "true", 1000) == ["open"]
    assert acts(OPEN, "true", 1010) == ["update"]


def test_it_resolves_only_after_its_quiet_time() -> None:
    assert acts(OPEN, "clear", 1099) == []
    assert acts(OPEN, "clear", 1100) == ["resolve"]


def test_between_true_and_clear_it_stays() -> None:
    assert acts(OPEN, "between", 99_999) == []
    assert acts({}, "between", 1000) == []


def test_what_is_gone_resolves_at_once() -> None:
    assert acts(OPEN, "gone", 1001) == ["resolve"]
    assert acts({}, "gone", 1001) == []


def test_what_was_not_measured_stays() -> None:
    assert reconcile(OPEN, [measured("clear", "too_hot/b")], 99_999) == ()


PATIENT = Rule("too_hot", "warning", quiet_ms=100, opens_after=3)


@given(st.lists(st.sampled_from(["true", "between", "clear", "missing"]), max_size=30))
def test_only_true_readings_in_a_row_open_an_alert(readings: list[str]) -> None:
    streaks: dict[str, int] = {}
    in_a_row = 0
    for reading in readings:
        found = [] if reading == "missing" else [replace(measured(reading), rule=PATIENT)]  # type: ignore[arg-type]
        streaks, held = persistent(streaks, (), found)
        in_a_row = in_a_row + 1 if reading == "true" else 0
        assert [each.reading == "true" for each in held] == [in_a_row >= 3] * len(found)


def test_an_open_alert_needs_no_streak() -> None:
    _, held = persistent({}, {"too_hot/a"}, [replace(measured("true"), rule=PATIENT)])
    assert held[0].reading == "true"


@given(st.lists(st.tuples(st.sampled_from(["true", "between", "clear"]), st.integers(1, 80)), max_size=40))
def test_under_any_readings_it_opens_and_resolves_in_turn(readings: list[tuple[Reading, int]]) -> None:
    open_alerts: dict[str, OpenAlert] = {}
    history: list[str] = []
    now_ms = last_true_ms = 0
    for reading, step_ms in readings:
        now_ms += step_ms
        for change in reconcile(open_alerts, [measured(reading)], now_ms):
            key = change.measurement.key
            if change.act == "resolve":
                assert now_ms - last_true_ms >= RULE.quiet_ms
                del open_alerts[key]
            else:
                assert reading == "true"
                open_alerts[key] = OpenAlert(key, now_ms)
            if change.act != "update":
                history.append(change.act)
        if reading == "true":
            last_true_ms = now_ms
            assert open_alerts
    assert history == (["open", "resolve"] * len(history))[: len(history)]


def offline(online: bool, seen_at_ms: int | None, now_ms: int) -> Reading | None:
    found = offline_measurement(
        "d1", "north", online=online, seen_at_ms=seen_at_ms, after_ms=1000, now_ms=now_ms
    )
    return None if found is None else found.reading


def test_a_device_is_offline_when_it_has_been_for_long_enough() -> None:
    assert offline(True, 0, 5000) == "clear"
    assert offline(False, 4500, 5000) == "between"
    assert offline(False, 3000, 5000) == "true"
    assert offline(False, None, 5000) is None
