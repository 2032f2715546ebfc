"""Who answers: the table of cases, and what holds for all of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.core.routing import POLICIES, Fallback, Local, Policy, decide, parse_policy
from edgeops.errors import BadRequestError

LOCAL = Local()


@pytest.mark.parametrize(
    ("confidence", "threshold", "policy", "failed", "expected"),
    [
        (0.9, 0.6, "device-first", False, LOCAL),
        (0.6, 0.6, "device-first", False, LOCAL),
        (0.59, 0.6, "device-first", False, Fallback("low_confidence")),
        (math.nan, 0.6, "device-first", False, Fallback("low_confidence")),
        (None, 0.6, "device-first", False, LOCAL),
        (None, 0.6, "device-first", True, Fallback("device_error")),
        (0.9, 0.6, "cloud-first", False, Fallback("requested")),
        (None, 0.6, "cloud-first", True, Fallback("device_error")),
        (0.1, 0.6, "local-only", False, LOCAL),
        (None, 0.6, "local-only", True, LOCAL),
        (0.1, None, "device-first", False, LOCAL),
        (None, None, "device-first", True, LOCAL),
        (0.1, None, "cloud-first", False, LOCAL),
    ],
)
def test_cases(
    confidence: float | None, threshold: float | None, policy: Policy, failed: bool, expected: object
) -> None:
    assert decide(confidence, threshold, policy, failed=failed) == expected


@given(
    st.none() | st.floats(),
    st.none() | st.floats(0, 1),
    st.sampled_from(POLICIES),
    st.booleans(),
)
def test_nothing_leaves_the_device_without_a_cloud_variant_or_against_the_clients_word(
    confidence: float | None, threshold: float | None, policy: Policy, failed: bool
) -> None:
    route = decide(confidence, threshold, policy, failed=failed)
    if threshold is None or policy == "local-only":
        assert route == LOCAL
    if failed and threshold is not None and policy != "local-only":
        assert route == Fallback("device_error")


def test_policies_are_parsed() -> None:
    assert parse_policy(None) == "device-first"
    assert parse_policy("local-only") == "local-only"


@pytest.mark.parametrize("value", ["", "cloud", 1, True, 0.5])
def test_unknown_policies_are_refused(value: object) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_policy(value)
    assert caught.value.subject == "edgeops_policy"
