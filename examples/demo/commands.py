"""The `edgeops demo` command."""

from pathlib import Path

import click


@click.command(epilog="Example: edgeops demo --once --json")
@click.option("--once", is_flag=True, help="End by itself; exit status 0 only if every row holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON (implies --once).")
@click.option(
    "--swap-candidates",
    is_flag=True,
    help="Roll out the bad version where the good one is expected and vice versa: the rows must flip.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Use this folder for state and logs and keep it (default: a temporary one).",
)
def demo(once: bool, as_json: bool, swap_candidates: bool, keep: Path | None) -> None:
    """Show the whole loop on this machine: build, deploy, roll out, roll back, drift, offline, fallback.

    Builds three versions of a model, starts a hub and six device agents, sends them held-out digits, and
    prints a table of what it saw happen. Then the dashboard stays up until Ctrl-C.
    """
    import asyncio

    from examples.demo.story import run

    folder = keep.absolute() if keep else None
    status = asyncio.run(run(once=once or as_json, as_json=as_json, swapped=swap_candidates, keep=folder))
    raise SystemExit(status)
