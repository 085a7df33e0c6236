"""The rules of emergency launches, as values: their patience, their reserve, their pauses."""

from datetime import UTC, datetime, timedelta

import pytest

from sef.failover.instances.limits import reserve
from sef.failover.instances.relief import slow_after
from sef.failover.standbys.backoff import RETRY_OPERATOR, emergency_pause

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds_left", "slow"), [(120, 25), (0, 25), (-50, 25), (-100, 50), (-600, 300), (-9999, 600)]
)
def test_a_launch_is_slow_after_a_time_that_grows_past_the_deadline(
    seconds_left: int, slow: int
) -> None:
    deadline = NOW + timedelta(seconds=seconds_left)
    assert slow_after(deadline, NOW, timedelta(seconds=600)) == timedelta(seconds=slow)


def test_a_launch_timeout_that_is_shorter_counts() -> None:
    assert slow_after(NOW, NOW, timedelta(seconds=5)) == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("maximum", "kept"), [(1, 0), (2, 1), (3, 2), (4, 2), (8, 2), (20, 5), (1000, 250)]
)
def test_the_part_of_a_limit_that_is_kept(maximum: int, kept: int) -> None:
    assert reserve(maximum) == kept
    assert maximum - kept >= 1


@pytest.mark.parametrize(
    ("seconds_left", "pause"),
    [(120, 10), (0, 10), (-20, 10), (-100, 50), (-600, 300), (-9999, 300)],
)
def test_a_refused_emergency_waits_for_seconds_before_its_deadline(
    seconds_left: int, pause: int
) -> None:
    deadline = NOW + timedelta(seconds=seconds_left)
    assert emergency_pause(RETRY_OPERATOR, deadline, NOW) == timedelta(seconds=pause)
