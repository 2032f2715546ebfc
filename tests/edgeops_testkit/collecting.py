"""A pytest plugin: without the slow tests, a module of nothing else is not even imported.

What such a module imports in turn (torch, transformers, a browser's driver) would take longer than many fast
tests do, in each process that runs tests.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# What `-m` says then, and what a module says at its top whose tests are all slow.
LEAVES_SLOW_OUT = re.compile(r"not slow( and not \w+)*")
WHOLLY_SLOW = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves a wholly slow module out, unless the command line names it."""
    if collection_path.suffix != ".py" or not LEAVES_SLOW_OUT.fullmatch(config.option.markexpr):
        return None
    if collection_path in {Path(argument.partition("::")[0]).absolute() for argument in config.args}:
        return None
    return True if WHOLLY_SLOW.search(collection_path.read_text(encoding="utf-8")) else None
