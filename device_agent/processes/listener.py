"""The local API's listening socket. The control process owns it; serving processes inherit it and accept.

While nothing is to serve it does not listen, so that a client is refused at once instead of waiting in a
queue that nobody empties; the port stays bound meanwhile.
"""

from __future__ import annotations

import errno
import socket
import time

from edgeops.listening import BACKLOG, listen, listen_error

ENV_PREFIX = "EDGEOPS_AGENT_"
_POLL_S = 0.05


class Listener:
    """A bound TCP socket. `wait_s` is how long to wait for the port while a serving process of an earlier
    agent still holds it. Raises `ConfigError` when it stays taken, or the address is no good."""

    def __init__(self, host: str, port: int, *, wait_s: float = 0.0) -> None:
        self._address = host, port
        deadline = time.monotonic() + wait_s
        while True:
            try:
                self.socket = listen(host, port)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    raise listen_error(error, host, port, "listen_port", ENV_PREFIX) from error
            time.sleep(_POLL_S)
        self.shut()

    def open(self) -> None:
        """Connections queue from now on. Safe to call again. Raises `ConfigError` when another program has
        taken the port meanwhile."""
        try:
            self.socket.listen(BACKLOG)
        except OSError as error:
            raise listen_error(error, *self._address, "listen_port", ENV_PREFIX) from error

    def shut(self) -> None:
        """Connections are refused from now on; those in the queue are reset. Safe to call again."""
        # On Linux this takes a listening socket back to the bound state. On one that does not listen it would
        # leave a mark that every connection accepted later inherits: it would read its end at once.
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self.socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Gives the port back."""
        self.socket.close()


def listening_socket(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens there. Raises `ConfigError` naming the port and the setting it came from."""
    try:
        return listen(host, port)
    except OSError as error:
        raise listen_error(error, host, port, setting, ENV_PREFIX) from error
