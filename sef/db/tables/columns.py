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

from sef.terms import (
    AGENT_ID_LENGTH,
    POOL_ID_LENGTH,
    STORED_STEP,
)


class Instant(TypeDecorator[datetime]):
    """A moment: aware and UTC in Python, a UTC DATETIME with microseconds in the database."""

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
    """An exact price.

    SQLite has no decimals: its double holds the 13 digits of a price, and rounding restores them.
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
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    # Ids that differ in case are different ids.
    "mysql_collate": "utf8mb4_bin",
}


metadata = MetaData()


def agent_id(**options: Any) -> Column[str]:
    return Column("agent_id", String(AGENT_ID_LENGTH), **options)


def pool_id(**options: Any) -> Column[str]:
    return Column("pool_id", String(POOL_ID_LENGTH), **options)


def switch(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, default=False, server_default=text("0"))


def counter(name: str, **options: Any) -> Column[int]:
    return Column(name, Integer, nullable=False, default=1, server_default=text("1"), **options)


def serial() -> Column[int]:
    return Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
