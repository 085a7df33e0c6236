"""Prices from a file are replayed from the start of the simulation."""

from decimal import Decimal
from pathlib import Path

import pytest

from sef.simulator.server.prices import Prices
from sef.terms import Pool

POOL = Pool("m5.large", "us-east-1a")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.csv"


def test_a_file_is_replayed_from_the_start_of_the_simulation(file: Path) -> None:
    file.write_text(
        "timestamp,pool,price\n"
        "2017-01-01T00:10:00Z,m5.large.us-east-1a,0.05\n"
        "2017-01-01T00:00:00Z,m5.large.us-east-1a,0.04\n"
    )
    prices = Prices(born=1000.0)
    prices.follow(file)
    assert prices.current(1000)[POOL] == Decimal("0.04")
    assert prices.current(1599)[POOL] == Decimal("0.04")
    assert prices.current(1600)[POOL] == Decimal("0.05")


def test_future_prices_of_a_file_are_not_shown(file: Path) -> None:
    file.write_text("0,m5.large.us-east-1a,0.04\n60,m5.large.us-east-1a,0.05\n")
    prices = Prices(born=1000.0)
    prices.follow(file)
    answer = prices.describe({"InstanceType.1": "m5.large"}, "us-east-1", now=1030)
    assert "<spotPrice>0.04</spotPrice>" in answer
    assert "0.05" not in answer.partition("us-east-1a")[0]


def test_a_span_begins_with_the_price_that_is_valid_at_its_start() -> None:
    prices = Prices(born=1000.0)
    prices.set(POOL, Decimal("0.05"), at=2000)
    prices.set(POOL, Decimal("0.06"), at=3000)
    changes = prices.between(POOL, start=2500, end=3500)
    assert [change.price for change in changes] == [Decimal("0.05"), Decimal("0.06")]


@pytest.mark.parametrize(
    "row", ["1,m5.large.us-east-1a", "1,large,0.1", "1,m5.large.us-east-1a,-1", "x,y,z", ""]
)
def test_an_invalid_line_of_a_price_file_is_named(file: Path, row: str) -> None:
    file.write_text(f"0,m5.large.us-east-1a,0.04\n{row}\n")
    with pytest.raises(ValueError, match=r"prices\.csv, line 2: expected timestamp,pool,price"):
        Prices(born=0).follow(file)
