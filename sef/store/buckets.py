"""What is left in EC2's request buckets, counted for all workers together."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, select, update

from sef.core.buckets import Bucket, Rate
from sef.store.statements import insert_missing, swap
from sef.store.tables import request_buckets

Left = Callable[[Connection], int]
"""How many tokens are to be left for others."""


def nobody(_: Connection) -> int:
    return 0


def has_token(
    connection: Connection, action: str, rate: Rate, now: datetime, left: Left = nobody
) -> bool:
    """Whether it is worth to try and take one."""
    bucket, _ = _read(connection, action, rate, now)
    return bucket.at > now or bucket.take(rate, now, left=left(connection)) is not None


def take_token(
    connection: Connection, action: str, rate: Rate, now: datetime, left: Left = nobody
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
    bucket, version = _read(connection, action, rate, now)
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


def _read(connection: Connection, action: str, rate: Rate, now: datetime) -> tuple[Bucket, int]:
    """The bucket, with its version; one that nobody has used yet is full."""
    row = connection.execute(
        select(request_buckets).where(request_buckets.c.action == action)
    ).one_or_none()
    if row is None:
        return Bucket(rate.burst, now), 0
    return Bucket(row.tokens, row.refilled_at), row.version
