"""Laws of sketches and profiles, and damaged bytes that must not reach the C++ reader."""

from __future__ import annotations

import math
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeops.errors import BadRequestError
from edgeops.sketches import (
    RANK_ERROR,
    FeatureProfile,
    Sketch,
    kll_of,
    merge,
    merge_profiles,
    profile_of,
)

finite = st.floats(-1e6, 1e6, width=32)
columns = st.lists(arrays(np.float32, st.integers(0, 60), elements=finite), min_size=1, max_size=6)


def rank_error(sketch: Sketch, values: np.ndarray) -> float:
    points = np.unique(np.quantile(values, np.linspace(0, 1, 101)))
    exact = np.searchsorted(np.sort(values), points, side="right") / values.size
    return float(np.abs(np.array(sketch.cdf(list(points))) - exact).max())


@given(columns)
def test_merging_profiles_equals_one_pass(parts: list[np.ndarray]) -> None:
    merged = merge_profiles([profile_of(part) for part in parts])
    whole = profile_of(np.concatenate(parts))
    assert (merged.count, merged.invalid) == (whole.count, whole.invalid)
    assert (merged.minimum, merged.maximum) == (whole.minimum, whole.maximum)
    assert math.isclose(merged.mean, whole.mean, rel_tol=1e-9, abs_tol=1e-6)
    assert math.isclose(merged.m2, whole.m2, rel_tol=1e-6, abs_tol=1e-2)
    assert merged.sketch.count == whole.count


@given(columns)
def test_profiles_merge_in_any_order(parts: list[np.ndarray]) -> None:
    profiles = [profile_of(part) for part in parts]
    one, other = merge_profiles(profiles), merge_profiles(profiles[::-1])
    assert one.count == other.count
    assert math.isclose(one.mean, other.mean, rel_tol=1e-9, abs_tol=1e-6)
    assert math.isclose(one.m2, other.m2, rel_tol=1e-6, abs_tol=1e-2)


@given(arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32)))
def test_what_is_not_finite_is_counted_as_invalid_and_nowhere_else(values: np.ndarray) -> None:
    profile = profile_of(values)
    good = values[np.isfinite(values)]
    assert (profile.count, profile.invalid) == (good.size, values.size - good.size)
    assert Sketch.parse(profile.kll).count == good.size
    if good.size:
        assert (profile.minimum, profile.maximum) == (good.min(), good.max())


def test_moments_survive_a_large_offset() -> None:
    values = (np.random.default_rng(0).normal(size=10_000) + 4096).astype(np.float32)
    merged = merge_profiles([profile_of(part) for part in np.array_split(values, 7)])
    assert math.isclose(merged.variance, values.astype(np.float64).var(), rel_tol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("draw", ["normal", "exponential", "integers"])
def test_ranks_are_within_the_stated_error(seed: int, draw: str) -> None:
    random = np.random.default_rng(seed)
    values = {
        "normal": lambda: random.normal(size=50_000),
        "exponential": lambda: random.exponential(size=50_000),
        "integers": lambda: random.integers(0, 17, 50_000),
    }[draw]().astype(np.float32)
    one = Sketch.parse(kll_of(values))
    many = merge(kll_of(part) for part in np.array_split(values, 40))
    assert many.count == one.count == 50_000
    # The sketch flips coins; twice the 99% bound of one point holds for a hundred points.
    assert rank_error(one, values) < 2 * RANK_ERROR
    assert rank_error(many, values) < 2 * RANK_ERROR


def test_small_sketches_are_exact() -> None:
    sketch = Sketch.parse(kll_of(np.array([4, 1, 3, 2], np.float32)))
    assert sketch.quantiles([0.0, 0.5, 1.0]) == [1, 2, 4]
    assert sketch.cdf([0.5, 1, 2.5, 9]) == [0, 0.25, 0.5, 1]
    assert sketch.quantile(0.25) == 1


def test_an_empty_sketch_answers_with_nan_and_merges_as_nothing() -> None:
    empty = Sketch.parse(kll_of(np.array([], np.float32)))
    assert empty.count == 0
    assert math.isnan(empty.quantile(0.5))
    assert all(math.isnan(value) for value in (*empty.quantiles([0.1, 0.9]), *empty.cdf([1.0])))
    assert merge([kll_of(np.array([], np.float32)), kll_of(np.ones(3, np.float32))]).count == 3
    assert merge([]).count == 0


@given(st.integers(0, 5_000), st.sampled_from([8, 200, 400, 4096]))
@settings(max_examples=60)
def test_what_is_serialized_parses(size: int, k: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    sketch = Sketch.parse(kll_of(values, k=k))
    assert sketch.count == size
    assert Sketch.parse(sketch.serialize()).quantiles([0.1, 0.9]) == pytest.approx(
        sketch.quantiles([0.1, 0.9]), nan_ok=True
    )


def test_a_profile_whose_sketch_holds_another_count_is_refused() -> None:
    profile = profile_of(np.arange(10, dtype=np.float32))
    lying = FeatureProfile(count=11, invalid=0, mean=0, m2=0, minimum=0, maximum=0, kll=profile.kll)
    with pytest.raises(BadRequestError):
        merge_profiles([lying])


def _changed(data: bytes, at: int, form: str, value: float) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


MANY = kll_of(np.random.default_rng(0).normal(size=20_000).astype(np.float32))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        MANY[:7],
        MANY[:19],
        MANY[:-4],
        MANY[:-1],
        MANY + b"\0\0\0\0",
        _changed(MANY, 0, "<B", 2),  # preamble ints
        _changed(MANY, 1, "<B", 9),  # serial version
        _changed(MANY, 2, "<B", 3),  # family
        _changed(MANY, 3, "<B", 1),  # says empty
        _changed(MANY, 3, "<B", 4),  # says one value
        _changed(MANY, 3, "<B", 5),  # says both
        _changed(MANY, 4, "<H", 7),  # k too small
        _changed(MANY, 4, "<H", 60_000),  # k too large
        _changed(MANY, 8, "<Q", 2**63),  # count
        _changed(MANY, 8, "<Q", 19_999),
        _changed(MANY, 16, "<H", 0),  # smallest k
        _changed(MANY, 18, "<B", 0),  # levels
        _changed(MANY, 18, "<B", 255),
        _changed(MANY, 20, "<I", 2**32 - 1),  # the first level's offset
        _changed(MANY, 24, "<I", 2**31),
        _changed(MANY, len(MANY) - 4, "<f", math.nan),
        _changed(MANY, len(MANY) - 4, "<f", math.inf),
        _changed(MANY, len(MANY) - 4, "<f", 1e30),  # beyond the largest value
        _changed(kll_of(np.ones(1, np.float32)), 8, "<f", math.nan),
    ],
)
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BadRequestError):
        Sketch.parse(data)


_FUZZ = """
import random, sys
import numpy as np
from edgeops.errors import BadRequestError
from edgeops.sketches import Sketch, kll_of

random.seed(int(sys.argv[1]))
seeds = [kll_of(np.random.default_rng(n).random(n).astype("f4")) for n in (0, 1, 2, 50, 1000, 20000)]
refused = read = 0
for _ in range(30_000):
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 4)):
        choice = random.random()
        if choice < 0.6 and data:
            data[random.randrange(min(len(data), 64))] = random.randrange(256)
        elif choice < 0.8 and data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        elif choice < 0.9:
            data = data[: random.randrange(len(data) + 1)]
        else:
            data += random.randbytes(random.randrange(9))
    try:
        sketch = Sketch.parse(bytes(data))
    except BadRequestError:
        refused += 1
        continue
    read += 1
    both = Sketch()
    both.merge(sketch)
    both.merge(sketch)
    assert both.count == 2 * sketch.count
    both.quantiles([0.0, 0.5, 1.0])
    both.cdf([0.1, 0.5])
    Sketch.parse(both.serialize())
print(refused, read)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_fuzzed_bytes_never_kill_the_process(seed: int) -> None:
    """In a process of its own: what this guards against is a crash of the C++ reader."""
    done = subprocess.run(
        [sys.executable, "-c", _FUZZ, str(seed)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, read = (int(word) for word in done.stdout.split())
    assert refused > 1000
    assert read > 1000
