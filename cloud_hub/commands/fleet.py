"""`edgeops fleet`: devices, rollouts, drift and alerts. Imports click and the stdlib only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click

_WATCH_INTERVAL_S = 1.0
_FINAL = ("completed", "aborted", "failed")


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command here."""
    command = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")(command)
    return click.option(
        "--hub", "url", help="The hub's address.  [default: EDGEOPS_HUB_URL or this machine's]"
    )(command)


@click.group(epilog="Example: edgeops fleet rollout create digits 1.1.0 --canary 2 --approve")
def fleet() -> None:
    """See what runs on the fleet, and move it safely."""


@fleet.command(epilog="Example: edgeops fleet devices --site north")
@click.option("--site", help="Only devices of this site.")
@_common
def devices(site: str | None, url: str | None, as_json: bool) -> None:
    """List devices: what each runs, and what it should run."""
    from cloud_hub.client import HubClient
    from cloud_hub.commands.fleet_tables import devices_table, show

    found: list[dict[str, Any]] = []
    with HubClient.from_environment(url) as client:
        after = None
        while True:
            page = client.get("/api/v1/devices", {"site": site, "after": after})
            found += page["devices"]
            after = page["next"]
            if after is None:
                break
    if as_json:
        click.echo(json.dumps({"devices": found}))
    else:
        show(devices_table(found))


@fleet.command(epilog="Example: edgeops fleet drift")
@_common
def drift(url: str | None, as_json: bool) -> None:
    """Show how far each feature lies from the training data, by model and site."""
    from cloud_hub.client import HubClient
    from cloud_hub.commands.fleet_tables import drift_table, show

    with HubClient.from_environment(url) as client:
        answer = client.get("/api/v1/drift")
    if as_json:
        click.echo(json.dumps(answer))
    elif not answer["scores"]:
        click.echo("Nothing was judged yet: that takes windows of a bundle with a reference profile.")
    else:
        show(drift_table(answer))


@fleet.command(epilog="Example: edgeops fleet alerts --all")
@click.option("--all", "resolved", is_flag=True, help="Resolved ones too.")
@_common
def alerts(resolved: bool, url: str | None, as_json: bool) -> None:
    """Show the open alerts."""
    from cloud_hub.client import HubClient
    from cloud_hub.commands.fleet_tables import alerts_table, show

    with HubClient.from_environment(url) as client:
        answer = client.get("/api/v1/alerts", {"resolved": "true" if resolved else None})
    if as_json:
        click.echo(json.dumps(answer))
    elif not answer["alerts"]:
        click.echo("No alerts.")
    else:
        show(alerts_table(answer["alerts"]))


@fleet.group(epilog="Example: edgeops fleet rollout status --watch r-0123456789")
def rollout() -> None:
    """Move a cohort to another bundle: canaries first, judged, then all."""


@rollout.command(epilog="Example: edgeops fleet rollout create digits 1.1.0 --cohort site=north --canary 2")
@click.argument("model")
@click.argument("version")
@click.option("--cohort", "labels", multiple=True, metavar="KEY=VALUE", help="Devices with this label.")
@click.option("--device", "names", multiple=True, help="This device; may be repeated.  [default: all]")
@click.option(
    "--strategy",
    type=click.Choice(["canary", "all-at-once"]),
    default="canary",
    show_default=True,
    help="Canaries first, judged against the others; or all devices unjudged, as for a first install.",
)
@click.option("--canary", "canary_count", type=click.IntRange(1), help="How many canaries.  [default: 10%]")
@click.option("--margin", type=float, help="How much worse would still do, as a share.  [default: 0.02]")
@click.option("--alpha", type=float, help="Accepted chance of a false abort.  [default: 0.05]")
@click.option("--no-labels", is_flag=True, help="Judge by errors alone, not by labelled accuracy.")
@click.option("--min-requests", type=click.IntRange(1), help="That each canary must answer.  [default: 50]")
@click.option("--max-failures", type=click.IntRange(0), help="Devices that may fail.  [default: 0]")
@click.option("--deadline", "deadline_s", type=float, help="Seconds for each stage.  [default: 3600]")
@click.option("--without-traffic", is_flag=True, help="Count a device once it is loaded, served or not.")
@click.option("--alias", type=click.Choice(["prod", "staging", "canary", "none"]), help="To point at it.")
@click.option("--approve", "approve_too", is_flag=True, help="Approve it at once.")
@_common
def create(
    model: str,
    version: str,
    labels: tuple[str, ...],
    names: tuple[str, ...],
    strategy: str,
    canary_count: int | None,
    margin: float | None,
    alpha: float | None,
    no_labels: bool,
    min_requests: int | None,
    max_failures: int | None,
    deadline_s: float | None,
    without_traffic: bool,
    alias: str | None,
    approve_too: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Write down a rollout of MODEL VERSION. Nothing moves before it is approved."""
    criteria: dict[str, Any] = {"alpha": alpha, "error_margin": margin, "min_requests": min_requests}
    criteria |= {"judge_labels": False} if no_labels else {"accuracy_margin": margin}
    body = {
        "model": model,
        "version": version,
        "cohort": {"labels": dict(_label(text) for text in labels), "devices": list(names)},
        "strategy": strategy,
        "canary_count": canary_count,
        "criteria": _given(criteria),
        "require_served": False if without_traffic else None,
        "max_failures": max_failures,
        "canary_deadline_s": deadline_s,
        "rollout_deadline_s": deadline_s,
        "alias": alias,
    }
    from cloud_hub.client import HubClient
    from cloud_hub.commands.fleet_tables import show, status_view

    with HubClient.from_environment(url) as client:
        answer = client.post("/api/v1/rollouts", _given(body))
        if approve_too:
            answer = client.post(f"/api/v1/rollouts/{answer['id']}/approve")
    if as_json:
        click.echo(json.dumps(answer))
        return
    show(status_view(answer))
    if not approve_too:
        click.echo(f"Approve it with: edgeops fleet rollout approve {answer['id']}")


@rollout.command(epilog="Example: edgeops fleet rollout status r-0123456789 --watch")
@click.argument("rollout_id", required=False)
@click.option("--watch", is_flag=True, help="Go on until the rollout has ended.")
@_common
def status(rollout_id: str | None, watch: bool, url: str | None, as_json: bool) -> None:
    """Show one rollout and explain its verdict; without ROLLOUT_ID, list the newest."""
    from cloud_hub.client import HubClient
    from cloud_hub.commands.fleet_tables import rollouts_table, show, status_view

    if watch and rollout_id is None:
        raise click.UsageError("--watch needs the id of a rollout.")
    with HubClient.from_environment(url) as client:
        if rollout_id is None:
            answer = client.get("/api/v1/rollouts")
            if as_json:
                click.echo(json.dumps(answer))
            else:
                show(rollouts_table(answer["rollouts"]))
        elif watch:
            _watch(lambda: client.get(f"/api/v1/rollouts/{rollout_id}"), as_json)
        else:
            answer = client.get(f"/api/v1/rollouts/{rollout_id}")
            if as_json:
                click.echo(json.dumps(answer))
            else:
                show(status_view(answer))


@rollout.command(epilog="Example: edgeops fleet rollout approve r-0123456789")
@click.argument("rollout_id")
@_common
def approve(rollout_id: str, url: str | None, as_json: bool) -> None:
    """Let a draft go."""
    _verb(rollout_id, "approve", None, url, as_json)


@rollout.command(epilog="Example: edgeops fleet rollout promote r-0123456789")
@click.argument("rollout_id")
@_common
def promote(rollout_id: str, url: str | None, as_json: bool) -> None:
    """Promote a canary yourself, whatever its evidence."""
    _verb(rollout_id, "promote", None, url, as_json)


@rollout.command(epilog="Example: edgeops fleet rollout pause r-0123456789 --reason 'stocktaking'")
@click.argument("rollout_id")
@click.option("--reason", default="", help="Shown beside the rollout and in the audit log.")
@_common
def pause(rollout_id: str, reason: str, url: str | None, as_json: bool) -> None:
    """Hold a rollout: nothing more is assigned."""
    _verb(rollout_id, "pause", {"reason": reason}, url, as_json)


@rollout.command(epilog="Example: edgeops fleet rollout resume r-0123456789")
@click.argument("rollout_id")
@_common
def resume(rollout_id: str, url: str | None, as_json: bool) -> None:
    """Let a held rollout go on, with a new deadline."""
    _verb(rollout_id, "resume", None, url, as_json)


@rollout.command(epilog="Example: edgeops fleet rollout abort r-0123456789 --reason 'wrong version'")
@click.argument("rollout_id")
@click.option("--reason", default="", help="Shown beside the rollout and in the audit log.")
@_common
def abort(rollout_id: str, reason: str, url: str | None, as_json: bool) -> None:
    """End a rollout: the devices that it moved return to what they ran."""
    _verb(rollout_id, "abort", {"reason": reason}, url, as_json)


def _verb(rollout_id: str, verb: str, body: dict[str, str] | None, url: str | None, as_json: bool) -> None:
    from cloud_hub.client import HubClient

    with HubClient.from_environment(url) as client:
        answer = client.post(f"/api/v1/rollouts/{rollout_id}/{verb}", body)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{answer['id']} is {answer['phase']}. {answer['reason']}")


def _watch(read: Callable[[], dict[str, Any]], as_json: bool) -> None:
    """Shows every change until the rollout has ended; as JSON, a line each."""
    from rich.console import Console
    from rich.live import Live

    from cloud_hub.commands.fleet_tables import status_view

    answer = read()
    if as_json:
        shown: dict[str, Any] | None = None
        while True:
            if answer != shown:
                click.echo(json.dumps(answer))
                shown = answer
            if answer["phase"] in _FINAL:
                return
            time.sleep(_WATCH_INTERVAL_S)
            answer = read()
    with Live(status_view(answer), console=Console(), auto_refresh=False) as live:
        while answer["phase"] not in _FINAL:
            time.sleep(_WATCH_INTERVAL_S)
            answer = read()
            live.update(status_view(answer), refresh=True)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _label(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not (found and key and value):
        raise click.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint="--cohort")
    return key, value
