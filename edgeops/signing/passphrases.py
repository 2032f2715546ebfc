"""What opens a key: a passphrase or a PIN, from a file descriptor, the environment or a prompt. Never from
the command line, where every user of the machine can read it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from edgeops.errors import ConfigError

PASSPHRASE_VARIABLE = "EDGEOPS_KEY_PASSPHRASE"
PIN_VARIABLE = "EDGEOPS_KEY_PIN"
# Processes that run a recipe's code are started without these.
SECRET_VARIABLES = (PASSPHRASE_VARIABLE, PIN_VARIABLE)
_MAX_SECRET_BYTES = 4096

Prompt = Callable[[str], str]


def find_secret(variable: str, *, fd: int | None, prompt: Prompt | None, what: str) -> bytes | None:
    """The secret from the file descriptor `fd` if one is given (see `read_secret`), else from the
    environment, else from `prompt(what)`. None if there is none. An empty variable counts as none."""
    if fd is not None:
        return read_secret(fd)
    value = os.environ.get(variable)
    if value:
        return value.encode()
    if prompt is not None:
        return prompt(what).encode()
    return None


def read_secret(fd: int) -> bytes:
    """The first line that can be read from an open file descriptor, without its end. Closes it.

    Raises `ConfigError` if it cannot be read, or holds nothing, or more than a secret.
    """
    try:
        with os.fdopen(fd, "rb") as file:
            data = file.read(_MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"File descriptor {fd} cannot be read ({error.strerror}).",
            remedy=f"Open it for the command, such as by {fd}< FILE.",
            subject=str(fd),
        ) from error
    secret = data.split(b"\n", 1)[0].rstrip(b"\r")
    if not secret or len(data) > _MAX_SECRET_BYTES:
        what = "holds nothing" if not secret else f"holds more than {_MAX_SECRET_BYTES} bytes"
        raise ConfigError(
            f"File descriptor {fd} {what}.",
            remedy="It has to hold the passphrase or PIN in one line.",
            subject=str(fd),
        )
    return secret


def terminal_prompt() -> Prompt | None:
    """Asks on the terminal, without echo. None if standard input is no terminal: nobody could answer."""
    if not sys.stdin.isatty():
        return None
    import click

    def ask(what: str) -> str:
        answer: str = click.prompt(what, hide_input=True, err=True)
        return answer

    return ask


def without_secrets(environment: dict[str, str]) -> dict[str, str]:
    """The environment without what opens a key."""
    return {name: value for name, value in environment.items() if name not in SECRET_VARIABLES}
