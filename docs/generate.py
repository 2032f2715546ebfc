"""Makes the generated pages again: `python -m docs.generate`. A test fails when one is out of date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent


def pages() -> dict[str, Callable[[], str]]:
    """Each generated page's file name, and what makes its text."""
    from device_agent.core import diagram as update_diagram
    from fleet import diagram as rollout_diagram

    return {
        "update-machine.md": update_diagram.page,
        "rollout-machine.md": rollout_diagram.page,
    }


def main() -> None:
    for name, make in pages().items():
        (FOLDER / name).write_text(make())


if __name__ == "__main__":
    main()
