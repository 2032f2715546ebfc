"""What the embedded broker reads: its configuration, access lists, certificates and revocation list.

All lie in `<state_dir>/broker/`, which is the broker's working directory; the configuration names them
without a path. Started by root, mosquitto drops to the user `mosquitto`, who could not walk through the
hub's private folders to an absolute path, but needs no path to what lies where it stands.

There are two ways in:
- devices, from anywhere: TLS 1.3 with a certificate of the hub's authority. The certificate's common name
  is user name and client id at once, so a device can neither write under another's name nor take over
  another's session;
- the hub, through a Unix socket in a folder that only the hub and the broker may enter. What it may do
  hangs on that door and on no name, so no device can be named so as to gain it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import select

from cloud_hub.settings import HubSettings
from cloud_hub.store.database import open_database, reading
from cloud_hub.store.schema import devices
from cloud_hub.trust.authority import AuthorityFiles
from edgeops.durable import write_atomic
from edgeops.errors import ConfigError
from edgeops.messages import MAX_MESSAGE_BYTES
from edgeops.topics import DEVICE_READS, DEVICE_WRITES, ROOT

CONFIG = "mosquitto.conf"
# What mosquitto saves of its queues and retained messages, under its own default name.
QUEUE = "mosquitto.db"
SOCKET = "hub.sock"
PID = "mosquitto.pid"
OPENSSL_CONFIG = "openssl.cnf"

BROKER_USER = "mosquitto"

# What the hub has not taken yet waits in the broker, for each client up to the first of both limits. The
# default (1,000 messages) drops what was acknowledged already; what these drop, the devices send again.
MAX_QUEUED_MESSAGES = 200_000
MAX_QUEUED_BYTES = 512 << 20
# Sent and not yet acknowledged, towards any one client. The hub's clients ask for less by MQTT 5's receive
# maximum; this bounds what a device may have under way.
MAX_INFLIGHT_MESSAGES = 2_000
MAX_INFLIGHT_BYTES = 64 << 20
# A larger packet ends its connection. (mosquitto's other limit, `message_size_limit`, answers
# with a PUBACK code that MQTT 5 does not allow there, which paho takes for a protocol error.)
MAX_PACKET_BYTES = MAX_MESSAGE_BYTES + (64 << 10)

# sun_path holds 108 bytes on Linux and 104 on macOS, with the final zero.
_MAX_SOCKET_PATH = 103


def broker_folder(settings: HubSettings) -> Path:
    """The broker's working directory."""
    return settings.state_dir.absolute() / "broker"


def socket_path(settings: HubSettings) -> Path:
    """The hub's own door to the broker. Raises `ConfigError` when its path is too long for a socket."""
    path = broker_folder(settings) / SOCKET
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise ConfigError(
            f"{path} is longer than the {_MAX_SOCKET_PATH} bytes that a Unix socket's path may have.",
            remedy="Set EDGEOPS_HUB_STATE_DIR or EDGEOPS_HOME to a shorter path.",
            subject=str(path),
        )
    return path


def configuration(settings: HubSettings) -> str:
    """The text of mosquitto.conf (see mosquitto.conf(5))."""
    return f"""\
# Written by the hub at every start of its broker; changes made here are lost.
# No option that belongs to a listener may stand before the first one: it would open a listener of its own.
per_listener_settings true
connection_messages false
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice

# A convenience, not a promise: a killed broker loses what came since it last saved. The devices' spools and
# the hub's publisher of desired states make up for it. It stands still while it saves, so not too often.
persistence true
persistence_location ./
autosave_interval 30
autosave_on_changes false
persistent_client_expiration 30d

max_inflight_messages {MAX_INFLIGHT_MESSAGES}
max_inflight_bytes {MAX_INFLIGHT_BYTES}
max_queued_messages {MAX_QUEUED_MESSAGES}
max_queued_bytes {MAX_QUEUED_BYTES}
max_packet_size {MAX_PACKET_BYTES}

# Devices.
listener {settings.mqtt_port} {settings.mqtt_host}
tls_version tlsv1.3
cafile ca.crt
certfile server.crt
keyfile server.key
crlfile revoked.crl
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
allow_zero_length_clientid false
acl_file devices.acl

# The hub itself. Who may open the socket is the hub.
listener 0 {SOCKET}
allow_anonymous true
allow_zero_length_clientid false
acl_file hub.acl
"""


def openssl_configuration() -> str:
    """OpenSSL's settings for the broker: no session is ever resumed (TLS 1.3 with no tickets).

    A resumed session skips the certificate's check, so a device whose certificate was revoked could come
    back with the ticket of an earlier connection. mosquitto has no option for it.
    """
    return """\
openssl_conf = edgeops
[edgeops]
ssl_conf = modules
[modules]
system_default = every_context
[every_context]
CipherString = DEFAULT@SECLEVEL=2
NumTickets = 0
"""


def device_acl(revoked: Iterable[str]) -> str:
    """What devices may do (`%u` is the certificate's common name): write four topics of their own, read
    two. Revoked ones may do nothing: the list holds for connections that are open already, too."""
    lines = [f"pattern write {ROOT}/%u/{channel}" for channel in DEVICE_WRITES]
    lines += [f"pattern read {ROOT}/%u/{channel}" for channel in DEVICE_READS]
    for name in sorted(revoked):
        lines += ["", f"user {name}", "topic deny #"]
    return "\n".join(lines) + "\n"


def hub_acl() -> str:
    """What comes through the hub's socket may use every device's topics and read the broker's figures."""
    return f"topic readwrite {ROOT}/#\ntopic read $SYS/#\n"


def write_all(settings: HubSettings) -> Path:
    """Writes everything the broker reads; returns its folder. Needs the authority and the database to be
    there. Raises `ConfigError` when they are not, or the folder cannot be written."""
    socket_path(settings)
    folder = _make_folder(settings)
    server = AuthorityFiles.of(settings).server
    _write(folder / CONFIG, configuration(settings).encode())
    _write(folder / OPENSSL_CONFIG, openssl_configuration().encode())
    _write(folder / "hub.acl", hub_acl().encode())
    _write(folder / "ca.crt", _read(server.ca))
    _write(folder / "server.key", _read(server.key))
    _write(folder / "server.crt", _read(server.certificate))
    write_access(settings)
    return folder


def write_access(settings: HubSettings) -> None:
    """Writes who is kept out: the revocation list, and the access list without the revoked devices."""
    engine = open_database(settings)
    try:
        with reading(engine) as connection:
            query = select(devices.c.name).where(devices.c.revoked_at_ms.is_not(None))
            revoked = list(connection.execute(query).scalars())
    finally:
        engine.dispose()
    folder = _make_folder(settings)
    _write(folder / "revoked.crl", _read(AuthorityFiles.of(settings).revocations))
    _write(folder / "devices.acl", device_acl(revoked).encode())


def _make_folder(settings: HubSettings) -> Path:
    folder = broker_folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    owner = _broker_owner()
    if owner is not None:
        os.chown(folder, *owner)
    return folder


def _write(path: Path, data: bytes) -> None:
    write_atomic(path, data, mode=0o600)
    owner = _broker_owner()
    if owner is not None:
        os.chown(path, *owner, follow_symlinks=False)


def _broker_owner() -> tuple[int, int] | None:
    """User and group that mosquitto drops to, or None where it keeps the hub's own."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(BROKER_USER)
    except KeyError:
        raise ConfigError(
            f"There is no user {BROKER_USER!r}, which the broker runs as when root starts the hub.",
            remedy=f"Create it with useradd --system {BROKER_USER}, or start the hub as another user.",
        ) from None
    return entry.pw_uid, entry.pw_gid


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}).",
            remedy="Start the hub with edgeops hub serve, which makes it.",
            subject=str(path),
        ) from error
