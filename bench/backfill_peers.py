"""Clean series by SEF's rules (sef/prices/series.py) with pandas and with DuckDB, as peers of SEF.

Input: columns of integers in the order of arrival: series, source (0 primary, 1 replica), ts in
seconds, price in units of 1e-8 USD. Output: series, ts, price in units of 1e-9 USD, and the flag.
Integers keep the peers from rounding differently.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import duckdb
import numpy as np
import pandas as pd

from bench.observations import Row, Seen

TOLERANCE, GAP, WIDEST, STEP = 30, 600, 1800, 300
DIVERGENCE = 40
"""A pair diverges if this multiple of its difference exceeds its sum: 5 % of the mean."""
NORMAL, AVERAGED, DIVERGENT, INTERPOLATED = range(4)

Frame = pd.DataFrame


class Pandas:
    """Observations in a data frame."""

    def __init__(self, observations: Frame) -> None:
        self._observations = observations
        self._points = observations

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Self:
        return cls(_frame(seen))

    @classmethod
    def from_csv(cls, path: Path) -> Self:
        frame = pd.read_csv(path)
        columns = {
            "series": frame["agent_id"].str.removeprefix("agent-").astype("int64"),
            "source": frame["is_replica"].astype("int64"),
            "ts": frame["timestamp"],
            "price": (frame["spot_price"] * 1e8).round().astype("int64"),
        }
        return cls(pd.DataFrame(columns))

    def work(self) -> None:
        self._points = by_pandas(self._observations)

    def rows(self) -> list[Row]:
        columns = [self._points[name].tolist() for name in ("series", "ts", "price", "flag")]
        return list(zip(*columns, strict=True))


class Duckdb:
    """Observations in a table of DuckDB in memory."""

    def __init__(self) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET threads = 2")

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> Self:
        peer = cls()
        peer._connection.register("given", _frame(seen))
        peer._connection.execute(
            "CREATE TABLE observations AS SELECT *, row_number() OVER () AS arrival FROM given"
        )
        peer._connection.unregister("given")
        return peer

    @classmethod
    def from_csv(cls, path: Path) -> Self:
        peer = cls()
        peer._connection.execute(
            "CREATE TABLE observations AS SELECT "
            "CAST(replace(agent_id, 'agent-', '') AS BIGINT) AS series, "
            "CAST(is_replica AS INT) AS source, CAST(timestamp AS BIGINT) AS ts, "
            "CAST(round(spot_price * 1e8) AS BIGINT) AS price, row_number() OVER () AS arrival "
            f"FROM read_csv('{path}')"
        )
        return peer

    def work(self) -> None:
        by_duckdb(self._connection)

    def rows(self) -> list[Row]:
        return self._connection.execute(
            "SELECT series, ts, price, flag FROM clean ORDER BY series, ts"
        ).fetchall()


def _frame(seen: Sequence[Seen]) -> Frame:
    return pd.DataFrame(seen, columns=["series", "source", "ts", "price"])


def by_pandas(observations: Frame) -> Frame:
    unique = observations.drop_duplicates(["series", "source", "ts"], keep="last")
    unique = unique.sort_values(["ts", "series"], ignore_index=True)
    primary = unique[unique["source"] == 0].drop(columns="source").reset_index(drop=True)
    replica = unique[unique["source"] == 1].drop(columns="source").reset_index(drop=True)
    primary["nearest"] = _nearest(primary, replica)
    replica["nearest"] = _nearest(replica, primary)
    both = primary.merge(
        replica,
        left_on=["series", "nearest"],
        right_on=["series", "ts"],
        suffixes=("", "_replica"),
        how="inner",
    )
    is_pair = (both["nearest_replica"] == both["ts"]) & (
        (both["ts"] - both["ts_replica"]).abs() <= TOLERANCE
    )
    pairs = both[is_pair]
    total = pairs["price"] + pairs["price_replica"]
    diverges = (pairs["price"] - pairs["price_replica"]).abs() * DIVERGENCE > total
    points = pd.DataFrame(
        {
            "series": pairs["series"],
            "ts": pairs["ts"],
            "price": np.where(diverges, pairs["price"] * 10, total * 5),
            "flag": np.where(diverges, DIVERGENT, AVERAGED),
        }
    )
    alone = [
        _alone(primary, pairs[["series", "ts"]]),
        _alone(replica, pairs[["series", "ts_replica"]].rename(columns={"ts_replica": "ts"})),
    ]
    real = pd.concat([points, *alone], ignore_index=True)
    real = real.sort_values(["series", "ts"], ignore_index=True)
    whole = pd.concat([real, _filled(real)], ignore_index=True)
    return whole.sort_values(["series", "ts"], ignore_index=True)


def _nearest(ours: Frame, theirs: Frame) -> pd.Series:
    """Return for each row the time of the nearest row of the other source.

    Of two equally near rows, the earlier one counts.
    """
    times = theirs[["series", "ts"]].assign(found=theirs["ts"])
    before = pd.merge_asof(ours, times, on="ts", by="series", direction="backward")["found"]
    after = pd.merge_asof(ours, times, on="ts", by="series", direction="forward")["found"]
    is_after = before.isna() | (after - ours["ts"] < ours["ts"] - before)
    return after.where(is_after, before).fillna(-1).astype("int64")


def _alone(side: Frame, paired: Frame) -> Frame:
    keys = pd.MultiIndex.from_frame(side[["series", "ts"]])
    left = side[~keys.isin(pd.MultiIndex.from_frame(paired))]
    return pd.DataFrame(
        {"series": left["series"], "ts": left["ts"], "price": left["price"] * 10, "flag": NORMAL}
    )


def _filled(real: Frame) -> Frame:
    following = real.shift(-1, fill_value=-1)
    width = following["ts"] - real["ts"]
    is_gap = (following["series"] == real["series"]) & (width > GAP) & (width <= WIDEST)
    start, end = real[is_gap], following[is_gap]
    width = (end["ts"] - start["ts"]).to_numpy()
    many = (width - 1) // STEP
    place = np.repeat(np.arange(len(start)), many)
    steps = np.arange(len(place)) - np.repeat(np.cumsum(many) - many, many) + 1
    first = start["price"].to_numpy()[place]
    rise = (end["price"].to_numpy() - start["price"].to_numpy())[place] * (STEP * steps)
    whole, rest = np.divmod(rise, width[place])
    price = first + whole
    price += (2 * rest > width[place]) | ((2 * rest == width[place]) & (price % 2 == 1))
    return pd.DataFrame(
        {
            "series": start["series"].to_numpy()[place],
            "ts": start["ts"].to_numpy()[place] + STEP * steps,
            "price": price,
            "flag": INTERPOLATED,
        }
    )


def by_duckdb(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `clean` from the table `observations` with its column `arrival`."""
    connection.execute(_SQL)


def _nearest_sql(ours: str, theirs: str) -> str:
    return f"""
    SELECT o.series, o.ts, o.price,
        CASE WHEN f.ts IS NULL THEN b.ts
             WHEN b.ts IS NULL OR f.ts - o.ts < o.ts - b.ts THEN f.ts
             ELSE b.ts END AS nearest
    FROM {ours} o
    ASOF LEFT JOIN {theirs} b ON o.series = b.series AND o.ts >= b.ts
    ASOF LEFT JOIN {theirs} f ON o.series = f.series AND o.ts <= f.ts"""


_SQL = f"""
CREATE OR REPLACE TABLE clean AS
WITH known AS (
    SELECT series, source, ts, arg_max(price, arrival) AS price
    FROM observations GROUP BY series, source, ts
),
p AS (SELECT series, ts, price FROM known WHERE source = 0),
r AS (SELECT series, ts, price FROM known WHERE source = 1),
near_p AS ({_nearest_sql("p", "r")}),
near_r AS ({_nearest_sql("r", "p")}),
pairs AS (
    SELECT a.series, a.ts, a.price, b.ts AS ts_replica, b.price AS price_replica
    FROM near_p a JOIN near_r b ON a.series = b.series AND a.nearest = b.ts AND b.nearest = a.ts
    WHERE abs(a.ts - b.ts) <= {TOLERANCE}
),
real AS (
    SELECT series, ts,
        CASE WHEN abs(price - price_replica) * {DIVERGENCE} > price + price_replica
             THEN price * 10 ELSE (price + price_replica) * 5 END AS price,
        CASE WHEN abs(price - price_replica) * {DIVERGENCE} > price + price_replica
             THEN {DIVERGENT} ELSE {AVERAGED} END AS flag
    FROM pairs
    UNION ALL
    SELECT series, ts, price * 10, {NORMAL} FROM p ANTI JOIN pairs USING (series, ts)
    UNION ALL
    SELECT series, ts, price * 10, {NORMAL} FROM r
    ANTI JOIN pairs ON r.series = pairs.series AND r.ts = pairs.ts_replica
),
gaps AS (
    SELECT series, ts, price, width, following, unnest(range(1, (width - 1) // {STEP} + 1)) AS n
    FROM (
        SELECT *, lead(ts) OVER w - ts AS width, lead(price) OVER w AS following
        FROM real WINDOW w AS (PARTITION BY series ORDER BY ts)
    ) WHERE width > {GAP} AND width <= {WIDEST}
),
fills AS (
    SELECT series, ts + {STEP} * n AS ts, width, (following - price) * {STEP} * n AS rise,
        ((rise % width) + width) % width AS rest, price + (rise - rest) // width AS floor
    FROM gaps
)
SELECT * FROM real
UNION ALL
SELECT series, ts,
    floor + CASE WHEN 2 * rest > width OR (2 * rest = width AND floor % 2 = 1) THEN 1 ELSE 0 END,
    {INTERPOLATED}
FROM fills
ORDER BY series, ts
"""
