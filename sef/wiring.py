"""Build the `Context` of a `SmartEmergencyFallback`: connect to AWS or to the simulated EC2."""

from collections.abc import Mapping
from decimal import Decimal
from functools import cache, partial
from threading import Lock

from sef.clock import Clock
from sef.cloud.attachments import Attachments
from sef.cloud.batched_describe import batched_describe
from sef.cloud.clients import Clients
from sef.cloud.connect import connect
from sef.cloud.ec2 import Ec2
from sef.cloud.instance_ends import InstanceEnds
from sef.cloud.pace import PER_SECOND, Pace
from sef.cloud.places import PlaceLookups
from sef.cloud.routes import Routes
from sef.cloud.traffic import TrafficRouting
from sef.config import Settings
from sef.context import Context
from sef.db.database import Database
from sef.notifications.outbound import Outbound


def build_context(
    database: Database,
    settings: Settings,
    clock: Clock,
    on_demand_prices: Mapping[str, Decimal],
    *,
    ec2: Ec2 | None = None,
    clients: Clients | None = None,
) -> Context:
    """Return the context; connect as the settings say if `ec2` or `clients` is None.

    Args:
        clients: clients of AWS's other services; connected when a cutover first needs one.

    Raises:
        SimulationError: the simulated EC2 cannot be started.
    """
    connect_once, lock = cache(partial(connect, settings)), Lock()

    def connected() -> tuple[Settings, Clients]:
        # Without the lock, threads that need the clients first at the same time connect each.
        with lock:
            return connect_once()

    if ec2 is None:
        settings, connected_clients = connected()
        ec2 = Ec2(connected_clients.ec2)

    def aws_clients() -> Clients:
        return clients or connected()[1]

    pace = Pace(_route53_rate(settings), clock=lambda: clock().timestamp())
    return Context(
        database=database,
        ec2=ec2,
        describe=batched_describe(ec2),
        attachments=Attachments(aws_clients),
        places=PlaceLookups(aws_clients),
        routes=Routes(aws_clients),
        traffic=TrafficRouting(aws_clients, pace),
        ends=InstanceEnds(aws_clients),
        http=Outbound(settings.webhook_network_list),
        settings=settings,
        clock=clock,
        on_demand_prices=on_demand_prices,
    )


def _route53_rate(settings: Settings) -> float | None:
    """Return the requests per second to Route 53; None if they are not limited."""
    rate = settings.route53_requests_per_second
    if rate is None:
        rate = 0 if settings.cloud == "simulated" else PER_SECOND
    return rate or None
