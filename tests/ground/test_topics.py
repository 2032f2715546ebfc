"""Topics: building and parsing are inverse, and nothing else parses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeops.names import is_name
from edgeops.topics import (
    CHANNELS,
    DEVICE_READS,
    DEVICE_WRITES,
    ROOT,
    Channel,
    DeviceTopic,
    all_devices,
    parse,
    topic,
)

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True)


@given(NAMES, st.sampled_from(CHANNELS))
def test_parse_undoes_topic(device: str, channel: Channel) -> None:
    assert parse(topic(device, channel)) == DeviceTopic(device, channel)


@given(st.text() | st.builds(f"{ROOT}/{{}}/{{}}".format, st.text(max_size=8), st.sampled_from(CHANNELS)))
def test_what_parses_is_what_topic_builds(text: str) -> None:
    parsed = parse(text)
    assert parsed is None or topic(parsed.device, parsed.channel) == text


@given(st.text(max_size=12))
def test_no_topic_for_what_is_no_name(device: str) -> None:
    if is_name(device):
        assert topic(device, "state").count("/") == 4
    else:
        with pytest.raises(ValueError, match="cannot be part of a topic"):
            topic(device, "state")


def test_wildcards_never_parse() -> None:
    assert [parse(all_devices(channel)) for channel in CHANNELS] == [None] * len(CHANNELS)


def test_a_shared_subscription_names_its_group_first() -> None:
    assert all_devices("windows", share="hub") == f"$share/hub/{ROOT}/+/windows"


def test_every_channel_has_one_direction() -> None:
    assert sorted(DEVICE_READS + DEVICE_WRITES) == sorted(CHANNELS)
