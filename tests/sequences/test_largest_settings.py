"""Each setting at its maximum: failovers, losses, drills and views work, and no time overflows."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from sef.config import Settings
from sef.errors import SefError
from sef.terms import LONGEST_SPAN
from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import owner
from tests.harness import POOL, REBALANCE, TERMINATION, World

DAY = 86_400

NOT_OF_A_WORKER = {"host", "port", "workers", "threads", "cloud", "region", "ec2_endpoint"}
"""Settings of the server and of the connection, which no sequence reads."""


def largest(name: str) -> Any:
    """Return the maximum of a number, True for a boolean, and None for a text."""
    field = Settings.model_fields[name]
    maxima = [bound.le for bound in field.metadata if hasattr(bound, "le")]
    if field.annotation is bool:
        return True
    return maxima[0] if maxima else None


LARGEST = {name: largest(name) for name in Settings.model_fields if name not in NOT_OF_A_WORKER}
NAMES = [name for name, value in LARGEST.items() if value is not None]
ALONE = "simulator_pending_seconds"
"""With this setting at its maximum, no instance ever runs."""
GROUPS = [[ALONE], *([n for n in NAMES if n != ALONE][start::8] for start in range(8))]
"""A story needs seconds, so several settings share one."""


def report(world: World, sef: SmartEmergencyFallback, **fields: Any) -> None:
    payload = {"spot_price": 0.04, "pool_id": POOL, "timestamp": world.clock().isoformat()}
    assert sef.process_incoming_data("a", "pricing", payload | fields)["status"] != "rejected"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # the faster one
@pytest.mark.parametrize("names", GROUPS, ids="+".join)
def test_a_failover_a_loss_a_drill_and_the_views(world: World, names: list[str]) -> None:
    settings = {"silence_threshold_seconds": 60} | {name: LARGEST[name] for name in names}
    if "enable_wait_seconds" in names:
        # The wait is real, and the clock of the world stands still.
        settings["enable_wait_seconds"] = 1
    if ALONE in names:
        settings["launch_timeout_seconds"] = LARGEST["launch_timeout_seconds"]
    sef, primary, _ = owner(world, "elastic_ip", **settings)
    report(world, sef, instance_id=primary)
    world.clock.advance(1000)
    report(world, sef, instance_id=primary)
    report(world, sef, is_replica=True)

    world.signal(sef, REBALANCE, instance_id=primary)
    world.settle(sef, 20)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    world.settle(sef, 20)
    serving = world.agent().instance_id
    world.signal(sef, TERMINATION, instance_id=serving)
    run_jobs(world, sef)
    assert (world.agent().instance_id != serving) == (ALONE not in names)

    sef.register_agent("a", {"drill_interval": LONGEST_SPAN})
    run_jobs(world, sef)
    sef.register_agent("a", {"drill_interval": 600})
    world.clock.advance(DAY)
    run_jobs(world, sef)
    sef.set_auto_mode("a", "auto-switch", enabled=False)
    sef.enable_manual_replica_mode("a")
    run_jobs(world, sef)
    world.client.terminate_instances(InstanceIds=[world.agent().instance_id])
    run_jobs(world, sef)
    look(world, sef)


def run_jobs(world: World, sef: SmartEmergencyFallback) -> None:
    """Run every periodic job, several times."""
    for _ in range(3):
        world.settle(sef, 61)
        sef.detect_losses()
        sef.sweep_orphans()
        sef.plan_switchovers()
        sef.cleanup_old_buffers()
        sef.delete_old_prices()
        sef.deliver_notifications()
        assert sef.holds_lease("job", timedelta(seconds=LONGEST_SPAN))


def look(world: World, sef: SmartEmergencyFallback) -> None:
    """Read every view, and make every plan."""
    assert sef.get_agent_status("a")["status"] == "success"
    assert sef.list_agents()
    assert sef.list_pools()
    assert sef.price_series("a")
    assert sef.agent_events("a")
    for entry in sef.agent_incidents("a"):
        assert sef.get_incident(entry["id"])["status"] == "success"
    now = world.clock().isoformat()
    sef.handle_termination_notice("a", {"timestamp": now}, dry_run=True)
    sef.handle_rebalance_recommendation("a", {"timestamp": now}, dry_run=True)
    with suppress(SefError):  # there may be no standby to switch to
        sef.execute_manual_switch("a", dry_run=True)
