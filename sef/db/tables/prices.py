"""Define the tables of prices: points, series, buffered observations and rolled-up prices."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, String, Table, text

from sef.db.tables.columns import MYSQL_OPTIONS, Instant, Price, agent_id, metadata, one_of, pool_id
from sef.terms import Flag, Source

PROCESSED_BY = "smart_emergency_fallback"


pricing_reports = Table(
    "pricing_reports",
    metadata,
    agent_id(primary_key=True),
    pool_id(primary_key=True),
    Column("timestamp", Instant, primary_key=True),
    Column("spot_price", Price, nullable=False, comment="USD per hour"),
    Column(
        "data_quality_flag",
        String(24),
        nullable=False,
        comment="normal, averaged_dual_source, divergent_dual_source or interpolated",
    ),
    Column("processed_by", String(32), nullable=False, server_default=PROCESSED_BY),
    # A real point stores its observations, which are stored nowhere else.
    Column("primary_price", Price, comment="price that the primary reported"),
    Column("replica_price", Price, comment="price that the replica reported"),
    Column("replica_observed_at", Instant, comment="time of the replica's observation"),
    Column("received_at", Instant, nullable=False, comment="time when the point was last written"),
    CheckConstraint(one_of("data_quality_flag", Flag), name="pricing_reports_flag"),
    CheckConstraint("spot_price > 0", name="pricing_reports_price"),
    CheckConstraint(
        "(data_quality_flag = 'interpolated') = (primary_price IS NULL AND replica_price IS NULL)",
        name="pricing_reports_real_points_are_observed",
    ),
    comment="Clean price series: real and interpolated points.",
    **MYSQL_OPTIONS,
)


def _buckets(name: str, comment: str) -> Table:
    return Table(
        name,
        metadata,
        agent_id(primary_key=True),
        pool_id(primary_key=True),
        Column("starts_at", Instant, primary_key=True),
        Column("points", BigInteger, nullable=False, comment="number of real points"),
        Column("min_price", Price, nullable=False),
        Column("max_price", Price, nullable=False),
        Column("mean_price", Price, nullable=False, comment="mean of the real points"),
        Column("first_price", Price, nullable=False),
        Column("last_price", Price, nullable=False),
        comment=comment,
        **MYSQL_OPTIONS,
    )


pricing_hourly = _buckets("pricing_hourly", "Prices older than the retention, summarized by hour.")


pricing_daily = _buckets("pricing_daily", "Prices older than the retention, summarized by day.")


# Every writer of a series updates its row by compare-and-swap. That orders the writers, also
# between the nodes of a cluster.
price_series = Table(
    "price_series",
    metadata,
    agent_id(primary_key=True),
    pool_id(primary_key=True),
    Column(
        "version",
        BigInteger,
        nullable=False,
        default=0,
        comment="incremented by each writer, which compares it with the version it read",
    ),
    Column("first_at", Instant, comment="time of the first point"),
    Column("latest_at", Instant, comment="time of the last point"),
    Column("latest_price", Price, comment="price of the last point"),
    Column("latest_observed_at", Instant, comment="time of the last observation in a point"),
    Column(
        "widest_fill_ms",
        BigInteger,
        nullable=False,
        default=0,
        server_default=text("0"),
        comment="width of the widest gap that was ever filled",
    ),
    Column("replica_heard_at", Instant, comment="arrival of the replica's last report"),
    Column("received_at", Instant, comment="arrival of the last report of either"),
    Column(
        "waiting",
        BigInteger,
        nullable=False,
        default=0,
        comment="number of its rows in buffered_observations",
    ),
    Index("price_series_first", "first_at"),
    comment="One row for each series of an agent and a pool.",
    **MYSQL_OPTIONS,
)


buffered_observations = Table(
    "buffered_observations",
    metadata,
    agent_id(primary_key=True),
    pool_id(primary_key=True),
    Column("source", String(8), primary_key=True, comment="primary or replica"),
    Column("observed_at", Instant, primary_key=True),
    Column("spot_price", Price, nullable=False),
    Column("received_at", Instant, nullable=False),
    CheckConstraint(one_of("source", Source), name="buffered_observations_source"),
    Index("buffered_observations_received", "received_at"),
    comment="Observations that wait for the second one of their pair.",
    **MYSQL_OPTIONS,
)
