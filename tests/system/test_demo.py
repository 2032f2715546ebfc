"""`edgeops demo`: the whole loop, and that its verdicts follow the data."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeops_testkit.system import EDGEOPS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the path of a Unix socket below it may have 103 characters."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


def run_demo(folder: Path, *flags: str) -> tuple[int, list[dict[str, object]]]:
    done = subprocess.run(
        [EDGEOPS, "demo", "--once", "--json", *flags],
        env={**os.environ, "EDGEOPS_HOME": str(folder / "home"), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.stdout, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert "rows" in result, (result, done.stderr[-4000:])
    assert result["holds"] == all(row["holds"] for row in result["rows"])
    return done.returncode, result["rows"]


def test_every_row_holds(folder: Path) -> None:
    status, rows = run_demo(folder)
    assert [row for row in rows if not row["holds"]] == []
    assert len(rows) >= 8
    assert status == 0
    assert list(folder.glob("edgeops-demo-*")) == [], "it cleans up after itself"


def test_with_the_candidates_swapped_just_their_rows_flip(folder: Path) -> None:
    status, rows = run_demo(folder, "--swap-candidates")
    flipped = {
        str(row["step"]).removesuffix(" (better)").removesuffix(" (worse)")
        for row in rows
        if not row["holds"]
    }
    assert flipped == {"roll out 1.2.0", "roll out 1.1.0"}
    assert status == 1
    bad = next(row for row in rows if str(row["step"]).startswith("roll out 1.2.0"))
    good = next(row for row in rows if str(row["step"]).startswith("roll out 1.1.0"))
    assert str(bad["seen"]).startswith("abort:")
    assert str(good["seen"]).startswith("promote:")
