"""Provide spot and on-demand prices, and answer DescribeSpotPriceHistory."""

import csv
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from sef.terms import Pool, parse_pool

ON_DEMAND: Mapping[str, Decimal] = {
    "t3.micro": Decimal("0.0104"),
    "t3.small": Decimal("0.0208"),
    "t3.medium": Decimal("0.0416"),
    "t3.large": Decimal("0.0832"),
    "m5.large": Decimal("0.096"),
    "m5.xlarge": Decimal("0.192"),
    "m5a.large": Decimal("0.086"),
    "m6i.large": Decimal("0.096"),
    "m6i.xlarge": Decimal("0.192"),
    "c5.large": Decimal("0.085"),
    "c5.xlarge": Decimal("0.17"),
    "c6i.large": Decimal("0.085"),
    "r5.large": Decimal("0.126"),
    "r5.xlarge": Decimal("0.252"),
}
"""USD per hour in us-east-1, Linux."""

_SPOT_SHARE = {
    "t3": Decimal("0.31"), "m5": Decimal("0.39"), "m5a": Decimal("0.41"), "m6i": Decimal("0.40"),
    "c5": Decimal("0.42"), "c6i": Decimal("0.43"), "r5": Decimal("0.36"),
}  # fmt: skip
_ZONE_FACTOR = {
    "us-east-1a": Decimal("1.00"), "us-east-1b": Decimal("1.05"), "us-east-1c": Decimal("0.97"),
    "us-east-1d": Decimal("0.93"), "us-east-1e": Decimal("1.12"), "us-east-1f": Decimal("1.08"),
}  # fmt: skip

_PRODUCT = "Linux/UNIX"
_PRODUCT_NAMES = {_PRODUCT, "Linux/UNIX (Amazon VPC)"}
_FILTERS = {
    "availability-zone": "zone",
    "instance-type": "type",
    "product-description": "product",
}
_DEFAULT_PAGE = 1000
_YEAR_2100 = 4_102_444_800


class PriceChange(NamedTuple):
    """A pool's price from a moment on, in epoch seconds."""

    at: float
    price: Decimal


class Prices:
    """The price history of every pool.

    Args:
        born: start of the simulation, in epoch seconds. The built-in prices are valid from then
            on. A price file is replayed from then on, its times shifted accordingly.
    """

    def __init__(self, born: float) -> None:
        self._born = born
        self._history: dict[Pool, list[PriceChange]] = {
            Pool(kind, zone): [
                PriceChange(born, round(price * _SPOT_SHARE[kind.partition(".")[0]] * factor, 4))
            ]
            for kind, price in ON_DEMAND.items()
            for zone, factor in _ZONE_FACTOR.items()
        }

    def set(self, pool: Pool, price: Decimal, at: float) -> None:
        """Set a price from `at` on; later changes from a price file are dropped."""
        earlier = [c for c in self._history.get(pool, []) if c.at < at]
        self._history[pool] = [*earlier, PriceChange(at, price)]

    def follow(self, file: Path) -> None:
        """Replace the history of the pools in a CSV file `timestamp,pool,price`.

        Timestamps are epoch seconds or ISO 8601.

        Raises:
            ValueError: a line has another form; the message is one line that names it.
        """
        changes_of: dict[Pool, list[PriceChange]] = {}
        with file.open(newline="") as lines:
            for number, row in enumerate(csv.reader(lines), start=1):
                if number == 1 and row[:1] == ["timestamp"]:
                    continue
                try:
                    pool, change = _price_row(row)
                except (ValueError, InvalidOperation):
                    raise ValueError(
                        f"{file}, line {number}: expected timestamp,pool,price"
                    ) from None
                changes_of.setdefault(pool, []).append(change)
        if not changes_of:
            raise ValueError(f"{file} has no prices")
        shift = self._born - min(c.at for changes in changes_of.values() for c in changes)
        for pool, changes in changes_of.items():
            self._history[pool] = [PriceChange(c.at + shift, c.price) for c in sorted(changes)]

    def current(self, now: float) -> dict[Pool, Decimal]:
        """Return the present price of every pool."""
        return {
            pool: past[-1].price
            for pool, changes in self._history.items()
            if (past := [c for c in changes if c.at <= now])
        }

    def between(self, pool: Pool, start: float, end: float) -> list[PriceChange]:
        """Return the changes in a span and, like EC2, the last one before it."""
        changes = [c for c in self._history[pool] if c.at <= end]
        before = [c for c in changes if c.at < start][-1:]
        return before + [c for c in changes if c.at >= start]

    def describe(self, form: Mapping[str, str], region: str, now: float) -> str:
        """Return the XML for DescribeSpotPriceHistory, newest first."""
        wanted = _filters(form)
        start = _epoch(form["StartTime"]) if "StartTime" in form else 0.0
        end = min(now, _epoch(form["EndTime"])) if "EndTime" in form else now
        entries = []
        if not wanted["product"] or wanted["product"] & _PRODUCT_NAMES:
            for pool in self._history:
                if (
                    pool.zone.startswith(region)
                    and (not wanted["type"] or pool.instance_type in wanted["type"])
                    and (not wanted["zone"] or pool.zone in wanted["zone"])
                ):
                    entries += [(c, pool) for c in self.between(pool, start, end)]
        entries.sort(key=lambda entry: (-entry[0].at, entry[1]))
        first = int(form.get("NextToken") or 0)
        after = first + int(form.get("MaxResults") or _DEFAULT_PAGE)
        return _history_xml(entries[first:after], str(after) if after < len(entries) else "")


def _price_row(row: list[str]) -> tuple[Pool, PriceChange]:
    timestamp, pool_id, price = (cell.strip() for cell in row)
    pool = parse_pool(pool_id)
    if pool is None or not 0 < Decimal(price) < Decimal("inf"):
        raise ValueError(row)
    try:
        at = float(timestamp)
    except ValueError:
        at = _epoch(timestamp)
    if not 0 <= at < _YEAR_2100:
        raise ValueError(row)
    return pool, PriceChange(at, Decimal(price))


def _filters(form: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the wanted types, zones and products, from parameters and from general filters."""
    wanted = {
        "type": _listed(form, "InstanceType"),
        "zone": {form["AvailabilityZone"]} if form.get("AvailabilityZone") else set(),
        "product": _listed(form, "ProductDescription"),
    }
    for key, name in form.items():
        if key.startswith("Filter.") and key.endswith(".Name") and name in _FILTERS:
            values = _listed(form, key.removesuffix("Name") + "Value")
            wanted[_FILTERS[name]] |= values
    return wanted


def _listed(form: Mapping[str, str], name: str) -> set[str]:
    return {value for key, value in form.items() if key.startswith(f"{name}.")}


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _history_xml(entries: Iterable[tuple[PriceChange, Pool]], next_token: str) -> str:
    items = "".join(
        f"<item><instanceType>{escape(pool.instance_type)}</instanceType>"
        f"<productDescription>{_PRODUCT}</productDescription><spotPrice>{change.price:f}</spotPrice>"
        f"<timestamp>{_iso(change.at)}</timestamp>"
        f"<availabilityZone>{escape(pool.zone)}</availabilityZone></item>"
        for change, pool in entries
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<requestId>simulated</requestId><spotPriceHistorySet>{items}</spotPriceHistorySet>"
        f"<nextToken>{next_token}</nextToken></DescribeSpotPriceHistoryResponse>"
    )


def _iso(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
