"""`schema.sql`, rendered from the tables: `python -m sef.db.schema > schema.sql`."""

from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateIndex, CreateTable

from sef.db.tables import metadata

HEADER = """\
-- The tables of SEF, for MySQL 8+ and MariaDB 10.6+. Rendered from sef/db/tables, which says
-- more about each; `python backend.py init-db` creates the same. Do not edit:
--     python -m sef.db.schema > schema.sql
"""


def render() -> str:
    """The DDL of all tables and their indexes, in MySQL's dialect."""
    dialect = mysql.dialect()
    statements = []
    for table in metadata.tables.values():
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            statements.append(str(CreateIndex(index).compile(dialect=dialect)).strip())
    lines = [line.rstrip() for line in ";\n\n".join(statements).splitlines()]
    return (
        f"{HEADER}\n" + "\n".join(lines).replace("\t", "  ").replace(")ENGINE", ") ENGINE") + ";\n"
    )


if __name__ == "__main__":
    print(render(), end="")
