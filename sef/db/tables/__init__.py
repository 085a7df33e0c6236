"""The tables, defined once for MySQL, MariaDB and SQLite; `schema.sql` is rendered from them.

Names and columns of the tables in `PUBLIC` are fixed: operators query them with their own SQL.
"""

from sef.db.tables.columns import metadata
from sef.db.tables.incidents import (
    cutover_steps,
    cutovers,
    incidents,
    pool_storms,
    spot_interruption_events,
    traffic_bindings,
)
from sef.db.tables.instances import (
    agent_instances,
    agents,
    kept_orphans,
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
    step_failures,
    system_events,
)
from sef.db.tables.targets import target_claims, target_looks

PUBLIC = (
    agents,
    replica_instances,
    pricing_reports,
    spot_interruption_events,
    system_events,
)

INTERNAL = (
    agent_instances,
    price_series,
    buffered_observations,
    pricing_hourly,
    pricing_daily,
    incidents,
    pool_storms,
    launch_attempts,
    launch_calls,
    unavailable_pools,
    request_buckets,
    retirements,
    orphan_terminations,
    kept_orphans,
    limit_episodes,
    step_failures,
    cutovers,
    cutover_steps,
    target_claims,
    target_looks,
    traffic_bindings,
    notifications,
    notification_deliveries,
    idempotency_keys,
    deployment,
    leases,
)

__all__ = [
    "INTERNAL",
    "PROCESSED_BY",
    "PUBLIC",
    "agent_instances",
    "agents",
    "buffered_observations",
    "cutover_steps",
    "cutovers",
    "deployment",
    "idempotency_keys",
    "incidents",
    "kept_orphans",
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
    "step_failures",
    "system_events",
    "target_claims",
    "target_looks",
    "traffic_bindings",
    "unavailable_pools",
]
