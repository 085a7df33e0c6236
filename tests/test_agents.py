"""The mode of an agent."""

from datetime import UTC, datetime

import pytest

from sef.agents import Agent
from sef.terms import Mode

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def agent(
    *, manual: bool = False, auto_switch: bool = False, auto_terminate: bool = False
) -> Agent:
    return Agent(
        id="a",
        instance_id=None,
        primary_since=None,
        pool_id=None,
        auto_switch_enabled=auto_switch,
        auto_terminate_enabled=auto_terminate,
        manual_replica_enabled=manual,
        launch_template=None,
        epoch=1,
        version=1,
        not_before=None,
        put_off_because=None,
        probation_until=None,
        drill_interval=None,
        drilled_at=None,
        cutover=None,
        created_at=NOW,
        updated_at=NOW,
    )


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ({"manual": True}, Mode.MANUAL),
        ({"auto_switch": True}, Mode.AUTO),
        ({"auto_terminate": True}, Mode.AUTO),
        ({"auto_switch": True, "auto_terminate": True}, Mode.AUTO),
        ({}, Mode.EMERGENCY_ONLY),
    ],
    ids=["manual", "auto-switch", "auto-terminate", "both", "neither"],
)
def test_the_mode_of_an_agent_follows_from_its_flags(flags: dict[str, bool], mode: Mode) -> None:
    assert agent(**flags).mode is mode
