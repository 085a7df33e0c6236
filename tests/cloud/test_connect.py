"""The file of on-demand prices."""

from decimal import Decimal
from pathlib import Path

import pytest

from sef.cloud.connect import on_demand_prices
from sef.config import Settings
from sef.errors import ConfigurationError


def test_it_reads_the_prices_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"m5.large": 0.096}')
    prices = on_demand_prices(Settings(on_demand_prices_file=path))
    assert prices == {"m5.large": Decimal("0.096")}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "no JSON",
        "[0.096]",
        *(
            f'{{"m5.large": {price}}}'
            for price in ('"cheap"', "null", "[]", "0", "-0.1", "NaN", "Infinity", "1e999", "1e11")
        ),
    ],
)
def test_the_error_of_an_unusable_price_file_names_the_setting_and_the_file(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "prices.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        on_demand_prices(Settings(on_demand_prices_file=path))
    assert str(caught.value).startswith(
        f"SEF_ON_DEMAND_PRICES_FILE: cannot read prices from {path}: "
    )
