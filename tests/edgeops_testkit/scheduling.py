"""Which tests share a worker of pytest-xdist: those of a file, so that its fixtures are made once; and all
that start whole systems, machines and browsers, so that these run one after another.

pytest-xdist's own `--dist loadgroup` writes a test's group into its name, and since pytest 9 nobody reads it
there: every test was a group by itself.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

ONE_AT_A_TIME = ("tests/system", "tests/dashboard", "hw_tests")


class ByFile(LoadScopeScheduling):
    """The most numerous groups are handed out first, so that a long one does not begin at the end."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """The group of a test: its file, or `system`."""
    file = nodeid.partition("::")[0]
    return "system" if any(PurePosixPath(file).is_relative_to(folder) for folder in ONE_AT_A_TIME) else file
