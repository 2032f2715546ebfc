"""Where two JSON values differ."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.comparing.differences import ABSENT, Difference, differences

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner)
    ),
    max_leaves=8,
)


@given(values)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert list(differences(value, value)) == []


@given(values, values)
def test_two_values_differ_by_turns(one: Any, other: Any) -> None:
    there = list(differences(one, other))
    assert [Difference(path, new, old) for path, old, new in there] == list(differences(other, one))
    assert bool(there) == (repr(one) != repr(other))


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": 1}, {"a": None}, [("a", 1, None)]),
        ({"a": None}, {}, [("a", None, ABSENT)]),
        ([1, {"x": 2}], [1, {"x": 3}, 4], [("[1].x", 2, 3), ("[2]", ABSENT, 4)]),
        (1, True, [("", 1, True)]),
        (1, 1.0, []),
        ({"a": [1]}, {"a": {"0": 1}}, [("a", [1], {"0": 1})]),
    ],
)
def test_the_innermost_fields_are_named(old: Any, new: Any, found: list[tuple[str, Any, Any]]) -> None:
    assert [tuple(item) for item in differences(old, new)] == found
