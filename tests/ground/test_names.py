"""Names end up in topics, paths, certificates and URLs: what may be one."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.errors import BadRequestError
from edgeops.names import is_digest, is_name, is_version, require_name

ALPHABET = set(string.ascii_lowercase + string.digits + "._-")


@given(st.text(max_size=70) | st.text("abz059._-AZ /+#$\n", max_size=70))
def test_a_name_is_short_and_dull(text: str) -> None:
    edges = set(string.ascii_lowercase + string.digits)
    dull = 1 <= len(text) <= 64 and set(text) <= ALPHABET and {text[0], text[-1]} <= edges
    assert is_name(text) == dull


@pytest.mark.parametrize("text", ["1.0.0", "0.0.1", "10.20.30", "1.0.0-rc.1", "1.0.0-alpha-2"])
def test_versions(text: str) -> None:
    assert is_version(text)


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1.0",
        "01.0.0",
        "1.0.0+build",
        "v1.0.0",
        "1.0.0-",
        "1.0.0\n",
        "1.0.0/..",
        "",
        "1.٢.0",
        "1.0.²",
        "1.0.0-" + "a" * 64,
    ],
)
def test_no_versions(text: str) -> None:
    assert not is_version(text)


def test_digests_are_lower_case_sha256() -> None:
    assert is_digest("0a" * 32)
    assert not any(map(is_digest, ["0A" * 32, "0a" * 31, "0a" * 33, "0g" * 32, "0a" * 32 + "\n"]))


def test_require_name_says_what_was_wrong() -> None:
    assert require_name("site-7", "site") == "site-7"
    with pytest.raises(BadRequestError) as caught:
        require_name("Site 7", "site")
    assert caught.value.subject == "site"
    assert "lower-case" in str(caught.value)
