"""`dry_run` of a signal answers with its plan and changes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from sef.db.tables import incidents, replica_instances
from sef.simulator.client import Simulation
from tests.web.dry_run_harness import Harness, manual, steps

REBALANCE = "rebalance-recommendation"
TERMINATION = "termination-notice"


def nothing(harness: Harness) -> None:
    pass


def with_standby(harness: Harness) -> None:
    assert harness.signal(REBALANCE)["action"] == "standby_ready"


def auto(harness: Harness) -> None:
    harness.post("auto-switch/enable")
    harness.post("auto-terminate/enable")


def calm(harness: Harness) -> None:
    agent = harness.client.get("/api/agents/a/sef-status").json["agent"]
    for number in range(30):
        harness.insert(
            incidents,
            id=f"past-{number}",
            agent_id="somebody",
            subject=f"i-{number}",
            pool_id=agent["pool_id"],
            status="released",
            goal="monitor",
            reason="long ago",
            rebalance_at=harness.at - timedelta(days=1),
            opened_at=harness.at - timedelta(days=1),
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
    harness: Harness, prepare: Callable[[Harness], None], kind: str, goal: str, plan: list[str]
) -> None:
    prepare(harness)
    old = harness.primary()
    harness.at += timedelta(seconds=1)

    planned = harness.unchanged(lambda: harness.signal(kind, "?dry_run=true", instance_id=old))

    assert (planned["code"], planned["status"], planned["dry_run"]) == (200, "success", True)
    assert (planned["goal"], steps(planned)) == (goal, plan)
    assert all(step["sentence"] and step["problem"] is None for step in planned["plan"])

    done = harness.signal(kind, instance_id=old)
    story = harness.client.get(f"/api/incidents/{done['incident_id']}").json
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
    assert (harness.primary() != old) == ("promote" in plan)
    if plan[0] == "promote":
        assert planned["plan"][0]["instance_id"] == harness.primary()
        assert planned["action"] == done["action"] == "promoted"


@pytest.mark.parametrize("where", ["query", "body"])
def test_dry_run_is_a_query_parameter_or_a_field(harness: Harness, where: str) -> None:
    query = "?dry_run=true" if where == "query" else ""
    body = {"dry_run": True} if where == "body" else {}
    answer = harness.unchanged(lambda: harness.signal(TERMINATION, query, **body))
    assert answer["dry_run"] is True
    assert harness.signal(TERMINATION, "?dry_run=false", dry_run=False)["action"] == "promoted"


@pytest.mark.parametrize("value", ["yes", "1", "", "TRUE"])
def test_another_value_than_true_or_false_is_rejected(harness: Harness, value: str) -> None:
    manual(harness)
    for call in (
        lambda: harness.signal(TERMINATION, f"?dry_run={value}"),
        lambda: harness.signal(TERMINATION, dry_run=value),
        lambda: harness.post(f"manual-switch?dry_run={value}"),
        lambda: harness.post("manual-switch", {"dry_run": value}),
    ):
        answer = harness.unchanged(call)
        assert (answer["code"], answer["reason"]) == (400, "invalid_dry_run")


def test_a_misspelt_dry_run_is_rejected(harness: Harness) -> None:
    manual(harness)
    calls = {
        "unknown_argument": [
            lambda: harness.signal(TERMINATION, "?dryrun=true"),
            lambda: harness.post("manual-switch?dry-run=true"),
            lambda: harness.post("manual-replica/disable?dry_run=true"),
            lambda: harness.post("auto-switch/disable?dry_run=true"),
        ],
        "unknown_field": [
            lambda: harness.signal(TERMINATION, dryRun=True),
            lambda: harness.signal(TERMINATION, **{"dry-run": True}),
            lambda: harness.post("manual-switch", {"dryrun": True}),
        ],
    }
    for reason, of_reason in calls.items():
        for call in of_reason:
            answer = harness.unchanged(call)
            assert (answer["code"], answer["reason"]) == (400, reason)


def test_a_signal_may_have_unknown_fields(harness: Harness) -> None:
    assert harness.signal(TERMINATION, action="terminate")["action"] == "promoted"


def test_only_an_open_incident_has_an_id_in_the_plan(harness: Harness) -> None:
    assert harness.signal(REBALANCE, "?dry_run=true")["incident_id"] is None
    incident = harness.signal(REBALANCE)["incident_id"]
    assert harness.signal(REBALANCE, "?dry_run=true")["incident_id"] == incident


def test_an_ignored_signal_has_an_empty_plan(harness: Harness) -> None:
    answer = harness.unchanged(
        lambda: harness.signal(TERMINATION, "?dry_run=true", instance_id="i-0other")
    )
    assert (answer["action"], answer["plan"]) == ("ignored", [])


def test_a_signal_about_the_standby_plans_its_replacement(harness: Harness) -> None:
    manual(harness)
    standby = harness.client.get("/api/agents/a/sef-status").json["replica"]["instance_id"]
    answer = harness.unchanged(
        lambda: harness.signal(TERMINATION, "?dry_run=true", instance_id=standby)
    )
    assert answer["action"] == "standby_replaced"
    assert steps(answer) == ["launch"]


def test_a_terminated_standby_is_not_part_of_the_plan(
    harness: Harness, simulation: Simulation
) -> None:
    with_standby(harness)
    standby = harness.client.get("/api/agents/a/sef-status").json["replica"]["instance_id"]
    simulation.terminate(standby)
    answer = harness.unchanged(
        lambda: harness.signal(TERMINATION, "?dry_run=true", instance_id=harness.primary())
    )
    assert steps(answer) == ["launch", "promote", "leave"]


def test_a_plan_does_not_count_its_own_failover(harness: Harness) -> None:
    with_standby(harness)
    answer = harness.signal(TERMINATION, "?dry_run=true", instance_id=harness.primary())
    [promote] = [step for step in answer["plan"] if step["step"] == "promote"]
    assert promote["basis"] == "no failovers to a standby that was ready so far"


def test_the_budget_uses_the_durations_of_the_past(harness: Harness) -> None:
    fresh = harness.signal(TERMINATION, "?dry_run=true")
    [launch, promote, _] = fresh["plan"]
    assert launch["basis"] == "the median of the last 2 spot launches"
    assert promote["expected_seconds"] is None
    assert promote["basis"] == "no failovers to a standby that was ready so far"
    assert fresh["budget"]["expected_seconds"] is None
    assert fresh["budget"]["is_enough"] is None

    before = harness.at - timedelta(days=1)
    for number, seconds in enumerate((40, 50, 60)):
        replica = f"replica-{number}"
        harness.insert(
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
        harness.insert(
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

    answer = harness.unchanged(lambda: harness.signal(TERMINATION, "?dry_run=true"))

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
    late = harness.signal(TERMINATION, "?dry_run=true", termination_time=soon)
    assert late["budget"]["seconds_left"] <= 10
    assert late["budget"]["is_enough"] is False


def test_a_recommendation_has_no_deadline(harness: Harness) -> None:
    budget = harness.signal(REBALANCE, "?dry_run=true")["budget"]
    assert (budget["deadline"], budget["seconds_left"], budget["is_enough"]) == (None, None, None)


def test_the_plan_reports_that_ec2_is_unavailable(harness: Harness, simulation: Simulation) -> None:
    simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    try:
        answer = harness.unchanged(lambda: harness.signal(TERMINATION, "?dry_run=true"))
    finally:
        simulation.clear_faults()
    [launch] = answer["plan"]
    assert "RequestLimitExceeded" in launch["problem"]
    assert answer["goal"] == "switch"


def test_an_unknown_agent_is_not_found(harness: Harness) -> None:
    for path in ("interruption", "manual-switch"):
        body = {"signal_type": TERMINATION, "timestamp": 1700000000} if path[0] == "i" else None
        answer = harness.client.post(f"/api/agents/nobody/{path}?dry_run=true", json=body)
        assert (answer.status_code, answer.json["reason"]) == (404, "agent_not_found")
