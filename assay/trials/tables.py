"""The tables of a store, as its newest schema has them; `migrations/` leads there from every older one."""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

# what assays before Alembic read: they refuse a store whose schema is beyond 1
meta = Table("assay_meta", metadata, Column("id", Integer, primary_key=True), Column("schema", Integer, nullable=False))

runs = Table(
    "runs",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("task", Text, nullable=False),
    Column("seed", BigInteger().with_variant(Integer, "sqlite"), nullable=False),  # SQLite's integers have 64 bits
    Column("status", String(16), nullable=False),
    Column("created", String(32), nullable=False),
    Column("record", Text, nullable=False),  # text, not JSON: a method may have logged a NaN, which JSON columns refuse
    Column("outcomes", LargeBinary, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("created", String(32), nullable=False),
    Column("question", Text, nullable=False),
    Column("result", Text, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("owner", String(32), nullable=False),
    Column("place", String(32), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("beats", Integer, nullable=False),
)
