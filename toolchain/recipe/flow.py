"""Values as YAML takes them on one line."""

from __future__ import annotations

import json
import re
from typing import Any

# Words that need no quotation marks: no number, date or truth value, and nothing that YAML reads otherwise.
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./ -]*[A-Za-z0-9_./]|[A-Za-z_]")
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", re.ASCII)
_OTHER_MEANING = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"}


def one_line(value: Any) -> str:
    """The value in flow style: `{name: image, shape: [1, 8, 8]}`. YAML 1.1 reads the same value from it,
    dates excepted, which are given as text and read as dates."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{one_line(key)}: {one_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(one_line, value)) + "]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) or _VERSION.fullmatch(value) or is_date(value) or is_factory(value)
        return value if plain and value.lower() not in _OTHER_MEANING else _quoted(value)
    if isinstance(value, float):
        # YAML 1.1 wants a point before an exponent.
        text = repr(value)
        return re.sub(r"^(-?\d+)e", r"\1.0e", text)
    return json.dumps(value)


def is_date(value: str) -> bool:
    """Whether it looks like a date."""
    return re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None


def is_factory(value: str) -> bool:
    """Whether it is a `module:function`."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value) is not None


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


def _quoted(value: str) -> str:
    # As JSON quotes it, and what cannot be seen by its number, which YAML writes otherwise beyond 16 bits.
    seen = (_ESCAPES.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in value)
    return f'"{"".join(seen)}"'
