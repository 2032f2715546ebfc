"""The `edgeops` command: finds each package's commands through entry points, and says errors plainly.

Nothing is imported that the command at hand does not need: the modules behind the entry points import
click and the standard library only, and their commands import the rest when they run.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

import click

from edgeops import __version__
from edgeops.errors import ConfigError, EdgeopsError, machine_error

GROUP = "edgeops.commands"
PROGRAM = "edgeops"
# Where click looks for what a shell wants to know (its default name for a program called edgeops).
COMPLETE_VARIABLE = "_EDGEOPS_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


class _Dispatcher(click.Group):
    """A group whose commands are its own and the entry points of `edgeops.commands`."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self._found: dict[str, EntryPoint] | None = None

    def _entries(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {entry.name: entry for entry in entry_points(group=GROUP)}
        return self._found

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._entries().keys() | self.commands.keys())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        entry = self._entries().get(cmd_name)
        if own is not None or entry is None:
            return own
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, error)
        if not isinstance(command, click.Command):
            raise ConfigError(f"The entry point {entry.value} is not a click command.")
        return command


def _unavailable(name: str, error: ModuleNotFoundError) -> click.Command:
    # One role's missing packages must not take the other roles' help away; running it says what to install.
    def refuse() -> NoReturn:
        raise error

    return click.Command(
        name,
        callback=refuse,
        short_help=f"Not available here: {error.name} is not installed.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )


@click.command(
    cls=_Dispatcher,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: edgeops build models/digits --out out --key builder.key",
)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Take a trained model to a fleet of devices and keep it right there.

    `edgeops help COMMAND` explains a command; every one ends its help with an example. State and caches lie
    in the platform's usual folders; EDGEOPS_HOME moves all of them.
    """


@cli.command(name="help", epilog="Example: edgeops help keys new")
@click.argument("command", nargs=-1)
@click.pass_context
def show_help(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Explain a command, or list all of them."""
    context = ctx.find_root()
    for name in command:
        group = context.command
        found = group.get_command(context, name) if isinstance(group, click.Group) else None
        if found is None:
            raise click.UsageError(f"There is no command {' '.join(command)!r}.", context)
        context = click.Context(found, parent=context, info_name=name)
    click.echo(context.get_help())


@cli.command(epilog='Example: eval "$(edgeops completion bash)"  (put it into ~/.bashrc to keep it)')
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes a SHELL complete commands and options by the tab key.

    For fish: edgeops completion fish > ~/.config/fish/completions/edgeops.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"This version of click cannot complete for {shell}.", remedy="Update click.")
    click.echo(kind(cli, {}, PROGRAM, COMPLETE_VARIABLE).source())


def main() -> None:
    """Runs the command line; errors become one sentence plus the remedy, and an exit status by kind."""
    try:
        status = cli.main(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
        # click returns the status of ctx.exit(), or else whatever the command's function returned.
        sys.exit(status if isinstance(status, int) else 0)
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
    except OSError as error:
        # Only where a file is at fault: anything else is a bug, and its traceback says where.
        if error.filename is None:
            raise
        _report(machine_error(error))
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
