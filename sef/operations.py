"""All that needs EC2, put together; prices need none of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from sef.candidates import Candidates
from sef.clock import Clock
from sef.cloud.clients import Clients
from sef.cloud.ec2 import Ec2
from sef.cloud.moves import Moves
from sef.cloud.traffic import Traffic
from sef.config import Settings
from sef.cutover import Cutovers
from sef.interruptions import Interruptions
from sef.launch_calls import LaunchCalls
from sef.launching import Launcher
from sef.losses import Losses
from sef.modes import Modes
from sef.operators import Operators
from sef.outbound import Outbound
from sef.reconcile import Reconciler
from sef.rehearsal import Rehearsals
from sef.repeats import Repeats
from sef.requests import Requests
from sef.retiring import Retiring
from sef.store.database import Database
from sef.target_checks import TargetChecks
from sef.watching import Watch, looks_at


@dataclass(frozen=True, slots=True)
class Operations:
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
        moves, traffic = Moves(clients), Traffic(clients)
        outbound = Outbound(settings.webhook_network_list)
        checks = TargetChecks(moves, traffic)
        cutovers = Cutovers(database, moves, traffic, outbound, clock)
        requests = Requests(database, settings, clock)
        candidates = Candidates(cloud, moves, settings, clock, on_demand_prices)
        calls = LaunchCalls(database, cloud, requests, settings, clock)
        launcher = Launcher(database, cloud, candidates, calls, settings, clock)
        watch = Watch(database, cloud, looks_at(cloud), settings, clock)
        retiring = Retiring(database, cloud, calls, watch, requests, clock)
        reconciler = Reconciler(database, launcher, cutovers, watch, retiring, settings, clock)
        rehearsals = Rehearsals(database, reconciler, launcher, checks, settings, clock)
        modes = Modes(database, reconciler, rehearsals, settings, clock)
        return cls(
            cloud,
            reconciler,
            Interruptions(database, reconciler, rehearsals, settings, clock, on_demand_prices),
            Operators(database, modes, checks, Repeats(database, clock)),
            Losses(database, cloud, settings, clock),
        )
