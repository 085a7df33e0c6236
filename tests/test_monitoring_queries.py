"""The monitoring queries of docs/monitoring.sql, run on a real server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.failover.cutover.cutover_targets import Belongings
from tests.harness import ON_MARIADB, REBALANCE, TERMINATION, World

QUERIES = Path(__file__).parents[1] / "docs" / "monitoring.sql"


def statements() -> list[str]:
    lines = (line.partition("-- ")[0] for line in QUERIES.read_text().splitlines())
    kept = "\n".join(line for line in lines if line.strip() != "--")
    return [part.strip() for part in kept.split(";") if part.strip()]


def run(world: World) -> list[list[dict[str, Any]]]:
    with world.connect() as connection:
        # exec_driver_sql: nothing in the file is a placeholder.
        return [
            [dict(row._mapping) for row in connection.execute(text(one.replace(":", r"\:")))]
            for one in statements()
        ]


def scenario(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=60)
    # Prices: a pair, a gap that is filled, a single observation.
    now = world.clock()
    start = now - timedelta(minutes=40)
    reports = [
        {"spot_price": 0.0456, "timestamp": start.isoformat()},
        {"spot_price": 0.0458, "timestamp": start.isoformat(), "is_replica": True},
        {"spot_price": 0.0460, "timestamp": (start + timedelta(minutes=20)).isoformat()},
        {"spot_price": 0.0461, "timestamp": (start + timedelta(minutes=25)).isoformat()},
    ]
    for report in reports:
        record = {"pool_id": "m5.large.us-east-1a"} | report
        assert sef.process_incoming_data("a", "pricing", record)["status"] == "success"
    # A recommendation and its termination; a notice without a standby; manual replica mode.
    primary = world.primary(sef, "a")
    world.signal(sef, REBALANCE, "a", instance_id=primary)
    unprotected = world.primary(sef, "b")
    world.signal(sef, TERMINATION, "b", instance_id=unprotected)
    world.primary(sef, "c")
    sef.enable_manual_replica_mode("c")
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 20)
    world.signal(sef, TERMINATION, "a", instance_id=primary)
    for agent_id in "abc":
        world.check(agent_id)


@ON_MARIADB
def test_each_of_the_four_queries_returns_the_expected_rows(world: World) -> None:
    scenario(world)
    results = run(world)
    assert len(results) == 4
    quality, operations, failovers, _ = results

    days = {(datetime.now(UTC) - timedelta(minutes=m)).date() for m in (0, 15, 20, 40)}
    values = " ".join(str(value) for row in quality for value in row.values())
    names = " ".join(name for row in quality for name in row)
    assert any(str(day) in values for day in days)
    for flag in ("averaged_dual_source", "interpolated", "normal"):
        assert flag in values or flag in names
    assert total(quality) == 6  # 1 averaged, 3 interpolated, 2 normal

    by_type = {first(row, "replica_type"): row for row in operations}
    assert set(by_type) == {"manual", "automatic-rebalance", "automatic-termination"}
    for row in by_type.values():
        assert 20.0 in {float(v) for v in row.values() if is_number(v)}

    by_signal = {first(row, "signal_type"): row for row in failovers}
    numbers = {
        kind: {float(v) for v in row.values() if is_number(v)} for kind, row in by_signal.items()
    }
    assert 10_000.0 in numbers[TERMINATION]  # the mean of 20 s and 0 s


@ON_MARIADB
def test_cutovers_are_counted_by_status(world: World) -> None:
    sef = world.sef()
    moved = world.primary(sef, "a")
    address = Belongings(world, moved).targets["elastic_ip"]
    sef.register_agent("a", {"cutover": {"elastic_ip": address}})
    stuck = world.primary(sef, "b")
    sef.register_agent("b", {"cutover": {"elastic_ip": "eipalloc-0123abcd"}})
    world.signal(sef, TERMINATION, "a", instance_id=moved)
    world.signal(sef, TERMINATION, "b", instance_id=stuck)
    *_, cutovers = run(world)
    by_status = {row["status"]: row for row in cutovers}
    assert {status: int(row["cutovers"]) for status, row in by_status.items()} == {
        "done": 1,
        "needs_operator": 1,
    }
    assert float(by_status["done"]["avg_seconds_to_served"]) == 0
    assert int(by_status["needs_operator"]["failed_steps"]) == 1
    assert by_status["needs_operator"]["avg_seconds_to_served"] is None


def total(rows: list[dict[str, Any]]) -> int:
    """Return the number of points, from a column of counts or from a column for each flag."""
    points = 0
    for row in rows:
        counts = [int(v) for k, v in row.items() if is_number(v) and "percent" not in k.lower()]
        flags = [int(row[k]) for k in row if k in ("normal", "interpolated")]
        points += counts[0] if not flags else max(counts)
    return points


def first(row: dict[str, Any], name: str) -> Any:
    return next(v for k, v in row.items() if k.lower() == name)


def is_number(value: Any) -> bool:
    return not isinstance(value, str | bool) and value is not None and hasattr(value, "__float__")


@ON_MARIADB
def test_the_queries_run_on_an_empty_database(world: World) -> None:
    world.sef()
    assert all(rows == [] or set(rows[0].values()) <= {None, 0} for rows in run(world))
