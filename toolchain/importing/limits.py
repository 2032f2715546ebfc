"""Bounds for a process that reads a file from outside."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from edgeops.errors import ArtifactError

# What Python, torch and an engine take for themselves, and what a small model may ask for beside it.
BASE_BYTES = 3 << 30
# Copies of a model that may stand in memory at once: the file's bytes, the engine's, and a converter's.
COPIES = 6


@contextmanager
def bounded_memory(size_bytes: int, name: str) -> Iterator[None]:
    """Limits the memory of this process meanwhile to what a model of `size_bytes` can need. Running out of it
    becomes an `ArtifactError` (subject: `name`). See setrlimit(2), RLIMIT_DATA."""
    limit = BASE_BYTES + COPIES * size_bytes
    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY or soft > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    except MemoryError as error:
        raise _too_hungry(name, limit) from error
    except RuntimeError as error:
        # torch and ONNX Runtime have no class of their own for it.
        if "alloc" not in str(error).lower():
            raise
        raise _too_hungry(name, limit) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _too_hungry(name: str, limit: int) -> ArtifactError:
    return ArtifactError(
        f"{name} asks for more than the {limit} bytes of memory that a model of its size may use.",
        remedy="Look at the model: a size in it is likely wrong.",
        subject=name,
    )
