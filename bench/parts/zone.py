"""Records in a hosted zone: a hundred agents of the zone are interrupted at once.

The simulated Route 53 answers five requests a second for the account, as AWS does, and takes no
other change of a zone for half a second after one. Each agent has a ready standby, and its record
follows the promotion. The same is measured for a record and a target group that all agents share.
"""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, func, select

from bench import fleet, instances, servers
from bench.clients import Post, send_all
from bench.parts.reports import WORKERS
from bench.prices import POOL
from bench.results import Aim, Comparison, rounded
from bench.schedule import Run
from bench.workload import agents
from sef.cloud.clients import Clients
from sef.db import tables
from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running

AGENTS = 100
PER_SECOND = 5
BUSY_SECONDS = 0.5
NOTICE = 120
PATIENCE = 300
RECOMMENDED = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Moved:
    """The figures of one round.

    Attributes:
        seconds: from the first notice to the last record.
        operators: operators that were called.
    """

    seconds: float
    operators: int


def measure(run: Run) -> Sequence[Comparison]:
    size, rounds = run.size(AGENTS, 5), min(run.rounds, 3)
    cases = {"a record each": ("dns",), "a record each, and one target group": ("dns", "group")}
    moved: dict[str, list[Moved]] = {case: [] for case in cases}
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        engine = stack.enter_context(fleet.tables_in(server, "zone"))
        var = run.home / "var"
        simulation = ensure_running(var, pending_seconds=0)
        stack.callback(simulation.stop)
        settings = {"SEF_MAX_INSTANCES": "0", "SEF_ROUTE53_REQUESTS_PER_SECOND": str(PER_SECOND)}
        url = server.url("zone")
        sef = stack.enter_context(servers.sef(url, var, workers=WORKERS, **settings))
        for number in range(rounds):
            for place, (case, targets) in enumerate(cases.items()):
                run.say(f"round {number + 1}, {size} agents with {case}")
                names = agents(size, f"zone-{number}-{place}")
                moved[case].append(interrupt(engine, sef, simulation, names, targets))
    return [
        comparison
        for case, some in moved.items()
        for comparison in (
            Comparison(
                f"{size} agents of one zone with {case}: from the notices to the last record",
                "s",
                rounded([one.seconds for one in some]),
                "the notice of AWS",
                [NOTICE] * len(some),
                Aim(at_most=1),
            ),
            Comparison(
                f"{size} agents of one zone with {case}: operators called",
                "",
                [float(one.operators) for one in some],
                aim=Aim(at_most=0, of_value=True),
            ),
        )
    ]


def interrupt(
    engine: Engine, sef: str, simulation: Simulation, names: Sequence[str], targets: Sequence[str]
) -> Moved:
    """Insert agents with their targets, send all notices, and wait for the records."""
    clients = Clients("us-east-1", simulation.endpoint, simulated=True)
    domain = f"{uuid4().hex[:8]}.example"
    primaries = prepare(engine, simulation, clients, names, domain, targets)
    simulation.set_options(route53_per_second=PER_SECOND, route53_change_seconds=BUSY_SECONDS)
    began = time.time()
    posts = [_notice(name, primary, began) for name, primary in zip(names, primaries, strict=True)]
    send_all(sef, [posts[n :: WORKERS * 16] for n in range(min(WORKERS * 16, len(posts)))])
    last = last_record(engine, names)
    simulation.set_options(route53_per_second=0, route53_change_seconds=0)
    with engine.connect() as connection:
        event = tables.system_events.c
        operators = connection.scalar(
            select(func.count())
            .select_from(tables.system_events)
            .where(event.event_type == "operator_needed", event.agent_id.in_(names))
        )
    return Moved(last - began, operators or 0)


def prepare(
    engine: Engine,
    simulation: Simulation,
    clients: Clients,
    names: Sequence[str],
    domain: str,
    targets: Sequence[str],
) -> list[str]:
    """Insert agents with a standby that runs in EC2; return the ids of their primaries."""
    zone = clients.route53.create_hosted_zone(Name=domain, CallerReference=domain)
    zone_id = zone["HostedZone"]["Id"].rpartition("/")[2]
    vpc = clients.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = clients.elbv2.create_target_group(
        Name=domain.partition(".")[0], Protocol="HTTP", Port=80, VpcId=vpc
    )
    arn = group["TargetGroups"][0]["TargetGroupArn"]
    changes: list[Any] = [
        {
            "Action": "CREATE",
            "ResourceRecordSet": {
                "Name": f"{name}.{domain}",
                "Type": "A",
                "TTL": 60,
                "ResourceRecords": [{"Value": "10.255.0.1"}],
            },
        }
        for name in names
    ]
    clients.route53.change_resource_record_sets(
        HostedZoneId=zone_id, ChangeBatch={"Changes": changes}
    )
    standbys = instances.launch(instances.connect(simulation), fleet.STANDBY_POOL, len(names))
    now = datetime.now(UTC)
    primaries = [f"i-{uuid4().hex[:17]}" for _ in names]
    rows = []
    for name, primary in zip(names, primaries, strict=True):
        record = {"zone_id": zone_id, "name": f"{name}.{domain}", "type": "A"}
        cutover: dict[str, Any] = {"dns": record | {"address": "private"}}
        if "group" in targets:
            cutover["target_groups"] = [{"arn": arn}]
        times = {"primary_since": now - timedelta(hours=1), "created_at": now, "updated_at": now}
        ids = {"id": name, "instance_id": primary, "pool_id": POOL, "cutover": cutover}
        rows.append(ids | times)
    with engine.begin() as connection:
        fleet.insert_rows(connection, tables.agents, rows)
        pairs = list(zip(names, primaries, strict=True))
        incidents = fleet.open_incidents(connection, pairs, now - RECOMMENDED)
        fleet.give_standbys(connection, names, now, standbys, incidents)
    return primaries


def last_record(engine: Engine, names: Sequence[str]) -> float:
    """Wait until all records have moved; return the time of the last one.

    Raises:
        RuntimeError: a record has not moved in time.
    """
    step, cutover = tables.cutover_steps.c, tables.cutovers.c
    deadline = time.monotonic() + PATIENCE
    while True:
        with engine.connect() as connection:
            finished = connection.scalars(
                select(step.finished_at)
                .join(tables.cutovers, cutover.id == step.cutover_id)
                .where(cutover.agent_id.in_(names), step.kind == "dns", step.status == "done")
            ).all()
        if len(finished) == len(names):
            return max(at.timestamp() for at in finished if at is not None)
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(names) - len(finished)} records have not moved")
        time.sleep(0.2)


def _notice(name: str, instance: str, began: float) -> Post:
    body = {
        "signal_type": "termination-notice",
        "timestamp": began,
        "instance_id": instance,
        "termination_time": began + NOTICE,
    }
    return Post(f"/api/agents/{name}/interruption", json.dumps(body).encode())
