"""Opening the hub's database: SQLite in WAL mode, or whatever SQLAlchemy URL the settings name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from cloud_hub.settings import HubSettings

_BUSY_TIMEOUT_MS = 15_000


def open_database(settings: HubSettings) -> Engine:
    """An engine over the hub's database. The schema is there after `cloud_hub.store.migrate.upgrade`."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(settings.url, pool_pre_ping=False)
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
