"""Render `schema.sql` from the tables: `python -m sef.db.schema > schema.sql`."""

from collections.abc import Iterator

from sqlalchemy import Table
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from sef.db.tables import INTERNAL, PUBLIC

HEADER = """\
-- The tables of SEF, for MySQL 8+ and MariaDB 10.6+. `python backend.py init-db` creates the same.
-- Rendered from sef/db/tables; do not edit, but run:
--     python -m sef.db.schema > schema.sql

-- Public: your own SQL may read these five tables. All times are UTC.
"""
INTERNAL_HEADER = "-- Internal: only SEF uses these tables."


def render() -> str:
    """Return the DDL of all tables and their indexes, in MySQL's dialect."""
    public, internal = ("\n\n".join(_ddl(*tables)) for tables in (PUBLIC, INTERNAL))
    return f"{HEADER}\n{public}\n\n{INTERNAL_HEADER}\n\n{internal}\n"


def _ddl(*tables: Table) -> Iterator[str]:
    for table in tables:
        yield _compiled(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield _compiled(CreateIndex(index))


def _compiled(statement: CreateTable | CreateIndex) -> str:
    text = str(statement.compile(dialect=mysql.dialect())).strip()
    lines = [line.rstrip().replace("\t", "  ") for line in text.splitlines()]
    return "\n".join(lines).replace(")ENGINE", ") ENGINE") + ";"


if __name__ == "__main__":
    print(render(), end="")
