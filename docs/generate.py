"""Makes the generated pages again: `python -m docs.generate`. A test fails when one is out of date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent


def pages() -> dict[str, Callable[[], str]]:
    """Each generated page's file name, and what makes its text."""
    from device_agent.core import diagram as update_diagram
    from fleet import diagram as rollout_diagram
    from toolchain.recipe import reference, schema

    return {
        "update-machine.md": update_diagram.page,
        "rollout-machine.md": rollout_diagram.page,
        "recipe.md": reference.page,
        f"schema/{schema.SCHEMA_FILE}": schema.schema_text,
    }


def main() -> None:
    for name, make in pages().items():
        page = FOLDER / name
        page.parent.mkdir(exist_ok=True)
        page.write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
