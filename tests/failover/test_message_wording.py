"""Messages in events and log lines are well formed: singular and plural, no None, no repetition."""

import logging
import re

import pytest

from tests.failover.cutover.cutover_targets import SAME_ZONE, Belongings
from tests.failover.instances.test_orphans import named, orphan
from tests.harness import ONCE, TERMINATION, World

MALFORMED = re.compile(r"\b1 (instances|launches|tables|tries|prices)\b|None|(\b\w+) is done: \2")


@ONCE
def test_messages_of_a_failover_with_a_cutover_are_well_formed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sef")
    sef = world.sef(
        spot_pools=",".join(SAME_ZONE), max_launches_per_hour=1, interrupted_pool_cooldown_seconds=0
    )
    primary = world.primary(sef)
    sef.register_agent("a", {"cutover": Belongings(world, primary).targets})
    world.signal(sef, TERMINATION, instance_id=primary)
    world.settle(sef, 5)
    world.signal(sef, TERMINATION, instance_id=world.agent().instance_id)
    messages = [row.message for row in world.rows("system_events", None)]
    assert any("SEF_MAX_LAUNCHES_PER_HOUR" in message for message in messages)
    assert any("running: " in message for message in messages)
    malformed = [line for line in [*messages, *caplog.messages] if MALFORMED.search(line)]
    assert not malformed


@ONCE
def test_an_event_without_an_agent_is_logged_without_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    named(world)
    for _ in range(2):
        orphan(world)
    sef = world.sef(max_terminations_per_run=1)
    world.clock.advance(600)
    sef.sweep_orphans()
    [limited] = [line for line in caplog.messages if "SEF_MAX_TERMINATIONS_PER_RUN" in line]
    assert not limited.endswith(")")
