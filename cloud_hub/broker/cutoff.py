"""Cutting a device off at the broker, at once.

Four things together leave no gap:
- the revocation list, which the broker reads again upon SIGHUP: no new connection with a revoked
  certificate (the broker resumes no TLS session, so every connection is checked);
- the access list, read again by the same signal: a connection that is open, or was half open when the
  signal came, can neither write nor read;
- the takeover of the device's session, which closes the connection that is open;
- its retained `state` is taken away, and the database has it offline.
"""

from __future__ import annotations

import os
import signal

from sqlalchemy import update

from cloud_hub.broker.files import write_access
from cloud_hub.broker.link import HubLink, take_over
from cloud_hub.broker.process import running_pid
from cloud_hub.settings import HubSettings
from cloud_hub.store.database import open_database, writing
from cloud_hub.store.schema import devices
from edgeops.topics import topic


def cut_off(settings: HubSettings, device: str) -> None:
    """Ends the device's connection and keeps out whom the database and the revocation list keep out.

    Call it after both were written: when a device is revoked, and when another key has taken its name
    over. May be called from any process of the hub, and again. A broker that does not run needs nothing
    more: it reads the same files at its start. Raises `TransportError` when a broker runs that does not
    answer; the device may then still be connected, so call again.
    """
    write_access(settings)
    _mark_offline(settings, device)
    pid = running_pid(settings)
    if pid is None:
        return
    os.kill(pid, signal.SIGHUP)
    # The signal was queued before the connection that is made here, so the broker acts on it first.
    take_over(settings, device)
    link = HubLink(settings, f"hub:cutoff:{os.getpid()}:{device}")
    link.open()
    try:
        link.publish_and_wait([(topic(device, "state"), b"")], retain=True)
    finally:
        link.close()


def _mark_offline(settings: HubSettings, device: str) -> None:
    engine = open_database(settings)
    try:
        with writing(engine) as connection:
            connection.execute(update(devices).where(devices.c.name == device).values(online=False))
    finally:
        engine.dispose()
