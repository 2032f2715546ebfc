"""The database's schema by migrations (Alembic), so that a hub can be updated over its data.

A new revision: change `schema.py`, then
`python -m cloud_hub.store.migrate "what changes"` writes the migration to look over and commit.
A test compares what the migrations make with `schema.py`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from cloud_hub.store.database import writing
from edgeops.errors import ConfigError


def upgrade(engine: Engine) -> None:
    """Brings the schema to the newest revision, in one transaction. Nothing happens if it is there already.

    Raises `ConfigError` when the database comes from a newer hub.
    """
    with writing(engine) as connection:
        config = _config(connection)
        found = MigrationContext.configure(connection).get_current_revision()
        if found == ScriptDirectory.from_config(config).get_current_head():
            return
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError(
                f"The hub's database has the revision {found!r}, which this edgeops does not know.",
                remedy="Install the version that made it, or a newer one.",
                subject=str(engine.url.render_as_string(hide_password=True)),
            ) from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _write_revision(message: str) -> None:
    from sqlalchemy import create_engine

    with create_engine("sqlite://").connect() as connection:
        config = _config(connection)
        command.upgrade(config, "head")
        number = len(list(ScriptDirectory.from_config(config).walk_revisions())) + 1
        command.revision(config, message, autogenerate=True, rev_id=f"v{number:04}")


if __name__ == "__main__":
    import sys

    _write_revision(sys.argv[1])
