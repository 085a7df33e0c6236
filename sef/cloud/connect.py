"""Connect to the cloud that the settings name: AWS, or the simulator, started if necessary."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import boto3

from sef.cloud.clients import Clients
from sef.config import Settings, variable
from sef.errors import ConfigurationError
from sef.simulator.process import ensure_running

SIMULATED_REGION = "us-east-1"
SIMULATED_TEMPLATE = "sef-default"
"""Launch template that the simulated EC2 has from its first start."""

MAX_ON_DEMAND_PRICE = 10_000
"""Maximum believable on-demand price, in US dollars per hour."""


def connect(settings: Settings) -> tuple[Settings, Clients]:
    """Return the settings and the clients.

    With the simulator, the settings get its launch template if they have none of their own.

    Raises:
        SimulationError: the simulated EC2 cannot be started.
    """
    if settings.cloud == "aws":
        return settings, Clients(settings.region, settings.ec2_endpoint)
    simulation = ensure_running(settings.var, pending_seconds=settings.simulator_pending_seconds)
    settings = settings.model_copy(
        update={"launch_template": settings.launch_template or SIMULATED_TEMPLATE}
    )
    region = settings.region or SIMULATED_REGION
    return settings, Clients(region, simulation.endpoint, simulated=True)


def check_cloud(settings: Settings) -> None:
    """Raise ConfigurationError if AWS is configured and no region is known."""
    if settings.cloud == "aws" and not (settings.region or boto3.session.Session().region_name):
        raise ConfigurationError(
            f"{variable('region')} is empty and boto3 finds no region; "
            f"set {variable('region')}, e.g. to us-east-1"
        )


def on_demand_prices(settings: Settings) -> Mapping[str, Decimal]:
    """Return USD per hour by instance type, from the file that the settings name, if any.

    Raises:
        ConfigurationError: the file cannot be read, or is not a JSON object of prices.
    """
    path = settings.on_demand_prices_file
    if path is None:
        return {}
    try:
        prices = json.loads(path.read_text(), parse_float=Decimal)
        return {str(name): _price(price) for name, price in prices.items()}
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ConfigurationError(
            f"{variable('on_demand_prices_file')}: cannot read prices from {path}: {error}; "
            'expected JSON such as {"m5.large": 0.096}'
        ) from error


def _price(value: Any) -> Decimal:
    price = Decimal(value)
    if not price.is_finite() or not 0 < price <= MAX_ON_DEMAND_PRICE:
        raise ValueError(f"{price} is not above 0 and at most {MAX_ON_DEMAND_PRICE}")
    return price
