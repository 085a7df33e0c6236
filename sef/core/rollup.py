"""What remains of prices that are not kept: one bucket for each hour and each day."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from sef.core.pricing import STORED_STEP

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bucket:
    starts_at: datetime
    points: int
    min_price: Decimal
    max_price: Decimal
    mean_price: Decimal
    """Of the points, each counting the same; rounded half-even to what is stored."""
    first_price: Decimal
    last_price: Decimal


def start_of(at: datetime, length: timedelta) -> datetime:
    """The start of the bucket that a moment is in; days are those of UTC."""
    return at - (at - _ORIGIN) % length


def buckets(prices: Iterable[tuple[datetime, Decimal]], length: timedelta) -> list[Bucket]:
    """The buckets of real prices, in order; an interpolated one is nobody's observation."""
    found: defaultdict[datetime, list[Decimal]] = defaultdict(list)
    for at, price in sorted(prices):
        found[start_of(at, length)].append(price)
    return [
        Bucket(
            starts_at,
            len(seen),
            min(seen),
            max(seen),
            (sum(seen, Decimal()) / len(seen)).quantize(STORED_STEP, ROUND_HALF_EVEN),
            seen[0],
            seen[-1],
        )
        for starts_at, seen in found.items()
    ]
