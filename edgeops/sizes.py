"""Sizes as people read them in a terminal."""

from __future__ import annotations


def size_words(size_bytes: int) -> str:
    """A size with one decimal in the largest binary unit that fits: 1024 bytes are a KiB."""
    size, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
