"""The forecast of a step's duration, and the time budget of a plan."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sef.failover.explain.forecast import Forecast, typical_duration
from sef.failover.explain.plan import PlanStep, budget

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE = NOW + timedelta(seconds=120)

Durations = list[tuple[str, float | None]]


def plan(steps: Durations) -> list[PlanStep]:
    return [PlanStep(kind, "", "", expected_seconds=seconds) for kind, seconds in steps]


@pytest.mark.parametrize(
    ("steps", "deadline", "expected", "is_enough"),
    [
        pytest.param([("launch", 40), ("promote", 1)], DEADLINE, 41, True, id="enough"),
        pytest.param([("launch", 119), ("promote", 1)], DEADLINE, 120, True, id="just enough"),
        pytest.param([("launch", 120), ("promote", 1)], DEADLINE, 121, False, id="too little"),
        pytest.param([("launch", None), ("promote", 1)], DEADLINE, None, None, id="not measured"),
        pytest.param([("launch", 40), ("promote", 1)], None, 41, None, id="no deadline"),
        pytest.param([("launch", 40)], DEADLINE, None, None, id="no promotion"),
        pytest.param([], DEADLINE, None, None, id="no steps"),
        pytest.param(
            [("promote", 1), ("terminate", 60), ("launch", None)],
            DEADLINE,
            1,
            True,
            id="steps after the promotion do not count",
        ),
    ],
)
def test_budget_counts_the_time_until_the_promotion(
    steps: Durations, deadline: datetime | None, expected: float | None, is_enough: bool | None
) -> None:
    time = budget(deadline, plan(steps), NOW)
    assert (time.expected_seconds, time.is_enough) == (expected, is_enough)
    assert time.seconds_left == (None if deadline is None else 120)


def test_forecast_is_the_median_of_the_measurements() -> None:
    assert typical_duration([], "launches") == Forecast(None, "no launches so far")
    assert typical_duration([3, 1, 2], "launches") == Forecast(
        2, "the median of the last 3 launches"
    )


@given(st.lists(st.floats(0, 1e4), min_size=1))
def test_forecast_lies_between_the_measurements(seconds: list[float]) -> None:
    expected = typical_duration(seconds, "launches").seconds
    assert expected is not None
    assert min(seconds) - 0.001 <= expected <= max(seconds) + 0.001
