"""The tables of prices: reports, series, and what remains of old prices."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    Integer,
    String,
    Table,
)

from sef.db.tables.columns import MYSQL, Instant, Price, agent_id, metadata, one_of, pool_id
from sef.terms import (
    Flag,
    Source,
)

PROCESSED_BY = "smart_emergency_fallback"


pricing_reports = Table(
    "pricing_reports",
    metadata,
    agent_id(primary_key=True),
    pool_id(primary_key=True),
    Column("timestamp", Instant, primary_key=True),
    Column("spot_price", Price, nullable=False),
    Column("data_quality_flag", String(24), nullable=False),
    Column("processed_by", String(32), nullable=False, server_default=PROCESSED_BY),
    # The observations that a real point is made of: they are stored nowhere else.
    Column("primary_price", Price, comment="as the primary reported it"),
    Column("replica_price", Price, comment="as the replica reported it"),
    Column("replica_observed_at", Instant),
    Column("received_at", Instant, nullable=False),
    CheckConstraint(one_of("data_quality_flag", Flag), name="pricing_reports_flag"),
    CheckConstraint("spot_price > 0", name="pricing_reports_price"),
    CheckConstraint(
        "(data_quality_flag = 'interpolated') = (primary_price IS NULL AND replica_price IS NULL)",
        name="pricing_reports_real_points_are_observed",
    ),
    comment="The clean series: real and interpolated points.",
    **MYSQL,
)


def _buckets(name: str, comment: str) -> Table:
    return Table(
        name,
        metadata,
        agent_id(primary_key=True),
        pool_id(primary_key=True),
        Column("starts_at", Instant, primary_key=True),
        Column("points", Integer, nullable=False, comment="real ones: interpolated do not count"),
        Column("min_price", Price, nullable=False),
        Column("max_price", Price, nullable=False),
        Column("mean_price", Price, nullable=False, comment="each point counts the same"),
        Column("first_price", Price, nullable=False),
        Column("last_price", Price, nullable=False),
        comment=comment,
        **MYSQL,
    )


pricing_hourly = _buckets("pricing_hourly", "The hours of prices that are not kept any more.")


pricing_daily = _buckets("pricing_daily", "The days of prices that are not kept any more.")


# One row per series. Writing a series means updating its row: that is the compare-and-swap which
# orders the writers of a series, also between the nodes of a cluster.
price_series = Table(
    "price_series",
    metadata,
    agent_id(primary_key=True),
    pool_id(primary_key=True),
    Column("version", Integer, nullable=False, default=0),
    Column("first_at", Instant),
    Column("latest_at", Instant),
    Column("latest_price", Price),
    Column("latest_observed_at", Instant),
    Column("primary_heard_at", Instant),
    Column("replica_heard_at", Instant),
    Column("received_at", Instant),
    Column(
        "waiting",
        Integer,
        nullable=False,
        default=0,
        comment="how many rows of buffered_observations belong to the series",
    ),
    Index("price_series_first", "first_at"),
    comment="One row per series; writing a series means updating it.",
    **MYSQL,
)


buffered_observations = Table(
    "buffered_observations",
    metadata,
    agent_id(primary_key=True),
    pool_id(primary_key=True),
    Column("source", String(8), primary_key=True),
    Column("observed_at", Instant, primary_key=True),
    Column("spot_price", Price, nullable=False),
    Column("received_at", Instant, nullable=False),
    CheckConstraint(one_of("source", Source), name="buffered_observations_source"),
    Index("buffered_observations_received", "received_at"),
    comment="Reports that wait for their other half.",
    **MYSQL,
)
