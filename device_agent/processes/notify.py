"""Telling systemd how it goes (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names.

Without that variable (not started by systemd) nothing is sent.
"""

from __future__ import annotations

import os
import socket


class Notifier:
    """Takes the variables out of the environment, so that no child can speak for the agent."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        period_us = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        self.watchdog_s = int(period_us) / 1e6 if period_us and pid == str(os.getpid()) else None

    def ready(self) -> None:
        """The agent has started."""
        self._send("READY=1")

    def alive(self) -> None:
        """The agent is well; systemd restarts it when this does not come within the watchdog's period."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The agent is about to end."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the zero byte of an abstract socket.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(message.encode())
