"""Keep the requests to a service below the rate of the account, in one process.

Route 53 answers five requests a second for the whole account, over all actions, and refuses the
next with `Throttling`
(https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DNSLimitations.html). Other workers and
other programs of the account make requests too, and this process does not see them. So a refused
request halves the pace, and it recovers step by step.
"""

import time
from collections.abc import Callable
from threading import Lock

PER_SECOND = 5.0
"""Route 53's requests per second of an account. AWS does not raise it."""

BURST = 2.0
"""Requests that need not wait after a pause: look a record up and change it."""

SLOWEST = 0.5
"""Requests per second below which refusals do not lower the pace."""

RECOVERS_AFTER = 10.0
"""Time in seconds without a refusal after which the pace is doubled."""


class Pace:
    """A token bucket in which a request can reserve a token of the next moments.

    In any second, at most `per_second` requests pass: `BURST` of them, and what is refilled.

    Args:
        per_second: None: no limit before the first refusal.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        per_second: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._most = per_second
        self._now = per_second
        self._clock, self._sleep = clock, sleep
        self._tokens = BURST
        self._refilled_at = self._changed_at = clock()
        self._lock = Lock()

    def wait(self, patience: float, *, left: float = 0.0) -> bool:
        """Wait for a token and take it; return False at once if that takes too long.

        Args:
            patience: longest wait in seconds.
            left: tokens that have to be left for more urgent requests.
        """
        with self._lock:
            rate = self._rate()
            if rate is None:
                return True
            seconds = max(0.0, 1 + min(left, BURST - 1) - self._tokens) / rate
            if seconds > patience:
                return False
            self._tokens -= 1
        if seconds:
            self._sleep(seconds)
        return True

    def slow_down(self) -> None:
        """Halve the pace and empty the bucket, after a refused request."""
        with self._lock:
            self._rate()
            self._now = max(SLOWEST, (self._now or 2 * PER_SECOND) / 2)
            self._tokens = min(self._tokens, 0.0)
            self._changed_at = self._clock()

    def _rate(self) -> float | None:
        """Refill the bucket; return the tokens per second, None without a limit."""
        now = self._clock()
        while self._now != self._most and self._now and now - self._changed_at > RECOVERS_AFTER:
            self._changed_at += RECOVERS_AFTER
            self._now = self._recovered(2 * self._now)
        passed, self._refilled_at = max(0.0, now - self._refilled_at), now
        if self._now is None:
            self._tokens = BURST
            return None
        rate = max(self._now - BURST, self._now / 2)
        self._tokens = min(BURST, self._tokens + passed * rate)
        return rate

    def _recovered(self, pace: float) -> float | None:
        if self._most is None:
            return None if pace > PER_SECOND else pace
        return min(pace, self._most)
