"""After a promotion, what belongs to the agent follows its new primary."""

from typing import Any

from smart_emergency_fallback import SmartEmergencyFallback
from tests.flows.belongings import ALL, SAME_ZONE, Belongings
from tests.flows.world import TERMINATION, World


def owner(world: World, **settings: Any) -> tuple[SmartEmergencyFallback, str, Belongings]:
    """An agent with one of each target, on a primary of its own."""
    sef = world.sef(pools=",".join(SAME_ZONE), **settings)
    primary = world.primary(sef)
    belongings = Belongings(world, primary)
    sef.register_agent("a", {"cutover": belongings.targets})
    return sef, primary, belongings


def cutover(sef: SmartEmergencyFallback) -> Any:
    return sef.get_agent_status("a")["cutover"]


def test_all_of_it_follows_in_an_emergency(world: World) -> None:
    sef, primary, belongings = owner(world)
    assert belongings.held(primary) == ALL
    answer = world.signal(sef, TERMINATION, instance_id=primary)
    new = answer["new_instance_id"]
    assert new is not None
    told = cutover(sef)
    assert told["status"] == "done"
    assert belongings.held(new) == ALL
    assert belongings.registered() == [new]
    world.check()
