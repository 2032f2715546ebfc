"""Requests per second from windows of any length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.dashboard.traffic import BUCKET_MS, SPAN_MS, Part, spread

NOW = 1_800_000_000_000
# Windows that ended within the chart and are no longer than the lag that it allows for.
parts = st.builds(
    lambda ago, length, requests: Part("a", NOW - ago - length, NOW - ago, requests),
    st.integers(150_000, SPAN_MS - 150_000),
    st.integers(1, 100_000),
    st.integers(0, 10_000),
)


@given(st.lists(parts, min_size=1, max_size=20))
def test_no_request_is_lost_or_counted_twice(found: list[Part]) -> None:
    traffic = spread(found, NOW)
    drawn = sum(rate or 0.0 for rate in traffic.rates["a"]) * BUCKET_MS / 1000
    assert drawn == pytest.approx(sum(part.requests for part in found), abs=1e-6)


@given(st.lists(parts, min_size=1, max_size=20))
def test_time_that_no_window_covers_is_no_data_and_not_zero(found: list[Part]) -> None:
    traffic = spread(found, NOW)
    for bucket, rate in zip(traffic.buckets, traffic.rates["a"], strict=True):
        covered = any(part.start_ms < bucket + BUCKET_MS and part.end_ms > bucket for part in found)
        assert (rate is not None) == covered


def test_a_steady_stream_in_long_windows_is_a_level_line() -> None:
    windows = [Part("a", NOW - 30_000 * (n + 1), NOW - 30_000 * n, 300) for n in range(10)]
    rates = [rate for rate in spread(windows, NOW).rates["a"] if rate is not None]
    assert len(rates) > 50
    assert rates == pytest.approx([10.0] * len(rates))


def test_a_version_that_took_over_has_zero_and_not_a_gap_before() -> None:
    old = Part("old", NOW - 60_000, NOW - 40_000, 200)
    new = Part("new", NOW - 40_000, NOW - 20_000, 200)
    traffic = spread([old, new], NOW)
    at = traffic.buckets.index(NOW - 50_000)
    assert traffic.rates["old"][at] == pytest.approx(10.0)
    assert traffic.rates["new"][at] == 0.0


def test_nothing_is_an_empty_chart() -> None:
    assert spread([], NOW).rates == {}
