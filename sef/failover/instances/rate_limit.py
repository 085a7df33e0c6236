"""Keep RunInstances and TerminateInstances calls within EC2's request rates.

EC2 counts these calls in token buckets, one for each action. A throttled call fails and delays the
calls after it. So SEF counts the tokens itself, in one row that all workers share. A call without a
token is not an error: the work waits for the next pass, which takes the most urgent work first.

The module has three parts: the bucket as a value, its row, and the tokens of the two actions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, select, update

from sef.context import Context
from sef.db.statements import insert_missing, swap
from sef.db.tables import request_buckets

RUN = "RunInstances"
TERMINATE = "TerminateInstances"
"""The two actions whose rate SEF limits."""

EC2_DEFAULT_RATES = {RUN: 2.0, TERMINATE: 5.0}
"""EC2's default refill rates, in tokens per second. An account can have other quotas."""

KEPT_FOR_EMERGENCIES = 2
"""Tokens of RunInstances that launches other than emergencies leave in the bucket."""

Reserve = Callable[[Connection], int]
"""Returns the number of tokens that a call has to leave for more urgent calls."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Capacity of a token bucket, and its refill rate in tokens per second."""

    burst: int
    per_second: float


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """The tokens in a bucket at a given time."""

    tokens: float
    at: datetime

    def refilled(self, rate: Rate, now: datetime) -> "TokenBucket":
        """Return the bucket as it is now.

        If `at` is in the future, this host's clock is behind, or the last writer's clock was ahead.
        The bucket then refills from `now` on: the tokens of the time in between are lost, but no
        call waits until `at`.
        """
        seconds = max(0.0, (now - self.at).total_seconds())
        return TokenBucket(min(float(rate.burst), self.tokens + seconds * rate.per_second), now)

    def take(self, rate: Rate, now: datetime, *, left: int = 0) -> "TokenBucket | None":
        """Return the bucket after one more call; None if there is no token for the call.

        Args:
            left: tokens that have to remain for more urgent calls.
        """
        refilled = self.refilled(rate, now)
        # A full bucket always serves a call. Otherwise a small bucket would serve only the most
        # urgent calls.
        if refilled.tokens < 1 + min(left, rate.burst - 1):
            return None
        return replace(refilled, tokens=refilled.tokens - 1)


def has_token(
    connection: Connection, action: str, rate: Rate, now: datetime, reserve: Reserve | None = None
) -> bool:
    """Return True if `take_token` is likely to succeed. Writes nothing."""
    bucket, _ = _read_bucket(connection, action, rate, now)
    return bucket.at > now or bucket.take(rate, now, left=_count(connection, reserve)) is not None


def take_token(
    connection: Connection, action: str, rate: Rate, now: datetime, reserve: Reserve | None = None
) -> bool:
    """Take a token from the bucket's row; return False if there is none.

    The reserve is counted after the row is read. If a more urgent call takes its token in between,
    the version of the row changes and this write fails, so that call is not counted twice.

    Raises:
        VersionConflict: another worker has taken a token since the row was read.
    """
    insert_missing(
        connection,
        request_buckets,
        [{"action": action, "tokens": float(rate.burst), "refilled_at": now}],
    )
    bucket, version = _read_bucket(connection, action, rate, now)
    after = bucket.take(rate, now, left=_count(connection, reserve))
    # A time in the future comes from a fast clock. The row is corrected even if no token is taken:
    # the bucket would not refill until that time.
    if after is not None or bucket.at > now:
        new = after or bucket.refilled(rate, now)
        swap(
            connection,
            request_buckets,
            {"action": action},
            version=version,
            tokens=new.tokens,
            refilled_at=new.at,
        )
    return after is not None


def empty_bucket(connection: Connection, action: str, now: datetime) -> None:
    """Set the tokens of an action to 0, after EC2 throttled it.

    Another client of the same AWS account has used the tokens that SEF counted.
    """
    columns = request_buckets.c
    connection.execute(
        update(request_buckets)
        .where(columns.action == action)
        .values(tokens=0.0, refilled_at=now, version=columns.version + 1)
    )


def is_limited(ctx: Context, action: str) -> bool:
    """Return True if SEF limits the rate of an action."""
    return _rate(ctx, action) is not None


def may_launch(connection: Connection, ctx: Context, reserve: Reserve) -> bool:
    """Return True if `take_launch_token` is likely to succeed. Writes nothing."""
    rate = _rate(ctx, RUN)
    now = ctx.clock()
    return rate is None or has_token(connection, RUN, rate, now, reserve)


def take_launch_token(connection: Connection, ctx: Context, reserve: Reserve) -> bool:
    """Take a token for a RunInstances call that leaves the reserve; return False without one.

    Raises:
        VersionConflict: another worker has taken a token since the row was read.
    """
    rate = _rate(ctx, RUN)
    now = ctx.clock()
    return rate is None or take_token(connection, RUN, rate, now, reserve)


def take_termination_token(ctx: Context) -> bool:
    """Take a token for a TerminateInstances call; return False if there is none."""
    rate = _rate(ctx, TERMINATE)
    if rate is None:
        return True
    now = ctx.clock()
    return ctx.database.read(has_token, TERMINATE, rate, now) and ctx.database.write(
        take_token, TERMINATE, rate, now
    )


def record_throttling(ctx: Context, action: str) -> None:
    """Empty the bucket of an action after EC2 throttled a call."""
    if _rate(ctx, action) is not None:
        ctx.database.write(empty_bucket, action, ctx.clock())


def _rate(ctx: Context, action: str) -> Rate | None:
    """Return the rate of an action from the settings; None if it is not limited."""
    settings = ctx.settings
    burst, per_second = {
        RUN: (settings.run_instances_burst, settings.run_instances_per_second),
        TERMINATE: (settings.terminate_instances_burst, settings.terminate_instances_per_second),
    }[action]
    if per_second is None:
        per_second = 0 if settings.cloud == "simulated" else EC2_DEFAULT_RATES[action]
    return Rate(burst, per_second) if per_second else None


def _count(connection: Connection, reserve: Reserve | None) -> int:
    return 0 if reserve is None else reserve(connection)


def _read_bucket(
    connection: Connection, action: str, rate: Rate, now: datetime
) -> tuple[TokenBucket, int]:
    """Return the bucket and the version of its row. Without a row the bucket is full."""
    row = connection.execute(
        select(request_buckets).where(request_buckets.c.action == action)
    ).one_or_none()
    if row is None:
        return TokenBucket(rate.burst, now), 0
    return TokenBucket(row.tokens, row.refilled_at), row.version
