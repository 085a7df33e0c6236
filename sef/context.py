"""The context that the functions of the control loop take: database, AWS, settings and clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from sef.batching import Leads
from sef.clock import Clock
from sef.cloud.attachments import Attachments
from sef.cloud.batched_describe import BatchedDescribe
from sef.cloud.ec2 import Ec2
from sef.cloud.instance_ends import InstanceEnds
from sef.cloud.places import PlaceLookups
from sef.cloud.routes import Routes
from sef.cloud.traffic import TrafficRouting
from sef.config import Settings
from sef.db.database import Database
from sef.notifications.outbound import Outbound


@dataclass(frozen=True, slots=True)
class Context:
    """The database, AWS, the settings and the clock of one `SmartEmergencyFallback`.

    Attributes:
        describe: looks up single instances; concurrent look-ups share one call.
        ends: looks up and changes what ends with an instance.
        http: sends webhooks.
        on_demand_prices: USD per hour, by instance type.
        leads: the hosted zones and target groups that a thread of this process works on.
    """

    database: Database
    ec2: Ec2
    describe: BatchedDescribe
    attachments: Attachments
    places: PlaceLookups
    routes: Routes
    traffic: TrafficRouting
    ends: InstanceEnds
    http: Outbound
    settings: Settings
    clock: Clock
    on_demand_prices: Mapping[str, Decimal]
    leads: Leads = field(default_factory=Leads)
