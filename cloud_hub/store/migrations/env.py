"""Run by Alembic for each command: migrations happen on the connection that `migrate.upgrade` hands over."""

from alembic import context

from cloud_hub.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can roll back changes of the schema. All migrations happen, or none.
    transactional_ddl=True,
    # SQLite changes a column by copying its table.
    render_as_batch=True,
)
context.run_migrations()
