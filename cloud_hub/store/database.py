"""Opening the hub's database: SQLite in WAL mode, or whatever SQLAlchemy URL the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DatabaseError

from cloud_hub.settings import HubSettings
from edgeops.errors import ConfigError

_BUSY_TIMEOUT_MS = 15_000


def open_database(settings: HubSettings) -> Engine:
    """An engine over the hub's database. The schema is there after `cloud_hub.store.migrate.upgrade`.

    Raises `ConfigError` when the settings' URL is none.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        engine = create_engine(settings.url, pool_pre_ping=False)
    except ArgumentError as error:
        # The URL is not repeated: it may hold a password.
        raise ConfigError(
            "The hub's database URL cannot be read.",
            remedy="Give EDGEOPS_HUB_DATABASE_URL the form postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
            subject="database_url",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that will write: on SQLite `BEGIN IMMEDIATE`, so that it waits for its turn at the
    start and never fails half way (a read that turns into a write fails at once whatever the timeout).
    Commits at the end, rolls back on an exception."""
    with engine.connect().execution_options(edgeops_write=True) as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A consistent snapshot to read from."""
    with engine.connect() as connection, connection.begin():
        yield connection


def unusable(engine: Engine, error: DatabaseError) -> ConfigError:
    """What to tell of a database that cannot be opened, read or written at the hub's start."""
    where = engine.url.render_as_string(hide_password=True)
    remedy = "Check that it runs, and EDGEOPS_HUB_DATABASE_URL."
    if engine.dialect.name == "sqlite":
        where = str(engine.url.database)
        remedy = "Check the disk and its free space; if the file is damaged, restore it from a backup."
    why = str(error.orig).strip().replace("\n", " ")
    return ConfigError(f"The hub's database {where} cannot be used ({why}).", remedy=remedy, subject=where)


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's BEGIN comes from _begin_sqlite
    cursor = connection.cursor()
    # 16 KB pages and a long checkpoint interval make window ingest several times faster. FULL: what
    # was acknowledged to a device is on the disk.
    cursor.execute("PRAGMA page_size=16384")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA wal_autocheckpoint=4000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("edgeops_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
