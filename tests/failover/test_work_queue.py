"""The work queue of a pass: its agents, their order, and their lanes."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from sef.db.database import Database
from sef.db.tables import agents, incidents, retirements
from sef.failover.work_queue import Lane, agents_with_work

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.create_tables()
    yield database
    database.dispose()


def seconds(count: float) -> datetime:
    return NOW + timedelta(seconds=count)


def incident(agent_id: str, goal: str, kind: str = "interruption", **more: Any) -> dict[str, Any]:
    return {
        "id": f"incident-{agent_id}",
        "agent_id": agent_id,
        "open_agent_id": agent_id,
        "subject": "i-1",
        "kind": kind,
        "status": "open",
        "goal": goal,
        "reason": "",
        "deadline": None,
        "opened_at": NOW,
    } | more


def write(
    database: Database, rows: list[dict[str, Any]], not_before: dict[str, datetime] | None = None
) -> None:
    def insert_rows(connection: Any) -> None:
        for row in rows:
            values = {"id": row["agent_id"], "created_at": NOW, "updated_at": NOW}
            values["not_before"] = (not_before or {}).get(row["agent_id"])
            connection.execute(insert(agents).values(values))
        connection.execute(insert(incidents), rows)

    database.write(insert_rows)


def due(database: Database) -> list[tuple[str, Lane]]:
    items = database.read(
        agents_with_work, NOW, checked_before=seconds(-30), recommended_after=seconds(-7200)
    )
    return [(item.agent_id, item.lane) for item in items]


def test_emergencies_come_first_by_their_deadline(database: Database) -> None:
    write(
        database,
        [
            incident("a-drill", "switch", "drill"),
            incident("b-return", "switch", "return-to-spot"),
            incident("c-standby", "standby"),
            incident("d-later", "switch", deadline=seconds(100)),
            incident("e-lost", "switch", "loss", deadline=seconds(-10)),
            incident("f-sooner", "switch", deadline=seconds(30)),
        ],
    )
    assert due(database) == [
        ("e-lost", Lane.URGENT),
        ("f-sooner", Lane.URGENT),
        ("d-later", Lane.URGENT),
        ("a-drill", Lane.ORDINARY),
        ("b-return", Lane.ORDINARY),
        ("c-standby", Lane.ORDINARY),
    ]


@pytest.mark.parametrize(
    ("not_before", "lane"),
    [
        (None, Lane.URGENT),
        (seconds(0), Lane.RETRY),
        (seconds(-59), Lane.RETRY),
        (seconds(-61), Lane.URGENT),
        (seconds(1), None),
        (seconds(86_400), Lane.URGENT),  # by a wrong clock
    ],
)
def test_an_agent_whose_pause_ended_a_moment_ago_is_in_the_retry_lane(
    database: Database, not_before: datetime | None, lane: Lane | None
) -> None:
    pauses = {} if not_before is None else {"a": not_before}
    write(database, [incident("a", "switch", deadline=seconds(9))], pauses)
    assert due(database) == ([] if lane is None else [("a", lane)])


def test_many_monitored_agents_hide_no_other_work(database: Database) -> None:
    watched = [incident(f"a-{n:04}", "monitor") for n in range(700)]
    write(database, [*watched, incident("z", "switch", deadline=seconds(90))])
    retirement = {
        "instance_id": "i-9",
        "agent_id": "a-0699",
        "reason": "",
        "since": NOW,
        "terminate_after": NOW,
    }
    database.write(lambda c: c.execute(insert(retirements), [retirement]))
    work = due(database)
    assert work[0] == ("z", Lane.URGENT)
    assert len(work) == 701
