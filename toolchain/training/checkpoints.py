"""Checkpoints of a training run: what it takes to go on where a run was killed, and end with the same bytes.

A checkpoint is one safetensors file, written in one step and named after its own SHA-256: what a broken
disk or an unfinished write left does not bear its name's digest, and counts for nothing. What is not a
tensor stands as JSON in the file's metadata. Random numbers need not be kept: the loop draws them from the
seed and the step's number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from edgeops.canonical import sha256_bytes, sha256_file
from edgeops.durable import write_atomic

EVERY_S = 20.0
_PREFIX, _SUFFIX = "checkpoint-", ".safetensors"
_STATE = "state"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and a JSON-compatible state with at least the number of steps done, `step`."""

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints in one folder, of one run. At most one is kept, two while one replaces another."""

    def __init__(
        self, folder: Path, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`every_s`: how much time passes between two checkpoints. It decides how much work a kill costs,
        and nothing else."""
        self._folder = folder
        self._every_s = every_s
        self._clock = clock
        self._saved_at = clock()

    def due(self) -> bool:
        """Whether it is time for one."""
        return self._clock() - self._saved_at >= self._every_s

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes the one before. Raises `ConfigError` when the disk is full."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
        data = save(tensors, metadata={_STATE: json.dumps(checkpoint.state)})
        path = self._folder / f"{_PREFIX}{sha256_bytes(data)}{_SUFFIX}"
        write_atomic(path, data)
        for other in self._files():
            if other != path:
                other.unlink()
        self._saved_at = self._clock()

    def latest(self) -> Checkpoint | None:
        """The sound checkpoint with the most steps done, or None."""
        found = [_read(path) for path in self._files() if sha256_file(path) == _digest_in(path)]
        return max(found, key=lambda checkpoint: int(checkpoint.state["step"]), default=None)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_PREFIX}*{_SUFFIX}"))


def _digest_in(path: Path) -> str:
    return path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()[_STATE])
        return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, state)  # noqa: SIM118
