"""The pace of requests to a service with a rate for the whole account."""

from sef.cloud.pace import BURST, PER_SECOND, RECOVERS_AFTER, SLOWEST, Pace


class Time:
    """A clock that a sleep advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def passed(pace: Pace, time: Time, requests: int) -> list[float]:
    times = []
    for _ in range(requests):
        assert pace.wait(10)
        times.append(time.now)
    return times


def test_no_second_has_more_requests_than_the_rate() -> None:
    time = Time()
    times = passed(Pace(PER_SECOND, clock=time, sleep=time.sleep), time, 40)
    assert all(b - a > 0.99 for a, b in zip(times, times[int(PER_SECOND) :], strict=False))
    assert times[int(BURST) - 1] == times[0], "an agent alone does not wait"
    assert times[-1] - times[0] < 40 / (PER_SECOND - BURST)


def test_request_that_would_wait_too_long_is_refused_at_once() -> None:
    time = Time()
    pace = Pace(PER_SECOND, clock=time, sleep=time.sleep)
    passed(pace, time, 2)
    assert not pace.wait(0.1)
    assert pace.wait(0.4)
    assert time.now < 1000.5


def test_checks_leave_a_request_to_the_moves() -> None:
    time = Time()
    pace = Pace(PER_SECOND, clock=time, sleep=time.sleep)
    assert pace.wait(0, left=1)
    assert not pace.wait(0, left=1)
    assert pace.wait(0)


def test_refusals_slow_the_pace_down_and_it_recovers() -> None:
    time = Time()
    pace = Pace(clock=time, sleep=time.sleep)
    assert passed(pace, time, 100)[-1] == 1000, "no limit before the first refusal"
    for _ in range(10):
        pace.slow_down()
    begin = passed(pace, time, 3)
    assert begin[2] - begin[1] >= 1 / SLOWEST
    time.sleep(8 * RECOVERS_AFTER)
    assert len(set(passed(pace, time, 100))) == 1


def test_clock_that_is_set_back_stops_nothing() -> None:
    time = Time()
    pace = Pace(PER_SECOND, clock=time, sleep=time.sleep)
    passed(pace, time, 2)
    time.now -= 86_400
    assert pace.wait(1)
