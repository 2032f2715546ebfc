"""`edgeops publish`: a bundle to the hub. Imports click and the stdlib only."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click


@click.command(epilog="Example: edgeops publish out/digits-1.0.0")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--hub", "url", help="The hub's address.  [default: EDGEOPS_HUB_URL or this machine's]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def publish(bundle: Path, url: str | None, as_json: bool) -> None:
    """Upload the files of BUNDLE that the hub lacks, and publish it there.

    The hub verifies the signature and every file, and accepts builders that it trusts only.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from cloud_hub.client import HubClient

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    # On standard error, and only on a terminal: what is piped is the result.
    console = Console(stderr=True)
    with (
        HubClient.from_environment(url) as client,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars,
    ):
        tasks: dict[str, object] = {}

        def progress(path: str, sent: int, size: int) -> None:
            if path not in tasks:
                tasks[path] = bars.add_task(path, total=size)
            bars.update(tasks[path], completed=sent)  # type: ignore[arg-type]

        done = client.publish(bundle, progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done)))
    elif done.new:
        click.echo(
            f"Published {done.name} {done.version} ({done.digest[:12]}):"
            f" {done.uploaded_files} files, {done.uploaded_bytes:,} bytes sent."
        )
    else:
        click.echo(f"{done.name} {done.version} ({done.digest[:12]}) was published before.")
