"""An operator names another instance as the primary."""

import pytest

from sef.errors import Conflict
from tests.harness import ALIVE, ONCE, TERMINATION, World


@ONCE
def test_a_warning_names_the_command_that_terminates_the_former_primary(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    announced = world.primary(sef)
    answer = world.signal(sef, TERMINATION, instance_id=announced)
    world.simulation.terminate(announced)
    former = answer["new_instance_id"]
    named = world.launch()
    [warning] = sef.register_agent("a", {"instance_id": named})["warnings"]
    assert f"aws ec2 terminate-instances --instance-ids {former}" in warning
    [event] = world.events("primary_left")
    assert (event.severity, event.message) == ("warning", f"SEF: {warning}")
    [notification] = [n for n in world.rows("notifications") if n.title.endswith("primary left")]
    assert notification.kind == "alert"

    for _ in range(3):
        world.settle(sef, 3600)
    assert world.state(former) in ALIVE
    [shown] = sef.get_agent_status("a")["former_primaries"]
    assert (shown["instance_id"], shown["terminated_at"]) == (former, None)

    world.client.terminate_instances(InstanceIds=[former])
    world.settle(sef, 60)
    assert sef.get_agent_status("a")["former_primaries"] == []


@ONCE
def test_no_warning_without_a_former_primary_that_sef_launched(world: World) -> None:
    sef = world.sef()
    own = world.primary(sef)
    assert sef.register_agent("a", {"instance_id": world.launch()})["warnings"] == []
    assert sef.register_agent("a", {"instance_id": own, "drill_interval": 600})["warnings"] == []
    assert world.events("primary_left") == []


@ONCE
def test_the_standby_cannot_be_named_as_the_primary(world: World) -> None:
    """Else SEF could release and terminate it as an unneeded standby while it serves."""
    sef = world.sef()
    primary = world.primary(sef)
    standby = sef.enable_manual_replica_mode("a")["replica"]["instance_id"]
    with pytest.raises(Conflict) as caught:
        sef.register_agent("a", {"instance_id": standby})
    assert (caught.value.status, caught.value.reason) == (409, "instance_is_standby")
    assert "manual-switch" in caught.value.message
    assert world.agent().instance_id == primary
    assert world.agent().epoch == 1


@ONCE
def test_the_primary_of_another_agent_is_named_with_a_warning(world: World) -> None:
    """The row of the instance stays with its agent, and no command ends the instance."""
    sef = world.sef(probation_seconds=0)
    announced = world.primary(sef, "b")
    shared = world.signal(sef, TERMINATION, "b", instance_id=announced)["new_instance_id"]
    own = world.primary(sef)
    [warning] = sef.register_agent("a", {"instance_id": shared})["warnings"]
    assert f"{shared} is the primary of b too" in warning
    assert [r.instance_id for r in world.replicas("b", "promoted")] == [shared]
    assert sef.register_agent("a", {"instance_id": own})["warnings"] == []
    assert world.agent("b").instance_id == shared
    assert world.state(shared) in ALIVE
