"""`edgeops hub`: running the hub, and what its operator needs first. Imports click and the stdlib only."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click

_ROLES = ("api", "control", "gateway", "ingest")


@click.group(epilog="Example: edgeops hub serve")
def hub() -> None:
    """Run the hub and let devices in."""


@hub.command(epilog="Example: edgeops hub serve --public-host hub.example.org")
@click.option("--role", type=click.Choice(_ROLES), help="Run this role alone; the hub must be prepared.")
@click.option("--public-host", help="Name or address by which devices reach this hub.")
@click.option("--json", "as_json", is_flag=True, help="Say where everything is as one JSON line.")
def serve(role: str | None, public_host: str | None, as_json: bool) -> None:
    """Run the hub until Ctrl-C: its broker, and one process for each role.

    Settings come from EDGEOPS_HUB_… variables and hub.toml.
    """
    from cloud_hub.processes.role import run_role, run_until_signal, set_up_logging
    from cloud_hub.processes.supervisor import Supervisor, addresses
    from cloud_hub.settings import HubSettings
    from edgeops.settings import load

    settings = load(HubSettings, public_host=public_host)
    set_up_logging()
    if role is not None:
        log = logging.getLogger(__name__)
        run_role(settings, role, lambda: log.info("The role %s is ready.", role))
        return

    def ready() -> None:
        places = addresses(settings)
        if as_json:
            click.echo(json.dumps({"event": "ready", **places}))
            return
        click.echo(
            f"edgeops hub ready: operators {places['api_url']}, devices {places['device_url']},"
            f" fallback {places['gateway_url']}, MQTT {places['mqtt_host']}:{places['mqtt_port']}"
        )

    run_until_signal(Supervisor(settings).run(ready))


@hub.command(epilog="Example: edgeops hub token --site north --uses 10 --ttl 3600")
@click.option("--site", help="The site of the devices that enrol with it.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Another label; may be repeated.")
@click.option(
    "--uses", type=click.IntRange(1, 100_000), default=1, show_default=True, help="How many devices."
)
@click.option("--ttl", "ttl_s", type=click.IntRange(10), help="Seconds until it ends.")
@click.option("--reenroll", is_flag=True, help="It may also take a name that is taken.")
@click.option("--hub", "url", help="The hub's address.  [default: EDGEOPS_HUB_URL or this machine's]")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def token(
    site: str | None,
    labels: tuple[str, ...],
    uses: int,
    ttl_s: int | None,
    reenroll: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Make a token with which devices enrol. It is a secret, and shown this once."""
    from cloud_hub.client import HubClient

    wanted = dict(_label(text) for text in labels)
    if site is not None:
        wanted["site"] = site
    body = {"labels": wanted, "uses": uses, "ttl_s": ttl_s, "reenroll": reenroll}
    with HubClient.from_environment(url) as client:
        answer = client.post("/api/v1/tokens", body)
    click.echo(json.dumps(answer) if as_json else answer["token"])


@hub.command(epilog="Example: edgeops hub login")
@click.option("--hub", "url", help="The hub's address.  [default: EDGEOPS_HUB_URL or this machine's]")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def login(url: str | None, as_json: bool) -> None:
    """Print an address that opens the dashboard once, within ten minutes."""
    from cloud_hub.client import HubClient

    with HubClient.from_environment(url) as client:
        answer = client.post("/api/v1/login-codes")
    click.echo(json.dumps(answer) if as_json else answer["url"])


@hub.command(epilog="Example: edgeops hub revoke pump-7")
@click.argument("device")
@click.option("--hub", "url", help="The hub's address.  [default: EDGEOPS_HUB_URL or this machine's]")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def revoke(device: str, url: str | None, as_json: bool) -> None:
    """End DEVICE's certificates and cut its connections."""
    from urllib.parse import quote

    from cloud_hub.client import HubClient

    with HubClient.from_environment(url) as client:
        answer = client.post(f"/api/v1/devices/{quote(device, safe='')}/revoke")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{device} is revoked." if answer["new"] else f"{device} was revoked before.")


@hub.command(epilog="Example: edgeops hub trust builder.pub")
@click.argument("public_key", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the key's id and place as JSON.")
def trust(public_key: Path, as_json: bool) -> None:
    """Let this machine's hub accept bundles signed by the owner of PUBLIC_KEY, a .pub file."""
    from cloud_hub.settings import HubSettings
    from edgeops.durable import write_atomic
    from edgeops.settings import load
    from edgeops.signing.keys import key_id, load_public_key, public_pem

    key = load_public_key(public_key)
    folder = load(HubSettings).builders_path
    folder.mkdir(parents=True, exist_ok=True)
    # Named by the key, so that no key can take another's place.
    target = folder / f"{key_id(key)}.pub"
    write_atomic(target, public_pem(key))
    click.echo(
        json.dumps({"key_id": key_id(key), "path": str(target)}) if as_json else f"Trusted: {target.name}"
    )


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key or not value:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint="--label")
    return key, value
