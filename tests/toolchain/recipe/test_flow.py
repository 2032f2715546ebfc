"""What is written on one line is read as the same value."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from toolchain.recipe.flow import is_date, one_line

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=12).filter(
    lambda t: not is_date(t)
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
@example("1.0")
@example("1.0.0")
@example("a: b # c")
@example({"no": "on", "~": "1e3"})
@example(1e-7)
@example("module.name:function")
def test_it_is_read_back(value: Any) -> None:
    text = one_line(value)
    assert "\n" not in text
    assert yaml.safe_load(f"key: {text}") == {"key": value}
