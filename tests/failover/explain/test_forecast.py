"""Whether the time is enough for a plan."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.explain.forecast import PlanStep, budget, typical_duration

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE = NOW + timedelta(seconds=120)


def plan(*parts):
    return [PlanStep(name, "said", "because", expected_seconds=seconds) for name, seconds in parts]


@pytest.mark.parametrize(
    ("parts", "deadline", "expected", "is_enough"),
    [
        pytest.param([("launch", 40), ("promote", 1)], DEADLINE, 41, True, id="enough"),
        pytest.param([("launch", 119), ("promote", 1)], DEADLINE, 120, True, id="just enough"),
        pytest.param([("launch", 120), ("promote", 1)], DEADLINE, 121, False, id="too little"),
        pytest.param([("launch", None), ("promote", 1)], DEADLINE, None, None, id="not measured"),
        pytest.param([("launch", 40), ("promote", 1)], None, 41, None, id="nothing presses"),
        pytest.param([("launch", 40)], DEADLINE, None, None, id="no promotion"),
        pytest.param([], DEADLINE, None, None, id="nothing"),
        pytest.param(
            [("promote", 1), ("terminate", 60), ("launch", None)],
            DEADLINE,
            1,
            True,
            id="what comes after the promotion does not count",
        ),
    ],
)
def test_the_time_until_the_promotion_is_what_counts(parts, deadline, expected, is_enough):
    found = budget(deadline, plan(*parts), NOW)
    assert (found.expected_seconds, found.is_enough) == (expected, is_enough)
    assert found.seconds_left == (None if deadline is None else 120)


def test_what_was_never_measured_is_not_guessed():
    assert typical_duration([], "launches") == (None, "no launches so far")
    assert typical_duration([3, 1, 2], "launches") == (2, "the median of the last 3 launches")


@given(st.lists(st.floats(0, 1e4), min_size=1))
def test_what_is_expected_lies_between_what_was(seconds):
    expected, _ = typical_duration(seconds, "launches")
    assert min(seconds) - 0.001 <= expected <= max(seconds) + 0.001
