"""Listening TCP sockets, and what is said when a port cannot be had."""

from __future__ import annotations

import errno
import ipaddress
import socket

from edgeops.errors import ConfigError

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A non-blocking socket that listens there. Raises `OSError`; `listen_error` says it plainly."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    # With the protocol given, asyncio knows it for TCP and sets TCP_NODELAY on what it accepts; without, an
    # answer in two writes waits for the peer's delayed acknowledgement (40 ms on Linux).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # With SO_REUSEADDR only listening tells whether another program has the port.
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_error(error: OSError, host: str, port: int, setting: str, env_prefix: str) -> ConfigError:
    """`error` as one sentence and a remedy. `setting` is the one that holds the port, such as `api_port`."""
    variable = f"{env_prefix}{setting.upper()}"
    choose = f"another with {variable}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"Port {port} on {host} is taken already.",
            remedy=f"Stop the program that listens there, or choose {choose}.",
            subject=setting,
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"This user may not listen on port {port}.",
            remedy=f"Choose {choose} (1024 or above).",
            subject=setting,
        )
    return ConfigError(
        f"This machine cannot listen on {host}:{port} ({error.strerror or error}).",
        remedy=f"Check {variable} and {variable.removesuffix('_PORT')}_HOST.",
        subject=setting,
    )
