"""Bounds for a process that reads a file from outside."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from edgeops.errors import ArtifactError
from edgeops.processes import limit_memory

# What Python, torch and an engine take for themselves, and what a small model may ask for beside it.
BASE_BYTES = 3 << 30
# Copies of a model that may stand in memory at once: the file's bytes, the engine's, and a converter's.
COPIES = 6


@contextmanager
def bounded_memory(size_bytes: int, name: str) -> Iterator[None]:
    """Limits the memory of this process to what a model of `size_bytes` can need, for good: only for steps
    that run in a process of their own. Running out of it becomes an `ArtifactError` (subject: `name`)."""
    limit = BASE_BYTES + COPIES * size_bytes
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or hard > limit:
        limit_memory(limit)
    try:
        yield
    except MemoryError as error:
        raise _too_hungry(name, limit) from error
    except RuntimeError as error:
        # torch and ONNX Runtime have no class of their own for it.
        if "alloc" not in str(error).lower():
            raise
        raise _too_hungry(name, limit) from error


def _too_hungry(name: str, limit: int) -> ArtifactError:
    return ArtifactError(
        f"{name} asks for more than the {limit} bytes of memory that a model of its size may use.",
        remedy="Look at the model: a size in it is likely wrong.",
        subject=name,
    )
