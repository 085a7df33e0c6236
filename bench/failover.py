"""Measure the time of a failover in SEF itself, from the notice to the answer of its promotion.

    .venv/bin/python bench/failover.py            # needs mariadbd

Every agent has a ready standby, and the simulated EC2 adds no delay. Notices arrive one at a time,
then a hundred at once; then the same with an Elastic IP that follows the primary. The answer to a
notice comes after the promotion's COMMIT and, with an address, after the cutover too; there, the
time to the promotion ends just before its COMMIT. Each agent fails over once. Afterwards the
instances are counted in EC2.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import Engine, create_engine, select

# Run as a file, Python finds the modules beside it, not those of the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import instances, servers
from bench.clients import Answer, Post, send_all
from bench.host_info import cpu_milliseconds
from bench.prices import POOL
from sef.cloud.ec2 import AGENT_TAG
from sef.db.tables import cutovers, spot_interruption_events
from sef.simulator.client import Simulation
from sef.simulator.process import ensure_running

PATIENCE = 120
LIMITS = {1: 100, 100: 1000}
"""Limit for the 99th percentile, in milliseconds, by the number of notices at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alone", type=int, default=200, help="notices one at a time (200)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of notices at once (5)")
    parser.add_argument("--at-once", type=int, default=100, help="notices of such a round (100)")
    parser.add_argument("--workers", type=int, default=2, help="Granian workers (2)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, servers.mariadb() as server:
        var = Path(home)
        simulation = ensure_running(var, pending_seconds=0)
        try:
            # Each failover leaves one more instance running.
            unlimited = {"SEF_MAX_INSTANCES": "0"}
            with servers.sef(server.url("sef"), var, workers=options.workers, **unlimited) as base:
                engine = create_engine(server.url("sef"))
                programs = {
                    "SEF": base.pid,
                    "MariaDB": server.pid,
                    "the simulated EC2": simulation.health()["pid"],
                }
                figures = measure(base, simulation, engine, options, programs)
                engine.dispose()
        finally:
            simulation.stop()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(
    base: str,
    simulation: Simulation,
    engine: Engine,
    options: argparse.Namespace,
    programs: Mapping[str, int],
) -> dict[str, Any]:
    figures = {}
    for has_address in (False, True):
        named = " with an address" if has_address else ""
        for at_once, rounds in ((1, 1), (options.at_once, options.rounds)):
            answers: list[Answer] = []
            used = Counter[str]()
            for number in range(rounds):
                size = options.alone if at_once == 1 else at_once
                name = f"of{at_once}{has_address}{number}"
                agents = fleet(base, simulation, name, size, has_address=has_address)
                posts = [notice(*agent) for agent in agents]
                shares = [posts] if at_once == 1 else [[post] for post in posts]
                before = cpu(programs)
                answers += send_all(base, shares, check=is_promoted)[1]
                used.update(cpu(programs) - before)
            figures[f"{at_once}{named}"] = show(
                at_once, engine, answers, used, has_address=has_address
            )
    failovers = 2 * (options.alone + options.rounds * options.at_once)
    check(base, simulation, failovers)
    return figures


def cpu(programs: Mapping[str, int]) -> Counter[str]:
    """Return the CPU time so far of each program, in milliseconds."""
    used = Counter({name: round(cpu_milliseconds(pid)) for name, pid in programs.items()})
    used["the client"] = round(1000 * time.process_time())
    return used


def fleet(
    base: str, simulation: Simulation, name: str, size: int, *, has_address: bool = False
) -> list[tuple[str, str]]:
    """Register agents with an instance and wait for their standbys; return agent and instance ids.

    With `has_address`, each agent has an Elastic IP that follows its primary.
    """
    ec2 = instances.connect(simulation)
    launched = instances.launch(ec2, POOL, size)
    agents = [(f"{name}-{i}", instance_id) for i, instance_id in enumerate(launched)]
    for agent_id, instance_id in agents:
        body: dict[str, Any] = {"instance_id": instance_id, "pool_id": POOL}
        if has_address:
            address = ec2.allocate_address(Domain="vpc")["AllocationId"]
            ec2.associate_address(AllocationId=address, InstanceId=instance_id)
            body["cutover"] = {"elastic_ip": address}
        requests.put(f"{base}/api/agents/{agent_id}", json=body).raise_for_status()
        signal(base, "rebalance-recommendation", agent_id, instance_id)
    deadline = time.monotonic() + PATIENCE
    while waiting := [agent_id for agent_id, _ in agents if not is_protected(base, agent_id)]:
        if time.monotonic() > deadline:
            sys.exit(f"no standby for {', '.join(waiting)} within {PATIENCE} s")
        time.sleep(0.5)
    return agents


def is_protected(base: str, agent_id: str) -> bool:
    status = requests.get(f"{base}/api/agents/{agent_id}/sef-status").json()
    return bool(status["replica"] and status["replica"]["status"] == "ready")


def signal(base: str, signal_type: str, agent_id: str, instance_id: str) -> None:
    post = posted(signal_type, agent_id, instance_id)
    headers = {"Content-Type": post.content_type}
    requests.post(base + post.path, post.body, headers=headers).raise_for_status()


def posted(signal_type: str, agent_id: str, instance_id: str) -> Post:
    body = {"signal_type": signal_type, "timestamp": time.time(), "instance_id": instance_id}
    return Post(f"/api/agents/{agent_id}/interruption", json.dumps(body).encode())


def notice(agent_id: str, instance_id: str) -> Post:
    return posted("termination-notice", agent_id, instance_id)


def is_promoted(answer: Answer) -> bool:
    return answer.status == 200 and json.loads(answer.body)["action"] == "promoted"


def check(base: str, simulation: Simulation, expected: int) -> None:
    """Exit unless each agent had exactly one launch, and the launched instance is its primary."""
    launched = [i for i in simulation.instances() if AGENT_TAG in i.tags]
    serving = set()
    page: str | None = ""
    while page is not None:
        query = {"limit": 10_000} | ({"after": page} if page else {})
        fleet_page = requests.get(f"{base}/api/agents", params=query).json()
        serving |= {agent["instance_id"] for agent in fleet_page["agents"]}
        page = fleet_page["next_after"]
    if len(launched) != expected or {i.id for i in launched} != serving:
        sys.exit(f"{expected} failovers, {len(launched)} launches, {len(serving)} primaries")
    print(f"{expected} failovers: {len(launched)} launches, each the primary of its agent")


def show(
    at_once: int,
    engine: Engine,
    answers: Sequence[Answer],
    used: Mapping[str, int],
    *,
    has_address: bool,
) -> dict[str, Any]:
    """Print and return percentiles, in milliseconds since the client sent its notice.

    All times are from the clock of this machine.
    """
    sent = {answer.path.split("/")[3]: answer.sent for answer in answers}
    taken = {"answer": [(answer.answered - answer.sent) * 1000 for answer in answers]}
    if has_address:
        promoted, handed_over = promotions(engine, sent), cutovers_done(engine, sent)
        taken = {
            "promotion": [(promoted[one] - sent[one]) * 1000 for one in sent],
            "cutover": [(handed_over[one] - sent[one]) * 1000 for one in sent],
        }
    figures: dict[str, Any] = {"failovers": len(answers)}
    for name, values in taken.items():
        figures[name] = {f"p{share}": percentile(values, share) for share in (50, 99, 100)}
        of_limit = figures[name]["p99"] / LIMITS.get(at_once, LIMITS[100])
        figures[name]["p99_of_limit"] = round(of_limit, 3)
        print(
            f"{at_once:4} at once, to the {name:9}: p50 {figures[name]['p50']:6.1f} ms, "
            f"p99 {figures[name]['p99']:6.1f} ms, most {figures[name]['p100']:6.1f} ms; "
            f"p99 is {of_limit:.2f} of the limit"
        )
    figures["cpu_ms"] = {name: round(ms / len(answers), 1) for name, ms in used.items()}
    cpu_by_program = ", ".join(f"{name} {ms}" for name, ms in figures["cpu_ms"].items())
    print(f"{at_once:4} at once, CPU per failover in ms: {cpu_by_program}")
    return figures


def promotions(engine: Engine, wanted: Collection[str]) -> dict[str, float]:
    """Return the time of each agent's promotion, in epoch seconds."""
    columns = spot_interruption_events.c
    statement = select(columns.agent_id, columns.detected_at, columns.failover_time_ms).where(
        columns.failover_completed
    )
    with engine.connect() as connection:
        return {
            agent_id: began.timestamp() + milliseconds / 1000
            for agent_id, began, milliseconds in connection.execute(statement)
            if agent_id in wanted
        }


def cutovers_done(engine: Engine, wanted: Collection[str]) -> dict[str, float]:
    """Wait for all cutovers to end; return the time of each agent's, in epoch seconds.

    A periodic job finishes a step that had to be retried.
    """
    columns = cutovers.c
    statement = select(columns.agent_id, columns.finished_at).where(
        columns.finished_at.is_not(None)
    )
    deadline = time.monotonic() + PATIENCE
    while True:
        with engine.connect() as connection:
            rows = connection.execute(statement)
            ended = {name: at.timestamp() for name, at in rows if name in wanted}
        if len(ended) == len(wanted):
            return ended
        if time.monotonic() > deadline:
            sys.exit(
                f"cutovers not finished of {len(wanted) - len(ended)} agents within {PATIENCE} s"
            )
        time.sleep(0.2)


def percentile(values: Sequence[float], share: int) -> float:
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)], 1)


if __name__ == "__main__":
    main()
