"""What a quantizer tells of its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Quantized:
    """What a quantizer did: `arguments`, JSON-compatible, are all that is needed to do it again; `before`
    and `after` count what it works on (operators by type, or tensors by type)."""

    arguments: dict[str, Any]
    before: dict[str, int]
    after: dict[str, int]
