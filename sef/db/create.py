"""Create the missing tables, and check the columns of the present ones."""

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import Engine, Table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from sef.db.errors import RETRIED, error_number, wait_after
from sef.db.tables import metadata

ATTEMPTS = 10
"""Maximum attempts of a statement that defines a table or an index."""

# SQLAlchemy's inspector would ask once for each table, at every start of a process.
MYSQL_COLUMNS = text(
    "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()"
)
SQLITE_COLUMNS = text(
    "SELECT tables.name, columns.name"
    " FROM sqlite_master AS tables JOIN pragma_table_xinfo(tables.name) AS columns"
    " WHERE tables.type IN ('table', 'view')"
)


class SchemaMismatch(Exception):
    """A table has the name of one of SEF's tables and lacks columns that SEF needs."""


def create_missing(engine: Engine) -> list[str]:
    """Create the missing tables and return their names.

    Raises:
        SchemaMismatch: a table with the name of one of SEF's tables lacks columns.
    """
    present = _present_columns(engine)
    missing = [table for table in metadata.sorted_tables if table.name not in present]
    for table in missing:
        _create(engine, table)
    _check_columns(engine, _present_columns(engine) if missing else present)
    return [table.name for table in missing]


def _present_columns(engine: Engine) -> Mapping[str, set[str]]:
    """Return the columns of every table in the database, by the table's name."""
    statement = SQLITE_COLUMNS if engine.dialect.name == "sqlite" else MYSQL_COLUMNS
    present = defaultdict(set)
    with engine.connect() as connection:
        for table, column in connection.execute(statement):
            present[table].add(column)
    return dict(present)


def _create(engine: Engine, table: Table) -> None:
    try:
        _define(engine, CreateTable(table))
    except DBAPIError:
        # Another process may have created the table meanwhile; it also creates the indexes.
        if table.name not in _present_columns(engine):
            raise
        return
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        _define(engine, CreateIndex(index))


def _define(engine: Engine, statement: ExecutableDDLElement) -> None:
    for attempt in range(ATTEMPTS):
        try:
            with engine.begin() as connection:
                connection.execute(statement)
            return
        except DBAPIError as error:
            # On MySQL 9, sessions that define tables at the same time can deadlock in its
            # data dictionary.
            if error_number(error) not in RETRIED or attempt == ATTEMPTS - 1:
                raise
            wait_after(attempt)


def _check_columns(engine: Engine, present: Mapping[str, set[str]]) -> None:
    for table in metadata.sorted_tables:
        lacking = sorted({column.name for column in table.columns} - present.get(table.name, set()))
        if lacking:
            database = engine.url.render_as_string(hide_password=True)
            raise SchemaMismatch(
                f"table {table.name} of {database} lacks {', '.join(lacking)}; "
                "give SEF a database of its own"
            )
