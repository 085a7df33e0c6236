"""The tables, once for MySQL, MariaDB and SQLite; `schema.sql` is rendered from them.

Names and columns of `agents`, `pricing_reports`, `replica_instances`, `spot_interruption_events`
and `system_events` are public: people's own SQL reads them.
"""

from sef.db.tables.columns import metadata
from sef.db.tables.incidents import (
    cutover_steps,
    cutovers,
    incidents,
    pool_storms,
    spot_interruption_events,
)
from sef.db.tables.instances import (
    agents,
    launch_attempts,
    launch_calls,
    orphan_terminations,
    replica_instances,
    request_buckets,
    retirements,
    unavailable_pools,
)
from sef.db.tables.prices import (
    PROCESSED_BY,
    buffered_observations,
    price_series,
    pricing_daily,
    pricing_hourly,
    pricing_reports,
)
from sef.db.tables.service import (
    deployment,
    idempotency_keys,
    leases,
    limit_episodes,
    notification_deliveries,
    notifications,
    system_events,
)

__all__ = [
    "PROCESSED_BY",
    "agents",
    "buffered_observations",
    "cutover_steps",
    "cutovers",
    "deployment",
    "idempotency_keys",
    "incidents",
    "launch_attempts",
    "launch_calls",
    "leases",
    "limit_episodes",
    "metadata",
    "notification_deliveries",
    "notifications",
    "orphan_terminations",
    "pool_storms",
    "price_series",
    "pricing_daily",
    "pricing_hourly",
    "pricing_reports",
    "replica_instances",
    "request_buckets",
    "retirements",
    "spot_interruption_events",
    "system_events",
    "unavailable_pools",
]
