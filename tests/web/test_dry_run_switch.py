"""`dry_run` of a manual switch answers with its plan and changes nothing."""

import pytest

from sef.simulator.client import Simulation
from tests.web.dry_run_harness import Harness, manual, steps


@pytest.mark.databases("sqlite", "mariadb")
def test_the_plan_of_a_switch_equals_its_execution(harness: Harness) -> None:
    manual(harness)
    old = harness.primary()
    planned = harness.unchanged(lambda: harness.post("manual-switch?dry_run=true"))
    assert (planned["code"], planned["dry_run"]) == (200, True)
    assert steps(planned) == ["promote", "terminate", "launch"]
    assert planned["plan"][1]["instance_id"] == old
    assert planned["budget"]["deadline"] is None
    assert harness.unchanged(lambda: harness.post("manual-switch", {"dry_run": True})) == planned
    done = harness.post("manual-switch", {"dry_run": False})
    for name in ("old_instance_id", "new_instance_id", "epoch"):
        assert done[name] == planned[name]
    assert done["replica"]["pool_id"] == planned["plan"][2]["candidates"][0]["pool_id"]


def test_a_dry_run_of_a_switch_fails_like_a_switch(
    harness: Harness, simulation: Simulation
) -> None:
    def assert_fails(reason: str, code: int = 409) -> None:
        answer = harness.unchanged(lambda: harness.post("manual-switch?dry_run=true"))
        assert (answer["code"], answer["reason"]) == (code, reason)

    assert_fails("manual_mode_not_enabled")
    simulation.set_options(pending_seconds=600)
    try:
        harness.post("manual-replica/enable")
        assert_fails("replica_not_ready")
    finally:
        simulation.set_options(pending_seconds=0)
    manual(harness)
    simulation.add_fault("DescribeInstances", error_code="RequestLimitExceeded")
    try:
        assert_fails("cloud_unavailable", 503)
    finally:
        simulation.clear_faults()
    standby = harness.client.get("/api/agents/a/sef-status").json["replica"]["instance_id"]
    simulation.terminate(standby)
    assert_fails("no_replica")


def test_a_dry_run_does_not_use_up_an_idempotency_key(harness: Harness) -> None:
    manual(harness)
    headers = {"Idempotency-Key": "k"}
    path = "/api/agents/a/manual-switch"
    harness.unchanged(lambda: harness.client.post(f"{path}?dry_run=true", headers=headers).json)
    assert harness.client.post(path, headers=headers).json["epoch"] == 3
