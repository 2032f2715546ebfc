"""Canonical JSON: one byte string for one value, and only one reading of it."""

import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.canonical import canonical_json, digest_of, sha256_bytes, sha256_file, sha256_stream, strict_json

# What RFC 8785 can express: I-JSON (RFC 7493). -0.0 is written as 0, which is the same number.
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), children, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_reading_gives_back_what_was_written(value: object) -> None:
    assert strict_json(canonical_json(value)) == value


@given(JSON_VALUES)
def test_the_form_does_not_depend_on_how_the_value_was_written(value: object) -> None:
    rewritten = json.loads(json.dumps(value, indent=2, ensure_ascii=True))
    assert canonical_json(rewritten) == canonical_json(value)


def test_the_rfc_example() -> None:
    # RFC 8785, section 3.2.2 and 3.2.3: the sample object and its canonical form.
    source = (
        b'{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
        b'"string": "\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/",'
        b'"literals": [null, true, false]}'
    )
    assert canonical_json(strict_json(source)) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"\xff\xfe[\x001\x00]\x00",
        b'"\xff"',
        b"[" * 100_000,
        b"1 2",
        b"",
        b"[9007199254740993]",
        b"[" + b"9" * 400 + b"]",
        b"[" + b"9" * 10_000 + b"]",
    ],
    ids=[
        "twice",
        "twice-inside",
        "nan",
        "inf",
        "-inf",
        "utf-16",
        "no-utf-8",
        "deep",
        "two-values",
        "empty",
        "rounded",
        "overflow",
        "long",
    ],
)
def test_a_text_with_two_readings_or_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        strict_json(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800", {"\ud800": 1}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical_json(value)


@given(st.binary(max_size=4096))
def test_every_way_to_hash_gives_the_same(data: bytes) -> None:
    assert sha256_bytes(data) == hashlib.sha256(data).hexdigest() == sha256_stream(io.BytesIO(data))


def test_a_file_is_hashed_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data)


def test_a_mapping_s_digest_ignores_the_order_of_its_keys() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})
