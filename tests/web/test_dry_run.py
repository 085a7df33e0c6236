"""`dry_run` answers with the plan of an interruption or a switch and changes nothing."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import insert, select

from sef.db.tables import incidents, metadata, replica_instances
from sef.simulator.client import Simulation
from tests.db.rows import transaction

POOL = "m5.large.us-east-1a"
REBALANCE = "rebalance-recommendation"
TERMINATION = "termination-notice"


class Stage:
    """An agent on an application whose calls to EC2 are counted."""

    def __init__(self, app: Flask, database_url: str) -> None:
        self.client: FlaskClient = app.test_client()
        self._url = database_url
        self.calls: list[str] = []
        events = app.extensions["sef"]._context.ec2._client.meta.events
        self._unregister = lambda: events.unregister("before-call", self._count)
        events.register("before-call", self._count)
        self.at = datetime.now(UTC)

    def _count(self, model: Any, **_: Any) -> None:
        self.calls.append(model.name)

    def close(self) -> None:
        self._unregister()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.client.post(f"/api/agents/a/{path}", json=body)
        return answer.json | {"code": answer.status_code}

    def signal(self, kind: str, query: str = "", **more: Any) -> Any:
        body = {"signal_type": kind, "timestamp": self.at.isoformat(), **more}
        return self.post(f"interruption{query}", body)

    def primary(self) -> str:
        answer = self.client.get("/api/agents/a/sef-status").json
        return str(answer["agent"]["instance_id"])

    def dump(self) -> dict[str, list[Any]]:
        with transaction(self._url) as connection:
            return {
                table.name: sorted(map(repr, connection.execute(select(table))))
                for table in metadata.sorted_tables
            }

    def unchanged(self, call: Callable[[], Any]) -> Any:
        """Return the answer of a call; check that the call changes no row and nothing in EC2."""
        before = self.dump()
        self.calls.clear()
        answer = call()
        assert self.dump() == before
        assert [name for name in self.calls if not name.startswith("Describe")] == []
        return answer

    def insert(self, table: Any, **columns: Any) -> None:
        with transaction(self._url) as connection:
            connection.execute(insert(table).values(**columns))


@pytest.fixture
def stage(
    make_app: Callable[..., Flask],
    simulated_folder: Path,
    simulation: Simulation,
    database_url: str,
) -> Iterator[Stage]:
    """An agent without a mode, with a running primary."""
    stage = Stage(make_app(var=simulated_folder, enable_wait_seconds=0.5), database_url)
    stage.client.put("/api/agents/a", json={"pool_id": POOL})
    stage.post("manual-replica/enable")
    assert stage.post("manual-switch")["code"] == 200
    stage.post("manual-replica/disable")
    yield stage
    stage.close()


def steps(answer: Any) -> list[str]:
    return [step["step"] for step in answer["plan"]]


def nothing(stage: Stage) -> None:
    pass


def with_standby(stage: Stage) -> None:
    assert stage.signal(REBALANCE)["action"] == "standby_ready"


def manual(stage: Stage) -> None:
    assert stage.post("manual-replica/enable")["replica"]["status"] == "ready"


def auto(stage: Stage) -> None:
    stage.post("auto-switch/enable")
    stage.post("auto-terminate/enable")


def calm(stage: Stage) -> None:
    agent = stage.client.get("/api/agents/a/sef-status").json["agent"]
    for number in range(30):
        stage.insert(
            incidents,
            id=f"past-{number}",
            agent_id="somebody",
            subject=f"i-{number}",
            pool_id=agent["pool_id"],
            status="released",
            goal="monitor",
            reason="long ago",
            rebalance_at=stage.at - timedelta(days=1),
            opened_at=stage.at - timedelta(days=1),
        )


SITUATIONS = [
    pytest.param(
        nothing, REBALANCE, "standby", ["launch", "stand_by"], id="recommendation: a standby"
    ),
    pytest.param(
        nothing, TERMINATION, "switch", ["launch", "promote", "leave"], id="notice: an emergency"
    ),
    pytest.param(
        with_standby, TERMINATION, "switch", ["promote", "leave"], id="notice: a standby is ready"
    ),
    pytest.param(
        manual,
        TERMINATION,
        "switch",
        ["promote", "leave", "launch"],
        id="notice in manual mode: and the next standby",
    ),
    pytest.param(
        auto,
        REBALANCE,
        "standby",
        ["launch", "promote", "terminate"],
        id="recommendation with the auto modes",
    ),
    pytest.param(calm, REBALANCE, "monitor", ["monitor"], id="recommendation in a calm pool"),
]


@pytest.mark.parametrize(("prepare", "kind", "goal", "plan"), SITUATIONS)
@pytest.mark.databases("sqlite", "mariadb")
def test_the_plan_of_a_signal_equals_its_execution(
    stage: Stage, prepare: Callable[[Stage], None], kind: str, goal: str, plan: list[str]
) -> None:
    prepare(stage)
    old = stage.primary()
    stage.at += timedelta(seconds=1)

    planned = stage.unchanged(lambda: stage.signal(kind, "?dry_run=true", instance_id=old))

    assert (planned["code"], planned["status"], planned["dry_run"]) == (200, "success", True)
    assert (planned["goal"], steps(planned)) == (goal, plan)
    assert all(step["sentence"] and step["problem"] is None for step in planned["plan"])

    done = stage.signal(kind, instance_id=old)
    story = stage.client.get(f"/api/incidents/{done['incident_id']}").json
    decision = next(e for e in reversed(story["timeline"]) if e["type"] == kind.replace("-", "_"))
    assert (story["incident"]["goal"], story["incident"]["reason"]) == (goal, planned["reason"])
    for name in ("risk", "threshold", "mode"):
        assert decision["details"][name] == planned[name]
    launches = [step for step in planned["plan"] if step["step"] == "launch"]
    if launches and plan[0] == "launch":
        run = next(e for e in story["timeline"] if e["type"] == "RunInstances")
        best = launches[0]["candidates"][0]
        assert (run["details"]["pool_id"], run["details"]["market"]) == (
            best["pool_id"],
            best["market"],
        )
    assert (stage.primary() != old) == ("promote" in plan)
    if plan[0] == "promote":
        assert planned["plan"][0]["instance_id"] == stage.primary()
        assert planned["action"] == done["action"] == "promoted"


@pytest.mark.parametrize("where", ["query", "body"])
def test_dry_run_is_a_query_parameter_or_a_field(stage: Stage, where: str) -> None:
    query = "?dry_run=true" if where == "query" else ""
    body = {"dry_run": True} if where == "body" else {}
    answer = stage.unchanged(lambda: stage.signal(TERMINATION, query, **body))
    assert answer["dry_run"] is True
    assert stage.signal(TERMINATION, "?dry_run=false", dry_run=False)["action"] == "promoted"


@pytest.mark.parametrize("value", ["yes", "1", "", "TRUE"])
def test_another_value_than_true_or_false_is_rejected(stage: Stage, value: str) -> None:
    manual(stage)
    for call in (
        lambda: stage.signal(TERMINATION, f"?dry_run={value}"),
        lambda: stage.signal(TERMINATION, dry_run=value),
        lambda: stage.post(f"manual-switch?dry_run={value}"),
        lambda: stage.post("manual-switch", {"dry_run": value}),
    ):
        answer = stage.unchanged(call)
        assert (answer["code"], answer["reason"]) == (400, "invalid_dry_run")


def test_a_misspelt_dry_run_is_rejected(stage: Stage) -> None:
    manual(stage)
    calls = {
        "unknown_argument": [
            lambda: stage.signal(TERMINATION, "?dryrun=true"),
            lambda: stage.post("manual-switch?dry-run=true"),
            lambda: stage.post("manual-replica/disable?dry_run=true"),
            lambda: stage.post("auto-switch/disable?dry_run=true"),
        ],
        "unknown_field": [
            lambda: stage.signal(TERMINATION, dryRun=True),
            lambda: stage.signal(TERMINATION, **{"dry-run": True}),
            lambda: stage.post("manual-switch", {"dryrun": True}),
        ],
    }
    for reason, of_reason in calls.items():
        for call in of_reason:
            answer = stage.unchanged(call)
            assert (answer["code"], answer["reason"]) == (400, reason)


def test_a_signal_may_have_unknown_fields(stage: Stage) -> None:
    assert stage.signal(TERMINATION, action="terminate")["action"] == "promoted"


def test_only_an_open_incident_has_an_id_in_the_plan(stage: Stage) -> None:
    assert stage.signal(REBALANCE, "?dry_run=true")["incident_id"] is None
    incident = stage.signal(REBALANCE)["incident_id"]
    assert stage.signal(REBALANCE, "?dry_run=true")["incident_id"] == incident


def test_an_ignored_signal_has_an_empty_plan(stage: Stage) -> None:
    answer = stage.unchanged(
        lambda: stage.signal(TERMINATION, "?dry_run=true", instance_id="i-0other")
    )
    assert (answer["action"], answer["plan"]) == ("ignored", [])


def test_a_signal_about_the_standby_plans_its_replacement(stage: Stage) -> None:
    manual(stage)
    standby = stage.client.get("/api/agents/a/sef-status").json["replica"]["instance_id"]
    answer = stage.unchanged(
        lambda: stage.signal(TERMINATION, "?dry_run=true", instance_id=standby)
    )
    assert answer["action"] == "standby_replaced"
    assert steps(answer) == ["launch"]


def test_a_terminated_standby_is_not_part_of_the_plan(stage: Stage, simulation: Simulation) -> None:
    with_standby(stage)
    standby = stage.client.get("/api/agents/a/sef-status").json["replica"]["instance_id"]
    simulation.terminate(standby)
    answer = stage.unchanged(
        lambda: stage.signal(TERMINATION, "?dry_run=true", instance_id=stage.primary())
    )
    assert steps(answer) == ["launch", "promote", "leave"]


def test_a_plan_does_not_count_its_own_failover(stage: Stage) -> None:
    with_standby(stage)
    answer = stage.signal(TERMINATION, "?dry_run=true", instance_id=stage.primary())
    [promote] = [step for step in answer["plan"] if step["step"] == "promote"]
    assert promote["basis"] == "no failovers to a standby that was ready so far"


def test_the_budget_uses_the_durations_of_the_past(stage: Stage) -> None:
    fresh = stage.signal(TERMINATION, "?dry_run=true")
    [launch, promote, _] = fresh["plan"]
    assert launch["basis"] == "the median of the last 2 spot launches"
    assert promote["expected_seconds"] is None
    assert promote["basis"] == "no failovers to a standby that was ready so far"
    assert fresh["budget"]["expected_seconds"] is None
    assert fresh["budget"]["is_enough"] is None

    before = stage.at - timedelta(days=1)
    for number, seconds in enumerate((40, 50, 60)):
        replica = f"replica-{number}"
        stage.insert(
            replica_instances,
            id=replica,
            agent_id="somebody",
            instance_id=f"i-{uuid4().hex}",
            replica_type="manual",
            market="spot",
            status="terminated",
            reason="long ago",
            created_at=before,
            ready_at=before + timedelta(seconds=seconds),
        )
        stage.insert(
            incidents,
            id=f"past-{number}",
            agent_id="somebody",
            subject=f"i-{number}",
            status="done",
            goal="switch",
            reason="long ago",
            termination_at=before + timedelta(seconds=61),
            failover_time_ms=1000 * (number + 1),
            replica_id=replica,
            opened_at=before,
        )

    answer = stage.unchanged(lambda: stage.signal(TERMINATION, "?dry_run=true"))

    [launch, promote, _] = answer["plan"]
    assert launch["expected_seconds"] == 40, (
        "the median of five launches, of which two took no time"
    )
    assert promote["expected_seconds"] == 2
    budget = answer["budget"]
    assert budget["expected_seconds"] == pytest.approx(launch["expected_seconds"] + 2)
    assert 100 < budget["seconds_left"] <= 120
    assert budget["is_enough"] is True
    soon = (datetime.now(UTC) + timedelta(seconds=10)).isoformat()
    late = stage.signal(TERMINATION, "?dry_run=true", termination_time=soon)
    assert late["budget"]["seconds_left"] <= 10
    assert late["budget"]["is_enough"] is False


def test_a_recommendation_has_no_deadline(stage: Stage) -> None:
    budget = stage.signal(REBALANCE, "?dry_run=true")["budget"]
    assert (budget["deadline"], budget["seconds_left"], budget["is_enough"]) == (None, None, None)


def test_the_plan_reports_that_ec2_is_unavailable(stage: Stage, simulation: Simulation) -> None:
    simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    try:
        answer = stage.unchanged(lambda: stage.signal(TERMINATION, "?dry_run=true"))
    finally:
        simulation.clear_faults()
    [launch] = answer["plan"]
    assert "RequestLimitExceeded" in launch["problem"]
    assert answer["goal"] == "switch"


def test_an_unknown_agent_is_not_found(stage: Stage) -> None:
    for path in ("interruption", "manual-switch"):
        body = {"signal_type": TERMINATION, "timestamp": 1700000000} if path[0] == "i" else None
        answer = stage.client.post(f"/api/agents/nobody/{path}?dry_run=true", json=body)
        assert (answer.status_code, answer.json["reason"]) == (404, "agent_not_found")


# The switch


@pytest.mark.databases("sqlite", "mariadb")
def test_the_plan_of_a_switch_equals_its_execution(stage: Stage) -> None:
    manual(stage)
    old = stage.primary()
    planned = stage.unchanged(lambda: stage.post("manual-switch?dry_run=true"))
    assert (planned["code"], planned["dry_run"]) == (200, True)
    assert steps(planned) == ["promote", "terminate", "launch"]
    assert planned["plan"][1]["instance_id"] == old
    assert planned["budget"]["deadline"] is None
    assert stage.unchanged(lambda: stage.post("manual-switch", {"dry_run": True})) == planned
    done = stage.post("manual-switch", {"dry_run": False})
    for name in ("old_instance_id", "new_instance_id", "epoch"):
        assert done[name] == planned[name]
    assert done["replica"]["pool_id"] == planned["plan"][2]["candidates"][0]["pool_id"]


def test_a_dry_run_of_a_switch_fails_like_a_switch(stage: Stage, simulation: Simulation) -> None:
    def assert_fails(reason: str, code: int = 409) -> None:
        answer = stage.unchanged(lambda: stage.post("manual-switch?dry_run=true"))
        assert (answer["code"], answer["reason"]) == (code, reason)

    assert_fails("manual_mode_not_enabled")
    simulation.set_options(pending_seconds=600)
    try:
        stage.post("manual-replica/enable")
        assert_fails("replica_not_ready")
    finally:
        simulation.set_options(pending_seconds=0)
    manual(stage)
    simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    try:
        assert_fails("cloud_unavailable", 503)
    finally:
        simulation.clear_faults()
    standby = stage.client.get("/api/agents/a/sef-status").json["replica"]["instance_id"]
    simulation.terminate(standby)
    assert_fails("no_replica")


def test_a_dry_run_does_not_use_up_an_idempotency_key(stage: Stage) -> None:
    manual(stage)
    headers = {"Idempotency-Key": "k"}
    path = "/api/agents/a/manual-switch"
    stage.unchanged(lambda: stage.client.post(f"{path}?dry_run=true", headers=headers).json)
    assert stage.client.post(path, headers=headers).json["epoch"] == 3
