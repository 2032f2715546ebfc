"""What distilling gained, judged over seeds."""

import math
import statistics

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from toolchain.training.gain import alone, summary

accuracies = st.lists(
    st.tuples(st.floats(0, 1, allow_nan=False), st.floats(0, 1, allow_nan=False)), min_size=1, max_size=8
)


def runs_of(pairs: list[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"seed": n, "alone": a, "distilled": d} for n, (a, d) in enumerate(pairs)]


@given(accuracies)
def test_the_verdict_is_students_t_test_of_the_pairs(pairs: list[tuple[float, float]]) -> None:
    told = summary(runs_of(pairs))
    gains = [d - a for a, d in pairs]
    assert told["mean_gain"] == pytest.approx(statistics.fmean(gains), abs=1e-6)
    if len(gains) == 1:
        assert (told["gain_stdev"], told["verdict"]) == (None, "unclear")
        return
    spread = statistics.stdev(gains)
    assert told["gain_stdev"] == pytest.approx(spread, abs=1e-6)
    half = scipy.stats.t.ppf(0.975, len(gains) - 1) * spread / math.sqrt(len(gains))
    if abs(abs(statistics.fmean(gains)) - half) > 1e-9:
        leaves_out_0 = abs(statistics.fmean(gains)) > half
        assert (told["verdict"] != "unclear") == leaves_out_0
        if leaves_out_0:
            assert told["verdict"] == ("helps" if statistics.fmean(gains) > 0 else "hurts")


@given(accuracies)
def test_where_less_is_better_the_gain_turns_round(pairs: list[tuple[float, float]]) -> None:
    more, less = summary(runs_of(pairs)), summary(runs_of(pairs), metric="perplexity")
    assert less["mean_gain"] == pytest.approx(-more["mean_gain"])
    turned = {"helps": "hurts", "hurts": "helps", "unclear": "unclear"}
    assert less["verdict"] == turned[more["verdict"]]


def test_a_lower_perplexity_on_every_seed_helps() -> None:
    told = summary(runs_of([(80.0, 70.1), (82.0, 72.0), (81.0, 71.0)]), metric="perplexity")
    assert (told["verdict"], told["metric"]) == ("helps", "perplexity")
    assert told["mean_gain"] == pytest.approx(9.966667)


def test_runs_without_a_teacher_are_told_with_their_spread() -> None:
    runs = [{"seed": 1, "alone": 0.9}, {"seed": 2, "alone": 0.8}]
    told = alone(runs)
    assert told["runs"] == runs
    assert told["mean_alone"] == pytest.approx(0.85)
    assert told["alone_stdev"] == pytest.approx(statistics.stdev([0.9, 0.8]), abs=1e-6)
    assert alone(runs[:1])["alone_stdev"] is None


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(KeyError):
        summary(runs_of([(0.1, 0.2)]), metric="beauty")
