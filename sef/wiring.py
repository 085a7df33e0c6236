"""All that needs EC2, put together; prices need none of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from sef.clock import Clock
from sef.cloud.attachments import Attachments
from sef.cloud.clients import Clients
from sef.cloud.ec2 import Ec2
from sef.cloud.traffic import TrafficRouting
from sef.config import Settings
from sef.db.database import Database
from sef.failover.cutover.checks import TargetChecks
from sef.failover.cutover.run import Cutovers
from sef.failover.explain.dry_run import DryRun
from sef.failover.instances.candidates import Candidates
from sef.failover.instances.launch import Launcher
from sef.failover.instances.rate_limit import RateLimiter
from sef.failover.instances.run_instances import LaunchCalls
from sef.failover.instances.terminate import Retiring
from sef.failover.losses import Losses
from sef.failover.reconcile import Reconciler
from sef.failover.signals import Interruptions
from sef.failover.standbys.watch import HealthChecks, batched_describe
from sef.notifications.outbound import Outbound
from sef.operators.calls import Operators
from sef.operators.idempotency import IdempotentCalls
from sef.operators.modes import Modes


@dataclass(frozen=True, slots=True)
class Services:
    cloud: Ec2
    reconciler: Reconciler
    interruptions: Interruptions
    operators: Operators
    losses: Losses

    @classmethod
    def on(
        cls,
        database: Database,
        cloud: Ec2,
        clients: Callable[[], Clients],
        settings: Settings,
        clock: Clock,
        on_demand_prices: Mapping[str, Decimal],
    ) -> Self:
        """Args:
        clients: those of AWS's other services, asked for when they are needed first.
        on_demand_prices: by instance type.
        """
        moves, traffic = Attachments(clients), TrafficRouting(clients)
        outbound = Outbound(settings.webhook_network_list)
        checks = TargetChecks(moves, traffic)
        cutovers = Cutovers(database, moves, traffic, outbound, clock)
        requests = RateLimiter(database, settings, clock)
        candidates = Candidates(cloud, moves, settings, clock, on_demand_prices)
        calls = LaunchCalls(database, cloud, requests, settings, clock)
        launcher = Launcher(database, cloud, candidates, calls, settings, clock)
        watch = HealthChecks(database, cloud, batched_describe(cloud), settings, clock)
        retiring = Retiring(database, cloud, calls, watch, requests, clock)
        reconciler = Reconciler(database, launcher, cutovers, watch, retiring, settings, clock)
        rehearsals = DryRun(database, reconciler, launcher, checks, settings, clock)
        modes = Modes(database, reconciler, rehearsals, settings, clock)
        return cls(
            cloud,
            reconciler,
            Interruptions(database, reconciler, rehearsals, settings, clock, on_demand_prices),
            Operators(database, modes, checks, IdempotentCalls(database, clock)),
            Losses(database, cloud, settings, clock),
        )
