"""Column types and the columns that many tables share."""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Integer,
    MetaData,
    Numeric,
    String,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from sef.terms import AGENT_ID_LENGTH, POOL_ID_LENGTH, STORED_STEP

metadata = MetaData()

MYSQL_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",  # ids that differ only in case are different ids
}


class Instant(TypeDecorator[datetime]):
    """A time: an aware UTC datetime in Python, a UTC DATETIME(6) in the database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Price(TypeDecorator[Decimal]):
    """An exact price in USD per hour, with nine decimals.

    SQLite has no decimal type. Its floating-point number holds the 13 digits of a price, and
    rounding restores the exact value.
    """

    impl = Numeric(13, 9)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Float())
        return dialect.type_descriptor(Numeric(13, 9))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return float(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None:
            return None
        return (Decimal(repr(value)) if isinstance(value, float) else value).quantize(STORED_STEP)


def one_of(column: str, values: Iterable[StrEnum]) -> str:
    """Return the SQL condition that a column has one of the values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


def agent_id(**options: Any) -> Column[str]:
    return Column("agent_id", String(AGENT_ID_LENGTH), **options)


def pool_id(**options: Any) -> Column[str]:
    return Column("pool_id", String(POOL_ID_LENGTH), **options)


def boolean(name: str, **options: Any) -> Column[bool]:
    """Return a boolean column that is false by default."""
    return Column(name, Boolean, nullable=False, default=False, server_default=text("0"), **options)


def counter(name: str, *, first: int = 0, **options: Any) -> Column[int]:
    """Return an integer column that starts at `first`; no count makes it overflow."""
    return Column(
        name, BigInteger, nullable=False, default=first, server_default=text(str(first)), **options
    )


def version() -> Column[int]:
    """Return the column that compare-and-swap statements check and increment.

    It also changes when the other values do not: on MySQL, an UPDATE to equal values counts no
    rows.
    """
    return counter(
        "version",
        first=1,
        comment="incremented by each update; a writer compares it with the version it read",
    )


def serial() -> Column[int]:
    """Return the column of a number that the database assigns to each new row."""
    return Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
