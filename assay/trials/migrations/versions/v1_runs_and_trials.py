"""Runs and trials: the schema of stores before Alembic, which have some or all of these tables already."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "assay_meta",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("schema", sa.Integer, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "runs",
        sa.Column("key", sa.String(40), primary_key=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("outcomes", sa.LargeBinary, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        if_not_exists=True,
    )
