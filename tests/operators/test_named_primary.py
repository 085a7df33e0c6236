"""An operator names the primary by hand."""

import pytest

from sef.errors import Conflict
from tests.harness import ALIVE, ONCE, TERMINATION, World


@ONCE
def test_what_sef_launched_and_runs_on_is_said_with_the_command_that_ends_it(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    answer = world.signal(sef, TERMINATION, instance_id=world.primary(sef))
    former = answer["new_instance_id"]
    mine = world.launch()
    [warning] = sef.register_agent("a", {"instance_id": mine})["warnings"]
    assert f"aws ec2 terminate-instances --instance-ids {former}" in warning
    [event] = world.events("primary_left")
    assert (event.severity, event.message) == ("warning", f"SEF: {warning}")
    [note] = [n for n in world.rows("notifications") if n.title.endswith("primary left")]
    assert note.kind == "alert"

    for _ in range(3):
        world.settle(sef, 3600)
    assert world.state(former) in ALIVE
    [shown] = sef.get_agent_status("a")["former_primaries"]
    assert (shown["instance_id"], shown["terminated_at"]) == (former, None)

    world.client.terminate_instances(InstanceIds=[former])
    world.settle(sef, 60)
    assert sef.get_agent_status("a")["former_primaries"] == []


@ONCE
def test_nothing_is_said_of_what_sef_did_not_launch_or_what_stays(world: World) -> None:
    sef = world.sef()
    own = world.primary(sef)
    assert sef.register_agent("a", {"instance_id": world.launch()})["warnings"] == []
    assert sef.register_agent("a", {"instance_id": own, "drill_interval": 600})["warnings"] == []
    assert world.events("primary_left") == []


@ONCE
def test_the_standby_cannot_be_named_the_primary_and_is_not_ended_for_it(world: World) -> None:
    """It would be released as a standby that nobody wants, while it serves."""
    sef = world.sef()
    primary = world.primary(sef)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    with pytest.raises(Conflict) as refused:
        sef.register_agent("a", {"instance_id": standby})
    assert (refused.value.status, refused.value.reason) == (409, "instance_is_standby")
    assert "manual-switch" in refused.value.message
    assert world.agent().instance_id == primary
    assert world.agent().epoch == 1
