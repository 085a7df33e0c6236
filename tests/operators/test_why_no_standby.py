"""The reason for a missing standby in `sef-status`."""

from datetime import UTC, datetime

import pytest

from sef.failover.policy import CreateStandby, NextStep, Release, Rest
from sef.operators.status import NoStandby, Postponement, why_no_standby
from sef.terms import ReplicaStatus, ReplicaType

LATER = datetime(2026, 1, 1, tzinfo=UTC)
CREATE = CreateStandby(ReplicaType.MANUAL, "manual mode keeps a standby")
LIMIT = Postponement(LATER, "the limit")
READY, LAUNCHING = ReplicaStatus.READY, ReplicaStatus.LAUNCHING
NOT_REQUIRED = NoStandby("no mode or incident requires a standby", None)


@pytest.mark.parametrize(
    ("step", "status", "instance_id", "postponement", "monitoring_reason", "expected"),
    [
        pytest.param(Rest(), READY, "i-1", None, None, None, id="ready"),
        pytest.param(Release("over"), READY, "i-1", LIMIT, None, None, id="ready-and-postponed"),
        pytest.param(
            Rest(),
            LAUNCHING,
            "i-1",
            LIMIT,
            None,
            NoStandby("i-1 is launching", None),
            id="launching",
        ),
        pytest.param(Rest(), None, None, None, None, NOT_REQUIRED, id="not-required"),
        pytest.param(
            Rest(), None, None, LIMIT, None, NOT_REQUIRED, id="not-required-and-postponed"
        ),
        pytest.param(
            Rest(),
            None,
            None,
            None,
            "the risk is low",
            NoStandby("the risk is low", None),
            id="monitoring",
        ),
        pytest.param(
            CREATE,
            None,
            None,
            LIMIT,
            None,
            NoStandby("the limit", LATER),
            id="required-and-postponed",
        ),
        pytest.param(
            CREATE,
            None,
            None,
            Postponement(LATER, None),
            None,
            NoStandby("the launch is postponed", LATER),
            id="postponed-without-a-reason",
        ),
        pytest.param(
            Rest(),
            LAUNCHING,
            None,
            LIMIT,
            None,
            NoStandby("the limit", LATER),
            id="requested-and-postponed",
        ),
        pytest.param(
            CREATE,
            None,
            None,
            None,
            None,
            NoStandby("SEF is about to launch a standby: manual mode keeps a standby", None),
            id="required",
        ),
        pytest.param(
            Rest(),
            LAUNCHING,
            None,
            None,
            None,
            NoStandby("SEF is about to launch a standby", None),
            id="requested",
        ),
    ],
)
def test_status_says_why_no_standby_is_ready(
    step: NextStep,
    status: ReplicaStatus | None,
    instance_id: str | None,
    postponement: Postponement | None,
    monitoring_reason: str | None,
    expected: NoStandby | None,
) -> None:
    answer = why_no_standby(step, status, instance_id, postponement, monitoring_reason)
    assert answer == expected
