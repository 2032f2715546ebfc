"""The laws of the Pareto front, with latencies that are exact and with such that are not."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from toolchain.search.front import LATENCY_NOISE, Point, by_preference, first_picks, no_worse, pareto


def points(latencies: st.SearchStrategy[float]) -> st.SearchStrategy[list[Point]]:
    figures = st.tuples(st.integers(0, 4), st.integers(1, 4), latencies)
    return st.lists(figures, max_size=12).map(
        lambda rows: [Point(f"v{i}", q / 4, s, t) for i, (q, s, t) in enumerate(rows)]
    )


# Any two of these differ by nothing or by more than the noise.
EXACT = st.integers(0, 6).map(lambda power: 1.2**power)
NOISY = st.floats(1, 1.4)


def dominates(one: Point, other: Point) -> bool:
    """The textbook's words, on exact figures."""
    at_least = (
        one.quality >= other.quality
        and one.size_bytes <= other.size_bytes
        and one.latency_ms <= other.latency_ms
    )
    return at_least and (one.quality, one.size_bytes, one.latency_ms) != (
        other.quality,
        other.size_bytes,
        other.latency_ms,
    )


@given(points(EXACT))
def test_with_exact_latencies_the_front_is_what_no_other_dominates(given: list[Point]) -> None:
    front, _ = pareto(given)
    undominated = [p for p in given if not any(dominates(other, p) for other in given)]
    first_of_equal = {
        (p.quality, p.size_bytes, p.latency_ms): p for p in sorted(undominated, key=lambda p: p.id)[::-1]
    }
    assert sorted(p.id for p in front) == sorted(p.id for p in first_of_equal.values())


@given(points(NOISY))
def test_whatever_the_noise_the_front_stands_by_itself_and_covers_the_rest(given: list[Point]) -> None:
    front, beaten = pareto(given)
    assert {p.id for p in front} | beaten.keys() == {p.id for p in given}
    assert not any(no_worse(a, b) for a in front for b in front if a is not b)
    by_id = {p.id: p for p in given}
    for name, better in beaten.items():
        assert better
        for other in better:
            assert other in front
            assert other.quality >= by_id[name].quality
            assert other.size_bytes <= by_id[name].size_bytes
            assert other.latency_ms <= by_id[name].latency_ms * (1 + LATENCY_NOISE)


@given(points(NOISY), st.randoms())
def test_the_order_of_the_points_makes_no_difference(given: list[Point], random: Random) -> None:
    shuffled = list(given)
    random.shuffle(shuffled)
    assert pareto(shuffled)[0] == pareto(given)[0]
    assert by_preference(shuffled) == by_preference(given)
    assert first_picks(shuffled) == first_picks(given)


@given(points(NOISY))
def test_devices_prefer_the_fastest_and_of_those_the_smallest(given: list[Point]) -> None:
    ordered = by_preference(given)
    assert sorted(p.id for p in ordered) == sorted(p.id for p in given)
    for i, point in enumerate(ordered):
        rest = ordered[i:]
        fastest = min(p.latency_ms for p in rest)
        assert point.latency_ms <= fastest * (1 + LATENCY_NOISE)
        assert point.size_bytes == min(
            p.size_bytes for p in rest if p.latency_ms <= fastest * (1 + LATENCY_NOISE)
        )


@given(points(NOISY).filter(bool))
def test_with_room_for_three_the_fastest_the_smallest_and_the_best_are_kept(given: list[Point]) -> None:
    picks = first_picks(given)
    assert sorted(p.id for p in picks) == sorted(p.id for p in given)
    assert picks[0] == by_preference(given)[0]
    assert min(p.size_bytes for p in picks[:3]) == min(p.size_bytes for p in given)
    assert max(p.quality for p in picks[:3]) == max(p.quality for p in given)


def test_a_variant_that_is_hardly_faster_does_not_count_as_faster() -> None:
    plain = Point("plain", 0.9, 100, 1.00)
    small = Point("small", 0.9, 60, 1.04)
    slow = Point("slow", 0.9, 50, 1.10)
    front, beaten = pareto([plain, small, slow])
    assert {p.id for p in front} == {"small", "slow"}
    assert beaten == {"plain": [small]}
