"""Reports one a line, as NDJSON or CSV, read piece by piece in bounded memory."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

from sef.errors import Refused
from sef.parsing import (
    _instance,
    _required,
    parse_agent_id,
    parse_decimal,
    parse_identifier,
    parse_instant,
    parse_json,
    parse_object,
)
from sef.prices.series import Observation
from sef.terms import POOL_ID_LENGTH, PRICE_STEP, Source

LONGEST_LINE = 64 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CSV_FIELDS = ("agent_id", "pool_id", "timestamp", "spot_price", "is_replica", "instance_id")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    """From 1."""
    end: int
    """Where the next one begins, in bytes."""
    content: bytes | None
    """Without its end; None if it is longer than LONGEST_LINE."""

    @property
    def is_blank(self) -> bool:
        return self.content is not None and not self.content.strip()


def lines(pieces: Iterable[bytes], *, number: int = 0, start: int = 0) -> Iterator[Line]:
    """The lines of a text that comes in pieces, the last one with or without its line end.

    `number` lines, of `start` bytes, came before.
    """
    rest, is_too_long, at = b"", False, start
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            number, at = number + 1, at + len(line) + 1
            yield Line(number, at, _content(line, number, is_too_long))
            is_too_long = False
        if len(rest) > LONGEST_LINE:
            at, rest, is_too_long = at + len(rest), b"", True
    if rest or is_too_long:
        yield Line(number + 1, at + len(rest), _content(rest, number + 1, is_too_long))


def _content(line: bytes, number: int, is_too_long: bool) -> bytes | None:
    if is_too_long or len(line) > LONGEST_LINE:
        return None
    return (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).removesuffix(b"\r")


def _text(line: Line) -> bytes:
    if line.content is None:
        raise Refused("line_too_long", f"A line has at most {LONGEST_LINE} bytes.")
    return line.content


def parse_json_line(line: Line) -> Any:
    """Raises Refused: `invalid_json` or `line_too_long`."""
    return parse_json(_text(line), "line")


def parse_csv_header(line: Line) -> list[str]:
    """The fields of a report that the columns hold; other columns keep their own names.

    Case and underscores do not matter, so that `SpotPrice` is `spot_price`.

    Raises:
        Refused: `invalid_csv`, without a column for the price or the time.
    """
    known = {field.replace("_", ""): field for field in CSV_FIELDS}
    names = [name.strip() for name in _cells(line)]
    columns = [known.get(name.lower().replace("_", ""), name) for name in names]
    for field in ("timestamp", "spot_price"):
        if columns.count(field) != 1:
            raise Refused(
                "invalid_csv", f"The first line must name the columns, {field} among them, once."
            )
    return columns


def parse_csv_line(line: Line, columns: Sequence[str]) -> dict[str, Any]:
    """A row as a report; an empty cell is none.

    Raises:
        Refused: `invalid_csv` or `line_too_long`.
    """
    cells = _cells(line)
    if len(cells) != len(columns):
        raise Refused(
            "invalid_csv", f"The line has {len(cells)} cells, the first line {len(columns)}."
        )
    row: dict[str, Any] = {
        column: cell.strip() for column, cell in zip(columns, cells, strict=True) if cell.strip()
    }
    for field in ("spot_price", "timestamp"):
        if field in row:
            row[field] = _number(row[field])
    if "is_replica" in row:
        row["is_replica"] = _TRUTH.get(row["is_replica"].lower(), row["is_replica"])
    return row


def _cells(line: Line) -> list[str]:
    try:
        return next(csv.reader([_text(line).decode()], strict=True), [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise Refused("invalid_csv", f"The line is no row of a CSV file: {error}.") from None


def _number(cell: str) -> Decimal | str:
    try:
        return Decimal(cell)
    except InvalidOperation:
        return cell


MAX_PRICE = Decimal(1000)
EARLIEST = datetime(2006, 1, 1, tzinfo=UTC)
"""EC2 opened in 2006: no price is older."""
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Report:
    """One price, as one agent reports it."""

    agent_id: str
    pool_id: str
    observation: Observation
    instance_id: str | None = None

    @property
    def series(self) -> tuple[str, str]:
        return (self.agent_id, self.pool_id)


def parse_report(agent_id: object, payload: object, now: datetime) -> Report:
    """Read a pricing report.

    Raises:
        Refused: with the reason, when any part of it is missing or not believable.
    """
    fields = parse_object(payload)
    agent = parse_agent_id(agent_id)
    price = _price(_required(fields, "spot_price"))
    if fields.get("pool_id") in (None, ""):
        raise Refused("missing_pool_id", "pool_id is required and cannot be empty.")
    pool = parse_identifier(fields["pool_id"], "pool_id", POOL_ID_LENGTH)
    at = parse_instant(_required(fields, "timestamp"), "timestamp")
    if at < EARLIEST:
        raise Refused("timestamp_too_old", "timestamp lies before 2006, when EC2 opened.")
    if at > now + CLOCK_SKEW:
        raise Refused(
            "timestamp_in_future",
            "timestamp lies more than 5 minutes ahead of the clock.",
        )
    is_replica = fields.get("is_replica", False)
    if not isinstance(is_replica, bool):
        raise Refused("invalid_is_replica", "is_replica must be true or false.")
    source = Source.REPLICA if is_replica else Source.PRIMARY
    return Report(agent, pool, Observation(source, at, price), _instance(fields))


def _price(value: object) -> Decimal:
    price = parse_decimal(value)
    if price is None:
        raise Refused("invalid_spot_price", "spot_price must be a finite JSON number.")
    if price > MAX_PRICE:
        raise Refused("spot_price_too_high", "spot_price is above 1000 dollars per hour.")
    if price > 0:
        price = price.quantize(PRICE_STEP, ROUND_HALF_EVEN)
    if price <= 0:
        raise Refused("spot_price_not_positive", "spot_price must be above zero.")
    return price
