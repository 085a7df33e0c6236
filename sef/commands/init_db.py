"""`sef init-db`: create the tables that are missing in a database."""

import click
from sqlalchemy.exc import DBAPIError

from sef.config import Settings
from sef.db.database import Database
from sef.errors import ConfigurationError, Unavailable


def init_db(settings: Settings) -> None:
    """Create the missing tables and print their names."""
    created = ", ".join(create_tables(settings)) or "none, because all tables exist"
    click.echo(f"{settings.shown_database}: created {created}")


def create_tables(settings: Settings) -> list[str]:
    """Create the tables that are missing; return their names.

    Raises:
        ConfigurationError: the database cannot be used.
        SchemaMismatch: the database has tables of SEF's names that are not SEF's.
    """
    try:
        database = Database(settings.database)
        created = database.create_tables()
        database.dispose()
        return created
    except (Unavailable, DBAPIError, OSError) as error:
        cause = error.__cause__ if isinstance(error, Unavailable) else error
        reason = cause.orig if isinstance(cause, DBAPIError) else error
        raise ConfigurationError(f"cannot use {settings.shown_database}: {reason}") from error
