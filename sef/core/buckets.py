"""Token buckets, as EC2 counts requests with: a call takes a token, and some come back each second.

EC2 has one for each action, account and region. Under "Request token bucket sizes and refill
rates", "Uncategorized actions", it lists RunInstances with 5 tokens and 2 a second, and
TerminateInstances with 100 and 5; what each account has is shown in its Service Quotas.
https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html

Instances are counted besides ("Resource token bucket sizes"): 1000 to launch at once and 2 a
second, 1000 to terminate and 20 a second. That is not counted here: EC2 throttles what is more.
"""

from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Rate:
    """What a bucket holds when it is full, and what comes back in a second."""

    burst: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was left in a bucket at a moment."""

    tokens: float
    at: datetime

    def refilled(self, rate: Rate, now: datetime) -> "Bucket":
        """The bucket now.

        A moment in the future was written by a clock that is ahead of ours, or ours is behind. It
        is not waited for: what would have come back until then is lost, and nothing else.
        """
        seconds = max(0.0, (now - self.at).total_seconds())
        return Bucket(min(float(rate.burst), self.tokens + seconds * rate.per_second), now)

    def take(self, rate: Rate, now: datetime, *, left: int = 0) -> "Bucket | None":
        """The bucket after one more call; None while there is no token for it.

        `left` are those that must be there after it, for others who are more urgent.
        """
        full = self.refilled(rate, now)
        # Never more than the bucket holds, or a small one would serve the most urgent only.
        if full.tokens < 1 + min(left, rate.burst - 1):
            return None
        return replace(full, tokens=full.tokens - 1)
