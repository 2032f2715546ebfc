"""What a step is given, and how it finds the recipe's own code."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeops.canonical import canonical_json
from edgeops.errors import ConfigError


@dataclass(frozen=True)
class StepContext:
    """`config` is the step's part of the plan. `inputs` are the output folders of earlier steps, and files or
    folders from outside the build, by role: read only. What the step writes goes below `out`. `records`
    tells how the earlier steps were made (only if the step attests). `progress(share, note)` tells how far
    it is, `share` from 0 to 1.

    `checkpoints` is a folder for what lets a long step go on where it was killed: it holds what an earlier,
    unfinished run of this very step (same inputs, config, code and tools) left, and is gone once the step
    is done. A file there appears whole only if the step writes it so (`edgeops.durable.write_atomic`), and
    the output must not depend on whether there was one. `threads` is how many the libraries that it calls
    compute with, and `processors`, never fewer, how many it may itself keep busy: all that the build may use
    if nothing else runs meanwhile. The output must depend on neither."""

    config: Mapping[str, Any]
    inputs: Mapping[str, Path]
    out: Path
    records: Mapping[str, Mapping[str, Any]]
    progress: Callable[[float, str], None]
    checkpoints: Path
    threads: int = 1
    processors: int = 1

    def read_json(self, role: str, name: str) -> Any:
        """A JSON file that an earlier step wrote."""
        return json.loads((self.inputs[role] / name).read_bytes())

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes canonical JSON, so that equal values are equal bytes."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical_json(value))


def load_factory(reference: str) -> Callable[..., Any]:
    """The function that `module:function` names. Raises `ConfigError` if there is none."""
    module_name, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"There is no {reference!r} ({error}).",
            remedy="Correct the factory in the recipe, or put its module on PYTHONPATH.",
            subject=reference,
        ) from error
    if not callable(function):
        raise ConfigError(f"{reference!r} is not a function.", subject=reference)
    return function  # type: ignore[no-any-return]
