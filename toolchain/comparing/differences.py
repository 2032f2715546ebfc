"""Where two JSON values differ, by dotted path. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# A value that is not there, as opposed to one that is null.
ABSENT = object()


class Difference(NamedTuple):
    """`old` or `new` is `ABSENT` where there is no such field."""

    path: str
    old: Any
    new: Any


def differences(old: Any, new: Any, path: str = "") -> Iterator[Difference]:
    """The innermost fields that differ, mappings by key in order, lists by index (`a.b[2].c`)."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), inner)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            inner = f"{path}[{index}]"
            one = old[index] if index < len(old) else ABSENT
            other = new[index] if index < len(new) else ABSENT
            yield from differences(one, other, inner)
    # 1 and 1.0 are one number in JSON; true is none, though Python has it equal to 1.
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield Difference(path, old, new)
