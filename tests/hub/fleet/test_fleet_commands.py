"""`edgeops fleet` against a hub that serves over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cloud_hub.app import create_api_app
from cloud_hub.commands.fleet import fleet
from edgeops.errors import EdgeopsError, IllegalTransitionError
from edgeops_testkit.http_server import serving
from edgeops_testkit.hub_fleet import FleetHub

DEVICES = [f"d{number}" for number in range(6)]


class Cli:
    """The command line, pointed at the hub."""

    def __init__(self, url: str, token: str) -> None:
        self._environment = {"EDGEOPS_HUB_URL": url, "EDGEOPS_HUB_TOKEN": token, "COLUMNS": "200"}

    def run(self, *arguments: str, fails: type[Exception] | None = None) -> Result:
        result = CliRunner(env=self._environment).invoke(fleet, arguments)
        if fails is None:
            assert result.exit_code == 0, result.output + repr(result.exception)
        else:
            assert isinstance(result.exception, fails) or result.exit_code == 2, repr(result.exception)
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def cli(hub: FleetHub) -> Iterator[Cli]:
    with serving(create_api_app(hub.services, dashboard=False)) as port:
        yield Cli(f"http://127.0.0.1:{port}", hub.services.operator_token)


@pytest.mark.slow
def test_a_rollout_by_the_command_line(hub: FleetHub, cli: Cli) -> None:
    first = cli.json("rollout", "create", "digits", "1.0.0", "--strategy", "all-at-once", "--approve")
    assert first["phase"] == "approved"
    hub.tick()
    for name in DEVICES:
        hub.report(name, hub.wanted(name), requests=5)
    hub.tick()
    watched = cli.run("rollout", "status", first["id"], "--watch", "--json").stdout.splitlines()
    assert json.loads(watched[-1])["phase"] == "completed"
    assert "completed" in cli.run("rollout", "status", first["id"], "--watch").stdout

    created = cli.run(
        "rollout", "create", "digits", "1.1.0", "--cohort", "site=north", "--canary", "1",
        "--margin", "0.03", "--no-labels", "--min-requests", "7", "--deadline", "60",
    )  # fmt: skip
    second = created.stdout.split()[-1]
    assert created.stdout.splitlines()[-1] == f"Approve it with: edgeops fleet rollout approve {second}"
    spec = cli.json("rollout", "status", second)["spec"]
    assert spec["cohort"]["labels"] == {"site": "north"}
    assert spec["criteria"] == {
        "alpha": 0.05,
        "alpha_promote": 0.05,
        "error_margin": 0.03,
        "accuracy_margin": None,
        "min_requests": 7,
    }
    assert (spec["canary_deadline_s"], spec["rollout_deadline_s"]) == (60, 60)
    assert cli.json("rollout", "approve", second)["phase"] == "approved"
    hub.tick()
    assert (
        "is paused. Paused by operator: lunch."
        in cli.run("rollout", "pause", second, "--reason", "lunch").stdout
    )
    assert cli.json("rollout", "resume", second)["phase"] == "canary"
    assert cli.json("rollout", "promote", second)["phase"] == "rolling_out"
    assert cli.json("rollout", "abort", second)["phase"] == "rolling_back"
    assert [each["id"] for each in cli.json("rollout", "status")["rollouts"]] == [second, first["id"]]
    assert second in cli.run("rollout", "status").stdout
    cli.run("rollout", "resume", second, fails=IllegalTransitionError)


@pytest.mark.slow
def test_devices_drift_and_alerts(hub: FleetHub, cli: Cli) -> None:
    assert [each["name"] for each in cli.json("devices")["devices"]] == DEVICES
    assert [each["name"] for each in cli.json("devices", "--site", "south")["devices"]] == ["d1", "d4"]
    assert "d5" in cli.run("devices").stdout
    assert cli.json("drift") == {"at_ms": None, "scores": []}
    assert "Nothing was judged yet" in cli.run("drift").stdout
    assert cli.run("alerts").stdout == "No alerts.\n"
    hub.connect("d2", online=False)
    hub.look(200)
    assert [each["device"] for each in cli.json("alerts")["alerts"]] == ["d2"]
    assert "The device d2 at east is offline." in cli.run("alerts", "--all").stdout


@pytest.mark.slow
def test_wrong_arguments_are_refused_with_a_sentence(cli: Cli) -> None:
    cli.run("rollout", "create", "digits", "1.0.0", "--cohort", "north", fails=click.UsageError)
    cli.run("rollout", "status", "--watch", fails=click.UsageError)
    refused = cli.run("rollout", "create", "digits", "9.9.9", fails=EdgeopsError)
    assert "There is no bundle digits 9.9.9." in str(refused.exception)


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


def test_every_command_has_an_example_and_data_comes_as_json() -> None:
    for command in commands(fleet):
        assert (command.epilog or "").startswith("Example: edgeops fleet "), command.name
        if not isinstance(command, click.Group):
            assert "as_json" in {parameter.name for parameter in command.params}, command.name
