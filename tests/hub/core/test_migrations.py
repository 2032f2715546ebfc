"""The migrations make just the schema that the code uses, and refuse what they do not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import UniqueConstraint, inspect, text

from cloud_hub.settings import HubSettings
from cloud_hub.store.database import open_database, reading, writing
from cloud_hub.store.migrate import upgrade
from cloud_hub.store.schema import metadata
from edgeops.errors import ConfigError
from edgeops.settings import load


def test_migrations_make_the_schema_of_the_code(tmp_path: Path) -> None:
    engine = open_database(load(HubSettings, state_dir=tmp_path))
    upgrade(engine)
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    found = inspect(engine)
    assert set(metadata.tables) | {"alembic_version"} == set(found.get_table_names())
    for name, table in metadata.tables.items():
        unique = {tuple(each["column_names"]) for each in found.get_unique_constraints(name)}
        declared = {
            tuple(column.name for column in constraint.columns)
            for constraint in table.constraints
            if isinstance(constraint, UniqueConstraint)
        }
        assert unique == declared, name
    engine.dispose()


def test_upgrading_again_changes_nothing(tmp_path: Path) -> None:
    engine = open_database(load(HubSettings, state_dir=tmp_path))
    upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text("INSERT INTO counters VALUES ('windows_stored', 7)"))
    upgrade(engine)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT value FROM counters")).scalar_one() == 7
    engine.dispose()


def test_a_newer_hubs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    engine = open_database(load(HubSettings, state_dir=tmp_path))
    upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v9999'"))
    with pytest.raises(ConfigError, match="v9999"):
        upgrade(engine)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "v9999"
    engine.dispose()
