"""Why there is no standby, as `sef-status` says it."""

from datetime import UTC, datetime

import pytest

from sef.failover.policy import CreateStandby, Release, Rest
from sef.operators.status import NoStandby, why_no_standby
from sef.terms import ReplicaStatus, ReplicaType

LATER = datetime(2026, 1, 1, tzinfo=UTC)
WANTED = CreateStandby(ReplicaType.MANUAL, "manual mode keeps a standby")
LIMIT = (LATER, "the limit")


@pytest.mark.parametrize(
    ("step", "standby", "put_off", "monitored", "expected"),
    [
        pytest.param(Rest(), (ReplicaStatus.READY, "i-1"), None, None, None, id="ready"),
        pytest.param(
            Release("over"),
            (ReplicaStatus.READY, "i-1"),
            LIMIT,
            None,
            None,
            id="ready-though-put-off",
        ),
        pytest.param(
            Rest(),
            (ReplicaStatus.LAUNCHING, "i-1"),
            LIMIT,
            None,
            NoStandby("i-1 is launching", None),
            id="launching",
        ),
        pytest.param(
            Rest(),
            None,
            None,
            None,
            NoStandby("nothing asks for a standby", None),
            id="unwanted",
        ),
        pytest.param(
            Rest(),
            None,
            LIMIT,
            None,
            NoStandby("nothing asks for a standby", None),
            id="unwanted-though-put-off",
        ),
        pytest.param(
            Rest(),
            None,
            None,
            "the risk is low",
            NoStandby("the risk is low", None),
            id="monitored",
        ),
        pytest.param(
            WANTED, None, LIMIT, None, NoStandby("the limit", LATER), id="failed-and-put-off"
        ),
        pytest.param(
            Rest(),
            (ReplicaStatus.LAUNCHING, None),
            LIMIT,
            None,
            NoStandby("the limit", LATER),
            id="held-back",
        ),
        pytest.param(
            WANTED,
            None,
            None,
            None,
            NoStandby("one is about to be launched: manual mode keeps a standby", None),
            id="wanted",
        ),
        pytest.param(
            Rest(),
            (ReplicaStatus.LAUNCHING, None),
            None,
            None,
            NoStandby("one is about to be launched", None),
            id="wished-for",
        ),
    ],
)
def test_absence(step, standby, put_off, monitored, expected) -> None:
    assert why_no_standby(step, standby, put_off, monitored) == expected
