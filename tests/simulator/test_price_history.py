"""DescribeSpotPriceHistory, and the prices of the control API."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sef.simulator.client import Simulation

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


def test_every_pool_of_a_type_has_its_price(ec2: "EC2Client") -> None:
    history = ec2.describe_spot_price_history(
        InstanceTypes=["m5.xlarge"], ProductDescriptions=["Linux/UNIX"]
    )["SpotPriceHistory"]
    assert len({entry["AvailabilityZone"] for entry in history}) == 6
    assert all(0 < float(entry["SpotPrice"]) < 0.192 for entry in history)


def test_a_price_from_the_control_api_is_the_latest(
    ec2: "EC2Client", simulation: Simulation
) -> None:
    pool = "c5.xlarge.us-east-1b"
    simulation.set_pool(pool, price=Decimal("0.0512"))
    history = ec2.describe_spot_price_history(
        InstanceTypes=["c5.xlarge"],
        AvailabilityZone="us-east-1b",
        StartTime=datetime.now(UTC),
    )["SpotPriceHistory"]
    assert [entry["SpotPrice"] for entry in history] == ["0.0512"]
    assert [p.price for p in simulation.pools() if p.pool == pool] == [Decimal("0.0512")]


def test_other_products_and_unknown_types_have_no_prices(ec2: "EC2Client") -> None:
    windows = ec2.describe_spot_price_history(ProductDescriptions=["Windows"])
    unknown = ec2.describe_spot_price_history(InstanceTypes=["p4d.24xlarge"])
    assert windows["SpotPriceHistory"] == unknown["SpotPriceHistory"] == []


def test_pages_follow_each_other(ec2: "EC2Client") -> None:
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        Filters=[{"Name": "instance-type", "Values": ["t3.micro"]}],
        PaginationConfig={"PageSize": 4},
    )
    zones = [e["AvailabilityZone"] for page in pages for e in page["SpotPriceHistory"]]
    assert len(zones) == len(set(zones)) == 6


def test_on_demand_prices_are_higher_than_spot_prices(simulation: Simulation) -> None:
    on_demand = simulation.on_demand_prices()
    assert on_demand["m5.large"] == Decimal("0.096")
    assert all(
        pool.price < on_demand[pool.pool.rpartition(".")[0]]
        for pool in simulation.pools()
        if pool.price is not None
    )
