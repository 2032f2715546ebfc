"""`edgeops agent`: the device's commands. Imports click and the standard library only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON line.")
_state_option = click.option(
    "--state-dir", metavar="DIR", type=_FOLDER, help="The agent's state folder.  [default: EDGEOPS_HOME's]"
)


@click.group(epilog="Example: edgeops agent run")
def agent() -> None:
    """Enrol this device, and run its agent."""


@agent.command(
    epilog="Example: edgeops hub token --json | jq -r .token | edgeops agent enroll --name pump-7 \
--trust builder.pub --token -"
)
@click.option(
    "--token", required=True, envvar="EDGEOPS_ENROLL_TOKEN", metavar="TOKEN|-",
    help="What edgeops hub token printed; - reads it from standard input, where no other user can see it.",
)  # fmt: skip
@click.option("--name", required=True, help="This device's name; no other device of the hub may have it.")
@click.option(
    "--trust", "builders", required=True, multiple=True, metavar="FILE.pub", type=_FILE,
    help="Public key of a builder whose bundles may run here. May be given several times.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the identity that this device has already.")
@_state_option
@_json_option
def enroll(
    token: str, name: str, builders: tuple[Path, ...], force: bool, state_dir: Path | None, as_json: bool
) -> None:
    """Make this device one of a hub's, once.

    The token names the hub and proves which one it is; the hub gives the device its certificate and its
    labels. Which builders' bundles may run here is said on this machine and by nobody else.
    """
    from device_agent.layout import Layout
    from device_agent.uplink import enroll as enrolment

    settings = _settings(state_dir=state_dir)
    text = sys.stdin.readline() if token == "-" else token
    done = enrolment.enroll(
        Layout(settings.state_dir.absolute()),
        token_text=text,
        name=name,
        builders=builders,
        force=force,
        timeout_s=settings.connect_timeout_s,
    )
    if as_json:
        told = {"device": done.device, "hub_url": done.hub_url, "builders": list(done.builders)}
        click.echo(json.dumps({**told, "forgot": done.forgot}))
        return
    click.echo(f"Device    {done.device}")
    click.echo(f"Hub       {done.hub_url}")
    for key_id in done.builders:
        click.echo(f"Trusts    {key_id}")
    if done.forgot:
        click.echo("What belonged to the earlier identity was deleted.")
    click.echo("Start the agent with: edgeops agent run")


@agent.command(epilog="Example: edgeops agent run --listen-port 8500")
@click.option("--listen-host", help="Address of the local API.")
@click.option("--listen-port", type=click.IntRange(1, 65535), help="Port of the local API.")
@click.option("--admin-host", help="Address of status and metrics.")
@click.option("--admin-port", type=click.IntRange(1, 65535), help="Port of status and metrics.")
@click.option("--window-interval-s", type=float, metavar="S", help="Length of a telemetry window.")
@click.option("--engine-threads", type=click.IntRange(1, 64), help="Threads of the inference engine.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least severe messages that are logged.",
)
@_state_option
def run(log_level: str, **flags: Any) -> None:
    """Run the agent until Ctrl-C or SIGTERM.

    Settings come from these flags, EDGEOPS_AGENT_… variables and agent.toml, in this order.
    """
    import asyncio
    import logging

    from device_agent.agent import run_agent

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(run_agent(_settings(**flags)))


@agent.command(epilog="Example: edgeops agent status --json | jq .running")
@click.option("--admin-host", help="Address of the agent's status.")
@click.option("--admin-port", type=click.IntRange(1, 65535), help="Port of the agent's status.")
@_json_option
def status(as_json: bool, admin_host: str | None, admin_port: int | None) -> None:
    """Say what the agent on this machine runs. Exit status 5 if it does not answer."""
    settings = _settings(admin_host=admin_host, admin_port=admin_port)
    seen = _ask(settings.admin_host, settings.admin_port)
    click.echo(json.dumps(seen) if as_json else _told(seen))


def _settings(**flags: Any) -> Any:
    from device_agent.settings import AgentSettings
    from edgeops.settings import load

    return load(AgentSettings, **flags)


def _ask(host: str, port: int) -> dict[str, Any]:
    import http.client

    from edgeops.errors import TransportError

    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        if response.status != 200:
            raise TransportError(f"The agent at {host}:{port} answered with status {response.status}.")
        seen: dict[str, Any] = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransportError(
            f"No agent answers at {host}:{port}.",
            remedy="Start it with edgeops agent run, or name its address by --admin-port.",
            subject=f"{host}:{port}",
        ) from error
    finally:
        connection.close()
    return seen


def _told(seen: dict[str, Any]) -> str:
    running, update, link = seen["running"], seen["update"], seen["link"]
    what = "nothing"
    if running is not None:
        bundle = running["bundle"]
        what = f"{bundle['name']} {bundle['version']} ({running['variant']}), {running['requests']} requests"
    lines = [
        f"Device    {seen['device']}",
        f"Runs      {what}",
        f"Serves    {seen['listen']} ({seen['serving']['health']})",
        f"Update    {update['phase']}, generation {update['generation']}",
        f"Hub       {'connected' if link['connected'] else 'not connected'} ({seen['hub_url']})",
        f"Spool     {seen['spool']['pending']} messages wait for the hub",
    ]
    error = update["error"] or (None if link["connected"] else link["last_error"])
    said = [] if error is None else [f"{error['message']} {error['remedy'] or ''}".strip()]
    if seen["telemetry"]["last_error"]:
        said.append(seen["telemetry"]["last_error"])
    lines += [f"Error     {text}" for text in dict.fromkeys(said)]
    return "\n".join(lines)
