"""A storm: AWS interrupts hundreds or thousands of instances at once, with repeated signals.

Each agent has a ready standby since a recommendation a few minutes ago. Five signals arrive for
each agent, all in random order: the recommendation again, and a newer one; the notice from the
instance's metadata, the same notice from EventBridge, and from the metadata once more. All notices
announce the termination two minutes after the start of the storm.

Rows of agents, incidents and standbys are inserted directly (bench/fleet.py), and the standbys are
launched in the simulated EC2 with calls for many. The signals then take SEF's ordinary path.
"""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

from sqlalchemy import Engine, select

from bench import fleet, instances, servers
from bench.clients import Answer, Post, send_all
from bench.parts.reports import WORKERS
from bench.prices import POOL
from bench.results import Aim, Comparison, rounded
from bench.schedule import Run
from bench.workload import agents
from sef.db import tables
from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running

ROUNDS = {100: 5, 1000: 3, 5000: 1, 15_000: 1}
"""Rounds by number of signals. The sizes are those of Karpenter's interruption benchmark."""
QUICK_ROUNDS = {100: 1}
SIGNALS_OF_AN_AGENT = 5
CONNECTIONS = 64
NOTICE = 120
RECOMMENDED = timedelta(minutes=3)
"""Time from the recommendation to the storm."""
PATIENCE = 300

CEILING = 5.0
NTH = "node-termination-handler's design: ten messages per replica every two seconds"


@dataclass(frozen=True, slots=True)
class Storm:
    """The figures of a storm."""

    rate: float
    """Signals accepted per second."""
    in_time: float
    """Percentage of the signals that SEF decided before the announced termination."""
    failovers: int
    seconds: float
    """From the first signal to the last promotion."""


def measure(run: Run) -> Sequence[Comparison]:
    wanted = QUICK_ROUNDS if run.is_quick else ROUNDS
    storms: dict[int, list[Storm]] = {size: [] for size in wanted}
    with ExitStack() as stack:
        server = stack.enter_context(servers.mariadb())
        engine = stack.enter_context(fleet.tables_in(server, "storm"))
        var = run.home / "var"
        simulation = ensure_running(var, pending_seconds=0)
        stack.callback(simulation.stop)
        # Each failover leaves one more instance running.
        limits = {"SEF_MAX_INSTANCES": "0"}
        sef = stack.enter_context(servers.sef(server.url("storm"), var, workers=WORKERS, **limits))
        # A warm-up storm: each worker builds its EC2 client at its first use.
        warm = agents(20, "warm")
        rage(engine, sef, warm, prepare(engine, simulation, warm), Random(0))
        for number in range(max(wanted.values())):
            for size in [size for size, times in wanted.items() if number < times]:
                run.say(f"round {number + 1}, agents for {size:,} signals")
                names = agents(size // SIGNALS_OF_AN_AGENT, f"storm-{size}-{number}")
                primaries = prepare(engine, simulation, names)
                run.say(f"round {number + 1}, {size:,} signals")
                with run.watched(sef.pid, f"a storm of {size:,} signals"):
                    storms[size].append(rage(engine, sef, names, primaries, Random(number)))
    run.details["storms"] = {
        f"{size:,}": [
            {"failovers": storm.failovers, "last_promotion_s": round(storm.seconds, 1)}
            for storm in some
        ]
        for size, some in storms.items()
    }
    return [
        comparison
        for size, some in storms.items()
        for comparison in (
            Comparison(
                f"a storm of {size:,} signals",
                "signals/s",
                rounded([storm.rate for storm in some]),
                NTH,
                [CEILING] * len(some),
                Aim(at_least=500, of_value=True),
            ),
            Comparison(
                f"a storm of {size:,} signals: decided before the announced termination",
                "%",
                rounded([storm.in_time for storm in some]),
                aim=Aim(at_least=100, of_value=True),
            ),
        )
    ]


def prepare(engine: Engine, simulation: Simulation, names: Sequence[str]) -> list[str]:
    """Insert agents, each with a standby that runs in EC2; return the ids of their primaries."""
    standbys = instances.launch(instances.connect(simulation), fleet.STANDBY_POOL, len(names))
    now = datetime.now(UTC)
    primaries = [f"i-{uuid4().hex[:17]}" for _ in names]
    pairs = list(zip(names, primaries, strict=True))
    rows = [
        {
            "id": name,
            "instance_id": primary,
            "pool_id": POOL,
            "primary_since": now - timedelta(hours=1),
            "created_at": now,
            "updated_at": now,
        }
        for name, primary in pairs
    ]
    # One transaction: between two, a job would launch a standby for an incident without one.
    with engine.begin() as connection:
        fleet.insert_rows(connection, tables.agents, rows)
        incidents = fleet.open_incidents(connection, pairs, now - RECOMMENDED)
        fleet.give_standbys(connection, names, now, standbys, incidents)
    return primaries


def rage(
    engine: Engine, sef: str, names: Sequence[str], primaries: Sequence[str], chance: Random
) -> Storm:
    """Send the signals of a storm in random order, and wait for the promotions."""
    began = time.time()
    end = began + NOTICE
    posts = [
        _post(name, primary, kind, at, end)
        for name, primary in zip(names, primaries, strict=True)
        for kind, at in (
            ("rebalance-recommendation", began - RECOMMENDED.total_seconds()),
            ("rebalance-recommendation", began - 5),
            ("termination-notice", began),
            ("termination-notice", began + 0.5),
            ("termination-notice", began),
        )
    ]
    chance.shuffle(posts)
    connections = min(CONNECTIONS, len(posts))
    shares = [posts[n::connections] for n in range(connections)]
    taken, answers = send_all(sef, shares)
    promoted = promotions(engine, names)
    late = sum(1 for at in promoted.values() if at > end)
    return Storm(
        rate=len(posts) / taken,
        in_time=100 * _share_in_time(answers, late, end),
        failovers=len(promoted),
        seconds=max(promoted.values()) - began,
    )


def promotions(engine: Engine, names: Sequence[str]) -> dict[str, float]:
    """Wait until all agents have a new primary; return the time of each promotion.

    Raises:
        RuntimeError: an agent has no new primary in time, several incidents or several promotions.
    """
    incident, replica = tables.incidents.c, tables.replica_instances.c
    group = names[0].rpartition("-")[0] + "-%"
    deadline = time.monotonic() + PATIENCE
    while True:
        with engine.connect() as connection:
            incidents = connection.execute(
                select(incident.agent_id, incident.new_instance_id).where(
                    incident.agent_id.like(group)
                )
            ).all()
            promoted = connection.execute(
                select(replica.agent_id, replica.promoted_at).where(
                    replica.agent_id.like(group), replica.promoted_at.is_not(None)
                )
            ).all()
        left = sum(row.new_instance_id is None for row in incidents)
        if not left:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{left} agents without a new primary after {PATIENCE} s")
        time.sleep(0.2)
    if not len(incidents) == len(promoted) == len(names):
        raise RuntimeError(
            f"{len(names)} agents, {len(incidents)} incidents, {len(promoted)} promotions"
        )
    return {row.agent_id: row.promoted_at.timestamp() for row in promoted}


def _post(name: str, instance: str, kind: str, at: float, end: float) -> Post:
    body = {"signal_type": kind, "timestamp": at, "instance_id": instance}
    if kind == "termination-notice":
        body["termination_time"] = end
    return Post(f"/api/agents/{name}/interruption", json.dumps(body).encode())


def _share_in_time(answers: Sequence[Answer], late_promotions: int, end: float) -> float:
    """Return the share of signals that were decided in time.

    A recommendation is decided when it is answered, a notice when its agent has a new primary.
    """
    late = sum(answer.answered > end for answer in answers)
    # All three notices of an agent with a late promotion were late.
    return 1 - min(len(answers), late + 3 * late_promotions) / len(answers)
