"""Leases on runs, and seeds of 64 bits on PostgreSQL too.

An assay that knows nothing of leases would do runs that others are doing, in the same folder: it must refuse the store.
"""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("key", sa.String(40), primary_key=True),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("place", sa.String(32), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("beats", sa.Integer, nullable=False),
    )
    if op.get_context().dialect.name == "postgresql":
        op.alter_column("runs", "seed", type_=sa.BigInteger)
    meta = sa.table("assay_meta", sa.column("id", sa.Integer), sa.column("schema", sa.Integer))
    op.execute(sa.delete(meta))
    op.execute(sa.insert(meta).values(id=1, schema=2))
