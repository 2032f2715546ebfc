"""Why a step has to run, in a sentence: what differs from the last build of the same recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolchain.caching.cache import KeyParts

_SHOWN = 3


def why(now: KeyParts, last: KeyParts | None, *, damaged: bool) -> str:
    """The reason, given what decided the step in this build and in the last one (None: there was none)."""
    if damaged:
        return "its cached output is damaged"
    if last is None:
        return "this recipe's step was not built here before"
    changes = list(_changes(now, last))
    if not changes:
        return "the cache holds no output of it"
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return ", ".join(changes[:_SHOWN]) + more


def _changes(now: KeyParts, last: KeyParts) -> Iterator[str]:
    for name in _differing(now.config, last.config):
        yield f"config {name} changed"
    for name in _differing(now.code, last.code):
        yield f"code {name} changed"
    for name in _differing(now.tools, last.tools):
        yield f"{name} went from {last.tools.get(name, 'none')} to {now.tools.get(name, 'none')}"
    for name in _differing(now.inputs, last.inputs):
        yield f"input {name} changed"
    if now.cache_format != last.cache_format:
        yield "the cache's format changed"


def _differing(now: Mapping[str, Any], last: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of the values that differ, mappings compared within."""
    for name in sorted(now.keys() | last.keys()):
        one, other = now.get(name), last.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differing(one, other, f"{prefix}{name}.")
        elif one != other or (name in now) != (name in last):
            yield f"{prefix}{name}"
