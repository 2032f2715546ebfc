"""The generated page about the rollout machine."""

from __future__ import annotations

from pathlib import Path

from fleet.diagram import page
from fleet.rollout import TABLE
from fleet.rollout_types import FINAL, HOLDING, PHASES

PAGE = Path(__file__).parents[2] / "docs" / "rollout-machine.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"


def test_every_phase_is_reached_and_only_final_ones_are_left_by_nothing() -> None:
    reached = {target for row in TABLE.values() for target in row.to} | {"draft"}
    assert reached == set(PHASES)
    assert {phase for phase in PHASES if not [key for key in TABLE if key[0] == phase]} == FINAL
    assert {"draft"} | HOLDING | FINAL == set(PHASES)
