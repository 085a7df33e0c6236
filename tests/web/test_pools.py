"""GET /api/pools: the history and the risk of each pool."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import insert

from sef.db.tables import incidents, spot_interruption_events, unavailable_pools
from tests.db.rows import transaction

NOW = datetime.now(UTC)
TTL = timedelta(hours=2)
POOL = "m5.large.us-east-1a"
Put = Callable[..., None]


@pytest.fixture
def put(database_url: str) -> Put:
    """Insert past incidents. Both times are durations before now."""
    count = iter(range(1000))

    def write(
        recommended: timedelta | None, terminated: timedelta | None, pool: str = POOL, **more: Any
    ) -> None:
        name = f"incident-{next(count)}"
        recommended_at = None if recommended is None else NOW - recommended
        incident = {
            "id": name,
            "agent_id": "somebody",
            "subject": name,
            "pool_id": pool,
            "status": "done",
            "goal": "switch",
            "reason": "long ago",
            "rebalance_at": recommended_at,
            "termination_at": None if terminated is None else NOW - terminated,
            "opened_at": NOW - (recommended or terminated or timedelta(0)),
            **more,
        }
        with transaction(database_url) as connection:
            connection.execute(insert(incidents).values(incident))
            if recommended_at is not None:
                connection.execute(
                    insert(spot_interruption_events).values(
                        incident_id=name,
                        agent_id="somebody",
                        signal_type="rebalance-recommendation",
                        detected_at=recommended_at,
                        signalled_at=recommended_at,
                        last_received_at=recommended_at,
                    )
                )

    return write


def shown_pools(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/api/pools")
    assert (answer.status_code, answer.json["status"]) == (200, "success")
    assert [p["pool_id"] for p in answer.json["pools"]] == sorted(
        p["pool_id"] for p in answer.json["pools"]
    )
    return {entry["pool_id"]: entry for entry in answer.json["pools"]}


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def test_without_history_the_list_is_empty(client: FlaskClient) -> None:
    assert shown_pools(client) == {}


@pytest.mark.databases("sqlite", "mariadb")
def test_precision_recall_and_lead_time_are_computed_from_past_incidents(
    client: FlaskClient, put: Put
) -> None:
    put(hours(30), hours(29))  # an hour before the termination
    put(hours(20), hours(19.5))
    put(hours(10), hours(9.75))
    put(hours(5), None)  # a false alarm
    put(None, hours(4))  # without a recommendation
    put(None, hours(3), kind="loss")
    put(hours(1), hours(0.9), pool="m5.large.us-east-1b")

    entry = shown_pools(client)[POOL]

    assert entry == {
        "pool_id": POOL,
        "agents": 0,
        "recommendations": 4,
        "followed": 3,
        "terminations": 5,
        "precision": 0.75,
        "recall": 0.6,
        "lead_time_seconds": {"least": 900, "median": 1800, "most": 3600},
        "risk": {
            "score": 0.7,
            "reasons": [
                "5 of 6 incidents in this pool ended in a termination, prior 0.50: 0.70",
                "a recommendation preceded 3 of 5 terminations",
            ],
        },
        "cooldowns": [],
    }


@pytest.mark.parametrize(
    ("recommended", "terminated", "more", "counts"),
    [
        pytest.param(TTL - hours(1), None, {}, None, id="not settled yet"),
        pytest.param(TTL + hours(1), None, {}, (1, 0, 0), id="settled by time"),
        pytest.param(hours(1), hours(0.9), {}, (1, 1, 1), id="settled by its termination"),
        pytest.param(hours(24 * 91), None, {}, None, id="older than 90 days"),
        pytest.param(None, hours(24 * 91), {}, None, id="a termination older than that"),
        pytest.param(None, None, {"kind": "drill"}, None, id="a drill does not count"),
    ],
)
@pytest.mark.databases("sqlite", "mariadb")
def test_incidents_count_once_they_are_settled(
    client: FlaskClient, put: Put, recommended: Any, terminated: Any, more: Any, counts: Any
) -> None:
    put(recommended, terminated, **more)
    entry = shown_pools(client).get(POOL)
    counted = entry and (entry["recommendations"], entry["followed"], entry["terminations"])
    assert counted == counts


@pytest.mark.databases("sqlite", "mariadb")
def test_pools_with_a_primary_or_a_cooldown_are_listed_without_history(
    client: FlaskClient, database_url: str
) -> None:
    for agent, pool in (("a", "p"), ("b", "p"), ("c", "q")):
        client.put(f"/api/agents/{agent}", json={"pool_id": pool})
    until = datetime.now(UTC) + hours(1)
    rows = [("r", "spot", until), ("s", "spot", until - hours(2)), ("p", "on-demand", until)]
    with transaction(database_url) as connection:
        for pool, market, end in rows:
            row = {"pool_id": pool, "market": market, "error_code": "Interrupted", "until": end}
            connection.execute(insert(unavailable_pools).values(row))

    pools = shown_pools(client)

    assert {name: entry["agents"] for name, entry in pools.items()} == {"p": 2, "q": 1, "r": 0}
    assert [c["market"] for c in pools["p"]["cooldowns"]] == ["on-demand"]
    assert pools["q"]["cooldowns"] == []
    [cooldown] = pools["r"]["cooldowns"]
    assert cooldown["reason"] == "Interrupted"
    assert datetime.fromisoformat(cooldown["until"]) == until
    assert pools["q"]["risk"] == {"score": 0.5, "reasons": ["no history in this pool, prior 0.50"]}
    assert (pools["q"]["precision"], pools["q"]["recall"]) == (None, None)
    assert pools["q"]["lead_time_seconds"] is None


def test_signals_extend_the_history(cloud_client: FlaskClient) -> None:
    cloud_client.put("/api/agents/a", json={"instance_id": "i-0a", "pool_id": POOL})
    cloud_client.put("/api/agents/b", json={"instance_id": "i-0b", "pool_id": POOL})
    for agent, signal in (
        ("a", "rebalance-recommendation"),
        ("a", "termination-notice"),
        ("b", "termination-notice"),
        ("b", "rebalance-recommendation"),  # after the notice, so it was no warning
    ):
        answer = cloud_client.post(
            f"/api/agents/{agent}/interruption",
            json={
                "signal_type": signal,
                "timestamp": datetime.now(UTC).isoformat(),
                "instance_id": f"i-0{agent}",
            },
        )
        assert answer.status_code == 200
    entry = shown_pools(cloud_client)[POOL]
    assert (entry["recommendations"], entry["followed"], entry["terminations"]) == (1, 1, 2)
    assert (entry["precision"], entry["recall"]) == (1, 0.5)
    assert entry["lead_time_seconds"]["least"] >= 0
    assert [c["reason"] for c in entry["cooldowns"]] == ["Interrupted"]
