"""Read the real AWS prices that the benchmarks report."""

import csv
from decimal import Decimal
from functools import cache

from bench.results import ROOT

FILE = ROOT / "tests" / "data" / "spot_prices_us-east-1.csv"
POOL = "m5.large.us-east-1a"


@cache
def prices() -> list[str]:
    """Return the prices in the order of their changes, the oldest first."""
    with FILE.open(newline="") as file:
        return [row["SpotPrice"] for row in reversed(list(csv.DictReader(file)))]


def around(price: str, share: str) -> str:
    """Return a price raised by a share of itself, with the eight decimals of a report."""
    return f"{Decimal(price) * (1 + Decimal(share)):.8f}"
