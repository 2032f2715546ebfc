"""The e-processes: laws by exact enumeration, error rates and power by simulation with fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import eprocess
from fleet.eprocess import Arms, Question

Array = npt.NDArray[np.float64]
counts = st.integers(0, 40)
histories = st.builds(
    lambda cn, ck, bn, bk: np.array([cn, min(ck, cn), bn, min(bk, bn)], dtype=np.float64),
    counts,
    counts,
    counts,
    counts,
)
rates = st.floats(0.0, 1.0)


def binomial(n: int, k: int, rate: float) -> float:
    return math.comb(n, k) * rate**k * (1 - rate) ** (n - k)


def expected_factors(
    question: Question, margin: float, seen: Array, sizes: tuple[int, int], canary: float, baseline: float
) -> Array:
    """The expectation of a block's factor per ratio, over every outcome of the block."""
    m, n = sizes
    zero = np.zeros(len(eprocess.start(question, margin).log_wealth))
    total = np.zeros_like(zero)
    for i, j in itertools.product(range(m + 1), range(n + 1)):
        block = np.array([m, i, n, j], dtype=np.float64)
        factor = np.exp(eprocess.advance(question, margin, zero, seen, block))
        total += binomial(m, i, canary) * binomial(n, j, baseline) * factor
    return total


@settings(max_examples=150, deadline=None)
@given(histories, st.integers(1, 6), st.integers(1, 6), rates, rates)
def test_no_block_of_any_size_is_expected_to_gain_while_the_canary_is_not_worse(
    seen: Array, m: int, n: int, first: float, second: float
) -> None:
    canary, baseline = sorted((first, second))
    assert (expected_factors("worse", 0.0, seen, (m, n), canary, baseline) <= 1 + 1e-9).all()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(histories, st.integers(1, 6), st.integers(1, 6), rates, rates, st.floats(0.005, 0.3))
def test_no_block_is_expected_to_gain_while_the_canary_is_worse_by_the_margin(
    seen: Array, m: int, n: int, rate: float, more: float, margin: float
) -> None:
    baseline = rate * (1 - margin)
    canary = baseline + margin + more * (1 - baseline - margin)
    expected = expected_factors("no_worse", margin, seen, (m, n), canary, baseline)
    assert (expected <= 1 + 1e-9).all()


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
@pytest.mark.parametrize(("question", "margin"), [("worse", 0.0), ("no_worse", 0.05)])
def test_an_update_bets_on_what_was_seen_before_it_alone(
    question: Question, margin: float, rate: float
) -> None:
    """Every outcome of two blocks, through `update`: the e-value is expected to stay at or below 1."""
    size = eprocess.BLOCK_MIN
    chances = [binomial(size, k, rate) for k in range(size + 1)]
    worse = [binomial(size, k, rate + margin) for k in range(size + 1)]
    likely = [k for k in range(size + 1) if worse[k] > 1e-6]
    before = eprocess.start(question, margin).update([Arms(size, 1, size, 1)])
    total = 0.0
    for i, j in itertools.product(likely, likely):
        after = before.update([Arms(size, i, size, j)])
        assert after.seen.canary_n == 2 * size
        total += worse[i] * chances[j] * math.exp(after.log_e)
    assert total <= math.exp(before.log_e) * (1 + 1e-9)


def test_a_real_difference_is_expected_to_gain() -> None:
    seen = np.array([200.0, 40.0, 200.0, 8.0])
    assert expected_factors("worse", 0.0, seen, (5, 5), 0.2, 0.04).max() > 1.05
    assert expected_factors("no_worse", 0.05, seen[[2, 3, 2, 3]], (5, 5), 0.04, 0.04).max() > 1.01


@pytest.mark.slow
@given(st.sampled_from(["worse", "no_worse"]), st.lists(st.tuples(counts, counts, counts, counts)))
def test_it_starts_at_one_and_counts_everything(
    question: Question, batches: list[tuple[int, int, int, int]]
) -> None:
    process = eprocess.start(question, 0.02)
    assert process.log_e == 0.0
    arms = [Arms(cn, min(ck, cn), bn, min(bk, bn)) for cn, ck, bn, bk in batches]
    after = process.update(arms)
    assert after.total == sum(arms, Arms())
    assert math.isfinite(after.log_e)


def test_one_arm_alone_proves_nothing() -> None:
    process = eprocess.start("worse", 0.0).update([Arms(canary_n=100_000, canary_k=100_000)])
    assert process.log_e == 0.0
    assert process.total.canary_n == 100_000


def test_when_a_block_closes_depends_on_sizes_and_never_on_outcomes() -> None:
    sizes = [(4, 9), (7, 3), (30, 1), (2, 40), (60, 60)]
    good = eprocess.start("worse", 0.0).update([Arms(m, 0, n, 0) for m, n in sizes])
    bad = eprocess.start("worse", 0.0).update([Arms(m, m, n, n) for m, n in sizes])
    assert (good.seen.canary_n, good.seen.baseline_n) == (bad.seen.canary_n, bad.seen.baseline_n)
    assert good.seen.canary_n > 0


def test_a_round_trip_through_json_changes_nothing() -> None:
    import msgspec

    process = eprocess.start("no_worse", 0.02).update([Arms(30, 2, 40, 3)] * 7)
    assert msgspec.json.decode(msgspec.json.encode(process), type=eprocess.EProcess) == process


def crossings(
    question: Question,
    margin: float,
    canary: float,
    baseline: float,
    *,
    looks: int,
    sizes: tuple[int, int],
    runs: int,
    alpha: float = 0.05,
    seed: int = 1,
) -> Array:
    """The canary requests after which each run first reached 1/alpha; infinite for those that never did.
    Block sizes vary from look to look, and depend on what was seen before."""
    rng = np.random.default_rng(seed)
    wealth = np.zeros((runs, len(eprocess.start(question, margin).log_wealth)))
    seen = np.zeros((runs, 4))
    first = np.full(runs, np.inf)
    for _ in range(looks):
        # More traffic to the canary after a bad block: sizes may depend on the past.
        ahead = seen[:, 1] * seen[:, 2] > seen[:, 3] * seen[:, 0]
        m = rng.integers(1, 2 * sizes[0], runs) + ahead * sizes[0]
        n = rng.integers(1, 2 * sizes[1], runs)
        bad = rng.binomial(m, canary), rng.binomial(n, baseline)
        block = np.stack([m, bad[0], n, bad[1]], axis=1).astype(np.float64)
        wealth = eprocess.advance(question, margin, wealth, seen, block)
        seen += block
        reached = (eprocess.log_mean_exp(wealth) >= -math.log(alpha)) & np.isinf(first)
        first[reached] = seen[reached, 0]
    return first


# The bound is alpha; the standard error of a rate of .05 over 2,000 runs is .005.
FALSE_ALARM_BOUND = 0.05 + 2.6 * 0.005


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.002, 0.02, 0.1, 0.5])
def test_looking_a_hundred_times_keeps_false_aborts_below_alpha(rate: float) -> None:
    first = crossings("worse", 0.0, rate, rate, looks=100, sizes=(10, 40), runs=2000)
    assert np.isfinite(first).mean() <= FALSE_ALARM_BOUND


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.03, 0.3])
def test_a_canary_worse_by_the_margin_is_promoted_with_probability_below_alpha(rate: float) -> None:
    first = crossings("no_worse", 0.02, rate + 0.02, rate, looks=100, sizes=(20, 40), runs=2000)
    assert np.isfinite(first).mean() <= FALSE_ALARM_BOUND


@pytest.mark.slow
def test_peeking_at_a_plain_z_test_would_not_keep_it() -> None:
    """The same look of the simulation, with a test that is not made for peeking: it shows that the
    simulation can fail."""
    rng, runs = np.random.default_rng(1), 2000
    bad, n, alarmed = np.zeros((2, runs)), 0, np.zeros(runs, dtype=bool)
    for _ in range(100):
        bad += rng.binomial(20, 0.1, (2, runs))
        n += 20
        pooled = np.clip(bad.sum(axis=0) / (2 * n), 1e-9, 1)
        alarmed |= (bad[0] - bad[1]) / n > 1.645 * np.sqrt(2 * pooled * (1 - pooled) / n)
    assert alarmed.mean() > 0.2


@pytest.mark.parametrize(
    ("question", "margin", "canary", "baseline", "requests"),
    [
        pytest.param("worse", 0.0, 0.35, 0.03, 80, id="a bad model is caught within 80 labels"),
        pytest.param("worse", 0.0, 1.0, 0.001, 40, id="a broken one within 40 requests"),
        pytest.param("no_worse", 0.02, 0.03, 0.09, 600, id="a better model is promoted within 600"),
        pytest.param("no_worse", 0.02, 0.0, 0.0, 600, id="no errors at all suffice after 600 requests"),
    ],
)
def test_power(question: Question, margin: float, canary: float, baseline: float, requests: int) -> None:
    first = crossings(question, margin, canary, baseline, looks=60, sizes=(10, 20), runs=300)
    assert (first <= requests).mean() >= 0.9
