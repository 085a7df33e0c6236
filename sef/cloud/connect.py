"""The cloud that the settings name: Amazon's, or the simulated one, started if need be."""

import json
from collections.abc import Mapping
from decimal import Decimal

import boto3

from sef.cloud.clients import Clients
from sef.config import Settings, variable
from sef.errors import ConfigurationError
from sef.simulator.process import ensure_running

SIMULATED_REGION = "us-east-1"
SIMULATED_TEMPLATE = "sef-default"
"""The launch template that the simulated EC2 has from its first start."""


def connect(settings: Settings) -> tuple[Settings, Clients]:
    """Return the clients, and the settings with what the simulated cloud adds to them.

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
    """Raise ConfigurationError when the settings name no EC2 that could be asked."""
    if settings.cloud == "aws" and not (settings.region or boto3.session.Session().region_name):
        raise ConfigurationError(
            f"{variable('region')} is empty and boto3 finds no region; set one, as us-east-1"
        )


def on_demand_prices(settings: Settings) -> Mapping[str, Decimal]:
    """On-demand prices by instance type, as far as the settings name a file of them.

    Raises:
        ConfigurationError: the file cannot be read as such.
    """
    if settings.on_demand_prices_file is None:
        return {}
    try:
        told = json.loads(settings.on_demand_prices_file.read_text(), parse_float=Decimal)
        return {str(name): Decimal(price) for name, price in told.items()}
    except (OSError, ValueError, AttributeError, ArithmeticError) as error:
        raise ConfigurationError(f"{variable('on_demand_prices')}: {error}") from error
