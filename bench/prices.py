"""Prices as they are: AWS's own where there is a file of them, else those of the simulated EC2."""

import csv
from decimal import Decimal
from functools import cache

from bench.results import ROOT
from sef.simulator.server.prices import Prices

REAL = ROOT.parent / "shared" / "data" / "spot_prices_us-east-1.csv"
POOL = "m5.large.us-east-1a"


@cache
def prices() -> list[str]:
    """Prices of one pool in the order in which they came."""
    if REAL.exists():
        with REAL.open(newline="") as file:
            return [row["SpotPrice"] for row in reversed(list(csv.DictReader(file)))]
    return [f"{price:f}" for price in sorted(Prices(born=0).current(0).values())]


def source() -> str:
    return "AWS price changes of one instance type" if REAL.exists() else "of the simulated EC2"


def around(price: str, share: str) -> str:
    """A price that much higher, in the digits that reports have."""
    return f"{Decimal(price) * (1 + Decimal(share)):.8f}"
