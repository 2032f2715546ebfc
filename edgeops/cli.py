"""The `edgeops` command: finds each package's commands through entry points, and says errors plainly.

Nothing is imported that the command at hand does not need: the modules behind the entry points import
click and the standard library only, and their commands import the rest when they run.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint, entry_points

import click

from edgeops import __version__
from edgeops.errors import ConfigError, EdgeopsError

GROUP = "edgeops.commands"


class _Dispatcher(click.Group):
    """A group whose commands are the entry points of `edgeops.commands`."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self._found: dict[str, EntryPoint] | None = None

    def _entries(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {entry.name: entry for entry in entry_points(group=GROUP)}
        return self._found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._entries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries().get(cmd_name)
        if entry is None:
            return None
        command = entry.load()
        if not isinstance(command, click.Command):
            raise ConfigError(f"The entry point {entry.value} is not a click command.")
        return command


@click.command(
    cls=_Dispatcher,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: edgeops build models/digits --out out --key builder.key",
)
@click.version_option(__version__, prog_name="edgeops")
def cli() -> None:
    """Take a trained model to a fleet of devices and keep it right there."""


def main() -> None:
    """Runs the command line; errors become one sentence plus the remedy, and an exit status by kind."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EdgeopsError as error:
        _report(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        _report(_missing_extra(error))
        sys.exit(ConfigError.exit_code)


def _report(error: EdgeopsError) -> None:
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": error.to_dict()}, default=str))
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(str(error), err=True)


def _missing_extra(error: ModuleNotFoundError) -> ConfigError:
    # The three roles have extras of their own, so the usual reason is that one was not installed.
    return ConfigError(
        f"The Python package {error.name!r} is not installed.",
        remedy="Install your role's packages, such as pip install 'edgeops[agent]' (or hub, build).",
        subject=error.name,
    )
