"""How Alembic runs the migrations: over the connection that `assay.trials.schema` gives, in its transaction."""

from alembic import context

from assay.trials.schema import VERSION_TABLE
from assay.trials.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
