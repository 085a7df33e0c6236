"""Why there is no standby, as `sef-status` says it."""

from datetime import UTC, datetime

import pytest

from sef.core.absence import Absence, absence
from sef.core.policy import CreateStandby, Release, Rest
from sef.core.replica import ReplicaType, Status

LATER = datetime(2026, 1, 1, tzinfo=UTC)
WANTED = CreateStandby(ReplicaType.MANUAL, "manual mode keeps a standby")
LIMIT = (LATER, "the limit")


@pytest.mark.parametrize(
    ("step", "standby", "put_off", "monitored", "expected"),
    [
        pytest.param(Rest(), (Status.READY, "i-1"), None, None, None, id="ready"),
        pytest.param(
            Release("over"), (Status.READY, "i-1"), LIMIT, None, None, id="ready-though-put-off"
        ),
        pytest.param(
            Rest(),
            (Status.LAUNCHING, "i-1"),
            LIMIT,
            None,
            Absence("i-1 is launching", None),
            id="launching",
        ),
        pytest.param(
            Rest(),
            None,
            None,
            None,
            Absence("nothing asks for a standby", None),
            id="unwanted",
        ),
        pytest.param(
            Rest(),
            None,
            LIMIT,
            None,
            Absence("nothing asks for a standby", None),
            id="unwanted-though-put-off",
        ),
        pytest.param(
            Rest(), None, None, "the risk is low", Absence("the risk is low", None), id="monitored"
        ),
        pytest.param(
            WANTED, None, LIMIT, None, Absence("the limit", LATER), id="failed-and-put-off"
        ),
        pytest.param(
            Rest(),
            (Status.LAUNCHING, None),
            LIMIT,
            None,
            Absence("the limit", LATER),
            id="held-back",
        ),
        pytest.param(
            WANTED,
            None,
            None,
            None,
            Absence("one is about to be launched: manual mode keeps a standby", None),
            id="wanted",
        ),
        pytest.param(
            Rest(),
            (Status.LAUNCHING, None),
            None,
            None,
            Absence("one is about to be launched", None),
            id="wished-for",
        ),
    ],
)
def test_absence(step, standby, put_off, monitored, expected) -> None:
    assert absence(step, standby, put_off, monitored) == expected
