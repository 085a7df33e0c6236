"""The choice of a spare instance as the successor of a primary that is being lost."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sef.failover.policy import (
    LAST_MOMENT,
    AgentState,
    CreateStandby,
    IncidentState,
    NextStep,
    Promote,
    PromoteSpare,
    Rest,
    Spare,
    next_step,
)
from sef.terms import Goal, ReplicaStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOTICE = IncidentState(Goal.SWITCH, None, True, deadline=NOW + timedelta(seconds=120))
CLEAN, RECOMMENDED = Spare("i-1", is_recommended=False), Spare("i-1", is_recommended=True)
NO_MODE = AgentState(manual=False, auto_switch=False, auto_terminate=False)
READY, LAUNCHING = ReplicaStatus.READY, ReplicaStatus.LAUNCHING


def step(
    spare: Spare | None,
    standby: ReplicaStatus | None = None,
    *,
    is_postponed: bool = False,
    **incident: Any,
) -> type[NextStep]:
    decided = next_step(
        NO_MODE,
        standby,
        replace(NOTICE, **incident),
        standby_ttl=timedelta(hours=2),
        now=NOW,
        spare=spare,
        is_postponed=is_postponed,
    )
    return type(decided)


@pytest.mark.parametrize(
    ("spare", "standby", "expected"),
    [
        (CLEAN, None, PromoteSpare),
        (CLEAN, LAUNCHING, PromoteSpare),
        (CLEAN, READY, Promote),
        (RECOMMENDED, None, CreateStandby),
        (RECOMMENDED, LAUNCHING, Rest),
        (RECOMMENDED, READY, Promote),
        (None, None, CreateStandby),
    ],
)
def test_a_ready_standby_comes_first_and_a_recommended_spare_last(
    spare: Spare | None, standby: ReplicaStatus | None, expected: type
) -> None:
    assert step(spare, standby) is expected


@pytest.mark.parametrize("standby", [None, LAUNCHING])
def test_a_recommended_spare_is_promoted_when_there_is_no_time_or_no_launch(
    standby: ReplicaStatus | None,
) -> None:
    assert step(RECOMMENDED, standby, is_postponed=True) is PromoteSpare
    assert step(RECOMMENDED, standby, deadline=NOW + LAST_MOMENT) is PromoteSpare
    assert step(RECOMMENDED, standby, deadline=NOW - LAST_MOMENT) is PromoteSpare


@pytest.mark.parametrize(
    "incident",
    [
        {"goal": Goal.STANDBY, "rebalance_at": NOW},
        {"goal": Goal.MONITOR, "rebalance_at": NOW},
        {"is_planned": True},
        {"concerns_primary": False},
    ],
    ids=str,
)
def test_a_spare_is_promoted_in_an_emergency_only(incident: dict[str, Any]) -> None:
    assert step(CLEAN, **incident) is not PromoteSpare
