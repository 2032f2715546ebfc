"""Drift statistics: the table holds its level, ties are safe, shifts are seen, many features stay calm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.profiles import reference_feature
from edgeops.sketches import Sketch, kll_of
from fleet import calibrate_drift, drift_table
from fleet.drift import Distance, Reference
from fleet.drift_verdict import Least, Place, drift_measurement, judge_drift
from fleet.significance import MIN_COUNT, discovery_level, is_judgeable, p_value, threshold

Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]


def sketch_of(values: Array, parts: int = 1) -> Sketch:
    """One sketch, merged from those of `parts` windows."""
    sketch = Sketch()
    for part in np.array_split(values, parts):
        sketch.merge(Sketch.parse(kll_of(part)))
    return sketch


def normal(rng: np.random.Generator, n: int) -> Array:
    return rng.standard_normal(n)


DISCRETE: dict[str, Draw] = {
    "yes or no": lambda rng, n: (rng.random(n) < 0.3).astype(float),
    "counts": lambda rng, n: rng.poisson(2, n).astype(float),
    "constant": lambda rng, n: np.zeros(n),
    "pixels": lambda rng, n: rng.integers(0, 17, n).astype(float),
    "half zero": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, rng.standard_normal(n)),
}


def p_values(draw: Draw, n: int, reference: int, *, runs: int, parts: int = 10, shift: float = 0.0) -> Array:
    """Shape (runs, 2): both p-values, each time with a new reference and a new window."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(runs):
        against = Reference(reference_feature(draw(rng, reference)))
        distance = against.distance(sketch_of(draw(rng, n) + shift, parts))
        found.append((p_value("ks", distance), p_value("psi", distance)))
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "reference"), [(70, 300), (700, 989), (3_000, 700), (15_000, 2_000)])
def test_false_alarms_come_at_the_nominal_rate(n: int, reference: int) -> None:
    """Between the table's cells, for another distribution than it was made with, on merged sketches.

    A sketch's coin flips cannot be seeded, so the bounds are four standard errors wide.
    """
    runs = 1000
    found = p_values(normal, n, reference, runs=runs)
    for level in (0.05, 0.01):
        error = (level * (1 - level) / runs) ** 0.5
        assert (np.abs((found <= level).mean(axis=0) - level) <= 4 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", DISCRETE)
def test_ties_never_raise_the_false_alarms(name: str) -> None:
    for n, runs in ((500, 400), (5_000, 200)):
        found = p_values(DISCRETE[name], n, 1_000, runs=runs)
        assert ((found <= 0.05).mean(axis=0) <= 0.05 + 0.025).all()


def test_a_shift_of_a_third_of_a_deviation_is_seen_in_a_thousand_requests() -> None:
    found = p_values(normal, 1_000, 989, runs=60, shift=0.3)
    assert ((found <= 0.001).mean(axis=0) >= 0.9).all()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(DISCRETE["constant"], lambda rng, n: np.full(n, 1.0), id="another constant"),
        pytest.param(DISCRETE["constant"], lambda rng, n: np.full(n, -1.0), id="a smaller constant"),
        pytest.param(
            DISCRETE["yes or no"],
            lambda rng, n: (rng.random(n) < 0.5).astype(float),
            id="more yes than before",
        ),
        pytest.param(
            DISCRETE["pixels"], lambda rng, n: rng.integers(0, 17, n) + 0.5, id="between the values"
        ),
        pytest.param(normal, lambda rng, n: rng.standard_normal(n) * 1.6, id="the same mean, wider"),
        pytest.param(
            normal, lambda rng, n: np.where(rng.random(n) < 0.9, rng.standard_normal(n), 50.0), id="a spike"
        ),
    ],
)
def test_changes_that_are_no_shift_are_seen_too(before: Draw, after: Draw) -> None:
    rng = np.random.default_rng(5)
    distance = Reference(reference_feature(before(rng, 1_000))).distance(sketch_of(after(rng, 2_000)))
    assert p_value("ks", distance) < 1e-4


def test_ks_is_the_distance_of_the_distribution_functions() -> None:
    """Small samples fit into sketch and grid exactly, so scipy's statistic must come out (the grid knows
    the reference to 1/1024)."""
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(2)
    for shift in (0.0, 0.2, 1.0, 9.0):
        reference, window = rng.standard_normal(400), rng.standard_normal(150) + shift
        found = Reference(reference_feature(reference)).distance(sketch_of(window))
        expected = ks_2samp(reference.astype(np.float32), window.astype(np.float32)).statistic
        assert found.ks == pytest.approx(expected, abs=0.004)
        assert found.count == 150


def test_an_empty_sketch_is_no_evidence() -> None:
    reference = Reference(reference_feature(np.arange(300.0)))
    with pytest.raises(ValueError, match="empty"):
        reference.distance(Sketch())
    assert not is_judgeable(reference.distance(sketch_of(np.arange(MIN_COUNT - 1.0))))
    assert is_judgeable(reference.distance(sketch_of(np.arange(float(MIN_COUNT)))))


distances = st.builds(
    Distance, st.integers(50, 10**7), st.integers(200, 10**7), st.floats(0, 1), st.floats(0, 20)
)


@given(distances, st.floats(1e-8, 0.9), st.sampled_from(["ks", "psi"]))
def test_the_threshold_is_where_the_p_value_reaches_the_level(
    distance: Distance, level: float, statistic: str
) -> None:
    at = threshold(statistic, distance, level)  # type: ignore[arg-type]
    same = {"count": distance.count, "reference_count": distance.reference_count}
    for factor, comparison in ((0.999, np.greater), (1.001, np.less)):
        other = Distance(**same, ks=at * factor, psi=at * factor)
        assert comparison(p_value(statistic, other), level)  # type: ignore[arg-type]


@given(distances)
def test_more_reference_or_more_requests_never_ask_for_more(distance: Distance) -> None:
    more = Distance(distance.count * 4, distance.reference_count * 4, distance.ks, distance.psi)
    # Beyond what simulation noise (about 1% of a critical value) can turn around.
    assert threshold("ks", more, 0.01) <= threshold("ks", distance, 0.01) * 1.03
    assert threshold("psi", more, 0.01) <= threshold("psi", distance, 0.01) * 1.05


@given(st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=40), st.floats(0.001, 0.2))
def test_the_discovery_level_is_benjamini_and_yekutieli_s(p: list[float], rate: float) -> None:
    from scipy.stats import false_discovery_control

    level = discovery_level(p, rate)
    adjusted = false_discovery_control(p, method="by")
    clear = np.abs(adjusted / rate - 1) > 1e-9  # what lies on the line may fall on either side of it
    assert ((np.array(p) <= level) == (adjusted <= rate))[clear].all()


NO_LEAST = Least(ks=0.0, psi=0.0)


def place(site: str, feature: str) -> Place:
    return Place("digits", "a" * 64, site, feature)


@pytest.mark.slow
def test_many_features_at_many_sites_stay_calm_and_the_shifted_one_is_named() -> None:
    rng = np.random.default_rng(8)
    alarms, named = 0, 0
    for _ in range(20):
        found = []
        for site in ("north", "south", "east"):
            for feature in ("a", "b", "c", "d", "e"):
                reference = Reference(reference_feature(normal(rng, 1_000)))
                shift = 0.5 if (site, feature) == ("south", "c") else 0.0
                found.append((place(site, feature), reference.distance(sketch_of(normal(rng, 800) + shift))))
        drifted = {score.place for score in judge_drift(found, 0.01, NO_LEAST) if score.drifted}
        named += place("south", "c") in drifted
        alarms += len(drifted - {place("south", "c")})
    assert named == 20
    assert alarms <= 1


def test_a_score_says_what_its_threshold_means() -> None:
    rng = np.random.default_rng(9)
    reference = Reference(reference_feature(normal(rng, 1_000)))
    rows = [(place(site, "a"), reference.distance(sketch_of(normal(rng, 900) + shift)))
            for site, shift in (("north", 0.0), ("south", 2.0))]  # fmt: skip
    calm, drifted = judge_drift(rows, 0.01, NO_LEAST)
    for score in (calm, drifted):
        over = score.distance.ks >= score.ks_threshold or score.distance.psi >= score.psi_threshold
        assert score.drifted == over
    assert drift_measurement(drifted, "digits 1.0.0").reading == "true"
    assert "a over 900 requests" in drift_measurement(drifted, "digits 1.0.0").message
    assert drift_measurement(calm, "digits 1.0.0").reading == "clear"


def test_a_significant_difference_that_is_too_small_to_matter_is_no_drift() -> None:
    rng = np.random.default_rng(10)
    reference = Reference(reference_feature(normal(rng, 50_000)))
    rows = [(place("north", "a"), reference.distance(sketch_of(normal(rng, 20_000) + 0.1)))]
    (significant,) = judge_drift(rows, 0.01, NO_LEAST)
    assert significant.drifted
    (small,) = judge_drift(rows, 0.01, Least(ks=0.1, psi=0.1))
    assert not small.drifted
    assert small.ks_threshold == 0.1 and small.psi_threshold == 0.1
    assert drift_measurement(small, "digits 1.0.0").reading == "clear"


def test_a_site_where_all_drifts_does_not_loosen_the_thresholds_of_another() -> None:
    rng = np.random.default_rng(11)
    reference = Reference(reference_feature(normal(rng, 1_000)))

    def rows(shift: float) -> list[tuple[Place, Distance]]:
        still = sketch_of(normal(np.random.default_rng(1), 900))
        moved = sketch_of(normal(np.random.default_rng(2), 900) + shift)
        features = ("a", "b", "c", "d")
        return [(place("north", f), reference.distance(still)) for f in features] + [
            (place("south", f), reference.distance(moved)) for f in features
        ]

    calm = {s.place: s.ks_threshold for s in judge_drift(rows(0.0), 0.01, NO_LEAST)}
    loud = {s.place: s.ks_threshold for s in judge_drift(rows(3.0), 0.01, NO_LEAST)}
    assert all(loud[p] == calm[p] for p in calm if p.site == "north")
    assert all(loud[p] < calm[p] for p in calm if p.site == "south")


def test_places_with_too_few_requests_are_not_judged() -> None:
    reference = Reference(reference_feature(np.arange(500.0)))
    few = reference.distance(sketch_of(np.full(MIN_COUNT - 1, 1e6)))
    assert judge_drift([(place("north", "a"), few)], 0.01, NO_LEAST) == ()


@pytest.mark.slow
def test_the_table_is_what_the_calibration_makes() -> None:
    """One row again, with fewer runs."""
    rng = np.random.default_rng(calibrate_drift.SEED + 1)
    count = 200
    samples = calibrate_drift.simulate(count, 1_000, rng)
    row = drift_table.COUNTS.index(count)
    level = drift_table.LEVELS.index(0.05)
    again = np.quantile(samples, 0.95, axis=-1)
    stored = [[table[row][cell][level] for table in (drift_table.KS, drift_table.PSI)] for cell in range(4)]
    assert again == pytest.approx(np.array(stored), rel=0.12)


@pytest.mark.slow
def test_the_uniform_reference_is_distributed_like_a_real_one() -> None:
    rng = np.random.default_rng(4)
    made = np.array([calibrate_drift.uniform_reference(200, rng).quantiles for _ in range(1_500)])
    real = np.array([reference_feature(rng.random(200)).quantiles for _ in range(1_500)])
    for column in (0, 100, 512, 1_000, 1_024):
        assert made[:, column].mean() == pytest.approx(real[:, column].mean(), abs=0.004)
        assert made[:, column].std() == pytest.approx(real[:, column].std(), abs=0.003)
