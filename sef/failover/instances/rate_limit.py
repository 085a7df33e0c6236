"""Calls that EC2 counts are made only while there is a token for them.

A throttled call is refused, and delays those after it. To wait for the token instead is no failure:
the step is left for the next round, which takes the most urgent first.
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

EC2_DEFAULT_RATES = {RUN: 2.0, TERMINATE: 5.0}
"""What EC2 gives back each second, unless an account has another quota: see `TokenBucket`."""

KEPT_FOR_EMERGENCIES = 2
"""Tokens of RunInstances that standbys and drills leave in the bucket."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a bucket holds when it is full, and what comes back in a second."""

    burst: int
    per_second: float


Reserve = Callable[[Connection], int]
"""How many tokens are to be left for others."""


def take_termination_token(ctx: Context) -> bool:
    """Take a token for a TerminateInstances call, if there is one."""
    rate = _rate(ctx, TERMINATE)
    if rate is None:
        return True
    now = ctx.clock()
    return ctx.database.read(has_token, TERMINATE, rate, now) and ctx.database.write(
        take_token, TERMINATE, rate, now
    )


def may_launch(connection: Connection, ctx: Context, left: Reserve) -> bool:
    """Whether it is worth to try `take_for_launch`."""
    rate = _rate(ctx, RUN)
    now = ctx.clock()
    return rate is None or has_token(connection, RUN, rate, now, left)


def take_launch_token(connection: Connection, ctx: Context, left: Reserve) -> bool:
    """Take a token for a RunInstances call that leaves so many for others who need it more."""
    rate = _rate(ctx, RUN)
    now = ctx.clock()
    return rate is None or take_token(connection, RUN, rate, now, left)


def is_limited(ctx: Context, action: str) -> bool:
    """Whether calls of an action may have to wait for a token."""
    return _rate(ctx, action) is not None


def drain(ctx: Context, action: str) -> None:
    """EC2 has throttled a call: whatever we have counted, the bucket is empty."""
    if _rate(ctx, action) is not None:
        ctx.database.write(empty_bucket, action, ctx.clock())


def _rate(ctx: Context, action: str) -> Rate | None:
    """What EC2 takes of an action; None where that is not limited."""
    settings = ctx.settings
    burst, per_second = {
        RUN: (settings.run_instances_burst, settings.run_instances_per_second),
        TERMINATE: (settings.terminate_instances_burst, settings.terminate_instances_per_second),
    }[action]
    if per_second is None:
        per_second = 0 if settings.cloud == "simulated" else EC2_DEFAULT_RATES[action]
    return Rate(burst, per_second) if per_second else None


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """What was left in a bucket at a moment."""

    tokens: float
    at: datetime

    def refilled(self, rate: Rate, now: datetime) -> "TokenBucket":
        """The bucket now.

        A moment in the future was written by a clock that is ahead of ours, or ours is behind. It
        is not waited for: what would have come back until then is lost, and nothing else.
        """
        seconds = max(0.0, (now - self.at).total_seconds())
        return TokenBucket(min(float(rate.burst), self.tokens + seconds * rate.per_second), now)

    def take(self, rate: Rate, now: datetime, *, left: int = 0) -> "TokenBucket | None":
        """The bucket after one more call; None while there is no token for it.

        `left` are those that must be there after it, for others who are more urgent.
        """
        full = self.refilled(rate, now)
        # Never more than the bucket holds, or a small one would serve the most urgent only.
        if full.tokens < 1 + min(left, rate.burst - 1):
            return None
        return replace(full, tokens=full.tokens - 1)


def _none_reserved(_: Connection) -> int:
    return 0


def has_token(
    connection: Connection, action: str, rate: Rate, now: datetime, left: Reserve = _none_reserved
) -> bool:
    """Whether it is worth to try and take one."""
    bucket, _ = _read_bucket(connection, action, rate, now)
    return bucket.at > now or bucket.take(rate, now, left=left(connection)) is not None


def take_token(
    connection: Connection, action: str, rate: Rate, now: datetime, left: Reserve = _none_reserved
) -> bool:
    """Take a token, so that `left` are left; False while there is none.

    Those who need the others are counted after the tokens are: whoever takes one in between is
    then noticed by the version, and not counted twice.

    Raises:
        Stale: somebody else took one meanwhile.
    """
    insert_missing(
        connection,
        request_buckets,
        [{"action": action, "tokens": float(rate.burst), "refilled_at": now}],
    )
    bucket, version = _read_bucket(connection, action, rate, now)
    after = bucket.take(rate, now, left=left(connection))
    # Without a token the row is written all the same if a clock that is ahead wrote it: nothing
    # would come back until then.
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
    """EC2 says that there is nothing left: somebody else on the account has had it."""
    columns = request_buckets.c
    connection.execute(
        update(request_buckets)
        .where(columns.action == action)
        .values(tokens=0.0, refilled_at=now, version=columns.version + 1)
    )


def _read_bucket(
    connection: Connection, action: str, rate: Rate, now: datetime
) -> tuple[TokenBucket, int]:
    """The bucket, with its version; one that nobody has used yet is full."""
    row = connection.execute(
        select(request_buckets).where(request_buckets.c.action == action)
    ).one_or_none()
    if row is None:
        return TokenBucket(rate.burst, now), 0
    return TokenBucket(row.tokens, row.refilled_at), row.version
