"""Parse pricing reports: a report, or lines of NDJSON or CSV, read in bounded memory."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

from sef.errors import Refused
from sef.parsing import (
    parse_agent_id,
    parse_decimal,
    parse_identifier,
    parse_instance_id,
    parse_instant,
    parse_json,
    parse_object,
    required_field,
)
from sef.prices.series import Observation, SeriesKey
from sef.terms import POOL_ID_LENGTH, PRICE_STEP, Source

MAX_PRICE = Decimal(1000)
"""Maximum believable price, in US dollars per hour."""

EARLIEST = datetime(2006, 1, 1, tzinfo=UTC)
"""Earliest believable time of a price: EC2 opened in 2006."""

CLOCK_SKEW = timedelta(minutes=5)
"""Maximum time by which a report's timestamp may be ahead of SEF's clock."""

LONGEST_LINE = 64 * 1024
"""Maximum length of a line, in bytes."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CSV_FIELDS = ("agent_id", "pool_id", "timestamp", "spot_price", "is_replica", "instance_id")
"""Fields of a report that a CSV file may have as columns."""
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Report:
    """A price reported by an agent."""

    agent_id: str
    pool_id: str
    observation: Observation
    instance_id: str | None = None

    @property
    def series(self) -> SeriesKey:
        return (self.agent_id, self.pool_id)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a text that is read in pieces."""

    number: int
    """The line number, from 1."""
    end: int
    """The offset of the next line, in bytes."""
    content: bytes | None
    """The bytes without the line end; None if the line is longer than LONGEST_LINE."""

    @property
    def is_blank(self) -> bool:
        return self.content is not None and not self.content.strip()


def parse_report(agent_id: object, payload: object, now: datetime) -> Report:
    """Parse a pricing report.

    Raises:
        Refused: a field is missing, invalid or not believable; `reason` names the field.
    """
    fields = parse_object(payload)
    agent = parse_agent_id(agent_id)
    price = _price(required_field(fields, "spot_price"))
    if fields.get("pool_id") in (None, ""):
        raise Refused("missing_pool_id", "pool_id is required and cannot be empty.")
    pool = parse_identifier(fields["pool_id"], "pool_id", POOL_ID_LENGTH)
    at = parse_instant(required_field(fields, "timestamp"), "timestamp")
    if at < EARLIEST:
        raise Refused(
            "timestamp_too_old", "timestamp must be in 2006 or later; EC2 opened in 2006."
        )
    if at > now + CLOCK_SKEW:
        raise Refused(
            "timestamp_in_future",
            "timestamp must be at most 5 minutes ahead of SEF's clock.",
        )
    is_replica = fields.get("is_replica", False)
    if not isinstance(is_replica, bool):
        raise Refused("invalid_is_replica", "is_replica must be true or false.")
    source = Source.REPLICA if is_replica else Source.PRIMARY
    return Report(agent, pool, Observation(source, at, price), parse_instance_id(fields))


def lines(pieces: Iterable[bytes], *, number: int = 0, start: int = 0) -> Iterator[Line]:
    """Split a text that arrives in pieces into lines. The last line end may be missing.

    Args:
        pieces: pieces of the text, divided anywhere.
        number: number of lines that were read before.
        start: number of bytes that were read before.
    """
    rest, is_too_long, offset = b"", False, start
    for piece in pieces:
        *complete, rest = (rest + piece).split(b"\n")
        for line in complete:
            number, offset = number + 1, offset + len(line) + 1
            yield Line(number, offset, _content(line, number, is_too_long))
            is_too_long = False
        if len(rest) > LONGEST_LINE:
            offset, rest, is_too_long = offset + len(rest), b"", True
    if rest or is_too_long:
        yield Line(number + 1, offset + len(rest), _content(rest, number + 1, is_too_long))


def parse_json_line(line: Line) -> Any:
    """Parse a line of NDJSON.

    Raises:
        Refused: `invalid_json` or `line_too_long`.
    """
    return parse_json(_text(line), "line")


def parse_csv_header(line: Line) -> list[str]:
    """Return the field of each column. An unknown column keeps its name.

    Case and underscores do not matter: `SpotPrice` is `spot_price`.

    Raises:
        Refused: `invalid_csv`, the price or the time has no column or several, or the line is not
            CSV.
    """
    known = {field.replace("_", ""): field for field in CSV_FIELDS}
    names = [name.strip() for name in _cells(line)]
    columns = [known.get(name.lower().replace("_", ""), name) for name in names]
    for field in ("timestamp", "spot_price"):
        if columns.count(field) != 1:
            raise Refused(
                "invalid_csv", f"The first line must name the columns, with {field} exactly once."
            )
    return columns


def parse_csv_line(line: Line, columns: Sequence[str]) -> dict[str, Any]:
    """Return a row as the fields of a report. An empty cell counts as missing.

    Raises:
        Refused: `invalid_csv` or `line_too_long`.
    """
    cells = _cells(line)
    if len(cells) != len(columns):
        raise Refused(
            "invalid_csv", f"The line has {len(cells)} cells; the header has {len(columns)}."
        )
    row: dict[str, Any] = {
        column: cell.strip() for column, cell in zip(columns, cells, strict=True) if cell.strip()
    }
    for field in ("spot_price", "timestamp"):
        if field in row:
            row[field] = _number(row[field])
    if "is_replica" in row:
        row["is_replica"] = _BOOLEANS.get(row["is_replica"].lower(), row["is_replica"])
    return row


def _price(value: object) -> Decimal:
    price = parse_decimal(value)
    if price is None:
        raise Refused("invalid_spot_price", "spot_price must be a finite JSON number.")
    if price > MAX_PRICE:
        raise Refused("spot_price_too_high", "spot_price must be at most 1000 dollars per hour.")
    if price > 0:
        price = price.quantize(PRICE_STEP, ROUND_HALF_EVEN)
    if price <= 0:
        raise Refused("spot_price_not_positive", "spot_price must be above zero.")
    return price


def _content(line: bytes, number: int, is_too_long: bool) -> bytes | None:
    if is_too_long or len(line) > LONGEST_LINE:
        return None
    return (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).removesuffix(b"\r")


def _text(line: Line) -> bytes:
    if line.content is None:
        raise Refused("line_too_long", f"A line may have at most {LONGEST_LINE} bytes.")
    return line.content


def _cells(line: Line) -> list[str]:
    try:
        return next(csv.reader([_text(line).decode()], strict=True), [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise Refused("invalid_csv", f"The line is not valid CSV: {error}.") from None


def _number(cell: str) -> Decimal | str:
    try:
        return Decimal(cell)
    except InvalidOperation:
        return cell
