"""Define the tables of agents and of the instances that SEF launches for them."""

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Index,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from sef.db.tables.columns import (
    MYSQL_OPTIONS,
    Instant,
    agent_id,
    boolean,
    counter,
    metadata,
    one_of,
    pool_id,
    version,
)
from sef.terms import (
    AGENT_ID_LENGTH,
    INSTANCE_ID_LENGTH,
    Market,
    ReplicaStatus,
    ReplicaType,
)

agents = Table(
    "agents",
    metadata,
    Column("id", String(AGENT_ID_LENGTH), primary_key=True),
    Column("instance_id", String(INSTANCE_ID_LENGTH), comment="primary; NULL if unknown"),
    Column(
        "primary_since",
        Instant,
        comment="time when it became the primary; NULL: when the agent was created",
    ),
    pool_id(comment="spot pool of the primary"),
    boolean("auto_switch_enabled", comment="switch after a rebalance recommendation"),
    boolean("auto_terminate_enabled", comment="terminate the old primary after automatic switches"),
    boolean("manual_replica_enabled", comment="always keep a standby; an operator switches"),
    Column("launch_template", String(255), comment="NULL: SEF_LAUNCH_TEMPLATE"),
    counter(
        "epoch",
        first=1,
        comment="incremented with each new primary; commands of an older epoch have no effect",
    ),
    version(),
    Column("not_before", Instant, comment="earliest retry of unfinished work"),
    Column("put_off_because", Text, comment="reason why the work was postponed until then"),
    Column("probation_until", Instant, comment="until then the new primary keeps a standby"),
    Column("drill_interval", BigInteger, comment="seconds between drills; NULL: no drills"),
    Column("drilled_at", Instant, comment="start of the last drill"),
    Column("cutover", JSON(none_as_null=True), comment="targets that follow the primary"),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint(
        "NOT (manual_replica_enabled AND (auto_switch_enabled OR auto_terminate_enabled))",
        name="agents_one_mode",
    ),
    Index("agents_manual", "manual_replica_enabled", "id"),
    Index("agents_probation", "probation_until"),
    Index("agents_drill", "drill_interval"),
    Index("agents_instance", "instance_id"),
    comment="One row for each agent: its primary and its modes.",
    **MYSQL_OPTIONS,
)


# Reports update `heard_at` without reading the row first, and keep the later time.
agent_instances = Table(
    "agent_instances",
    metadata,
    agent_id(primary_key=True),
    Column(
        "instance_id",
        String(INSTANCE_ID_LENGTH),
        primary_key=True,
        comment="empty: reports that named no instance",
    ),
    Column("heard_at", Instant, comment="latest time of its reports, at most 30 s behind"),
    Column("primary_until", Instant, comment="time when it ceased to be the agent's primary"),
    Column("gone_since", Instant, comment="when EC2 first showed it gone while others reported"),
    Index("agent_instances_heard", "heard_at"),
    comment="One row for each instance that reported for an agent, or that was its primary.",
    **MYSQL_OPTIONS,
)


replica_instances = Table(
    "replica_instances",
    metadata,
    Column("id", String(40), primary_key=True),
    agent_id(nullable=False),
    Column("instance_id", String(INSTANCE_ID_LENGTH), comment="NULL until EC2 has launched it"),
    Column(
        "replica_type",
        String(24),
        nullable=False,
        comment="manual, automatic-rebalance or automatic-termination",
    ),
    pool_id(comment="pool of the latest launch attempt"),
    Column("market", String(12), comment="spot or on-demand, in the latest attempt"),
    Column(
        "status",
        String(12),
        nullable=False,
        comment="launching, ready, promoted, releasing, terminated or failed; see docs/glossary.md",
    ),
    Column("reason", Text, nullable=False, comment="reason for the latest status"),
    Column("incident_id", String(40), comment="incident for which it was launched"),
    Column(
        "live_agent_id",
        String(AGENT_ID_LENGTH),
        comment="agent_id while it is the agent's standby, launching or ready, else NULL; unique: "
        "one standby per agent",
    ),
    Column(
        "relief_agent_id",
        String(AGENT_ID_LENGTH),
        comment="agent_id while it launches beside a standby that is slow or has a recommendation;"
        " unique: one relief per agent",
    ),
    Column(
        "relief_not_before", Instant, comment="earliest launch of a relief; NULL: none was decided"
    ),
    Column("recommended_at", Instant, comment="arrival of the latest recommendation for it"),
    Column("created_at", Instant, nullable=False),
    Column("launched_at", Instant),
    Column("ready_at", Instant, comment="time when EC2 reported the instance as running"),
    Column("checked_at", Instant, comment="last health check"),
    counter("misses", comment="consecutive health checks in which EC2 did not show the instance"),
    Column("promoted_at", Instant),
    Column(
        "call_at",
        Instant,
        comment="while releasing: committed before TerminateInstances; NULL: not yet",
    ),
    Column("terminated_at", Instant),
    version(),
    UniqueConstraint("live_agent_id", name="replica_instances_one_live"),
    UniqueConstraint("relief_agent_id", name="replica_instances_one_relief"),
    UniqueConstraint("instance_id", name="replica_instances_instance"),
    CheckConstraint(one_of("replica_type", ReplicaType), name="replica_instances_type"),
    CheckConstraint(one_of("status", ReplicaStatus), name="replica_instances_status"),
    CheckConstraint(
        "(live_agent_id IS NOT NULL OR relief_agent_id IS NOT NULL)"
        " = (status IN ('launching', 'ready'))",
        name="replica_instances_live",
    ),
    CheckConstraint(
        "relief_agent_id IS NULL OR (live_agent_id IS NULL AND status = 'launching')",
        name="replica_instances_relief",
    ),
    Index("replica_instances_agent", "agent_id", "created_at"),
    Index("replica_instances_by_status", "status", "checked_at"),
    Index("replica_instances_recommended", "recommended_at"),
    comment="Replicas: standbys, and former standbys with their result.",
    **MYSQL_OPTIONS,
)


# The client token and the parameters are committed before RunInstances is called. If the worker
# dies, any other worker can repeat the same call.
launch_attempts = Table(
    "launch_attempts",
    metadata,
    Column("client_token", String(64), primary_key=True),
    Column("replica_id", String(40), nullable=False),
    Column("attempt", BigInteger, nullable=False, comment="number of the attempt for this replica"),
    pool_id(),
    Column("market", String(12), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column(
        "launch_fingerprint",
        String(32),
        nullable=False,
        comment="digest of the parameters that do not depend on the agent",
    ),
    Column(
        "status",
        String(12),
        nullable=False,
        comment="open: no answer yet, the effect is unknown; launched; refused",
    ),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    Column("error_code", String(80), comment="error code of EC2 if refused"),
    Column("created_at", Instant, nullable=False),
    counter("calls", comment="number of calls, counted before each; 0: nothing was launched"),
    Column("called_at", Instant, comment="time of the first call; NULL: none was made"),
    Column(
        "call_token", String(64), comment="row of launch_calls; NULL: a call for this attempt alone"
    ),
    Column("answered_at", Instant),
    Column(
        "tagged_at",
        Instant,
        comment="in a shared call: time when the instance got the tags of its agent",
    ),
    Column(
        "attributes",
        JSON(none_as_null=True),
        comment="attributes that are set after the launch, such as SourceDestCheck",
    ),
    Column("attributes_set_at", Instant, comment="time when EC2 accepted or refused them"),
    UniqueConstraint("replica_id", "attempt", name="launch_attempts_number"),
    CheckConstraint(one_of("market", Market), name="launch_attempts_market"),
    CheckConstraint("status IN ('open', 'launched', 'refused')", name="launch_attempts_status"),
    Index("launch_attempts_by_status", "status"),
    Index("launch_attempts_created", "created_at"),
    Index("launch_attempts_call", "call_token", "tagged_at"),
    comment="Launch attempts, committed before RunInstances is called.",
    **MYSQL_OPTIONS,
)


launch_calls = Table(
    "launch_calls",
    metadata,
    Column("client_token", String(64), primary_key=True),
    Column("parameters", JSON, nullable=False),
    Column("size", BigInteger, nullable=False, comment="number of attempts, maximum of instances"),
    Column("calls", BigInteger, nullable=False, comment="number of calls, counted before each"),
    Column("made_at", Instant, nullable=False, comment="time of the last call"),
    Column("created_at", Instant, nullable=False),
    CheckConstraint("size > 1", name="launch_calls_size"),
    comment="RunInstances calls that serve several launch attempts, committed before the call.",
    **MYSQL_OPTIONS,
)


# A row is inserted whenever an instance stops being the primary, and deleted if it becomes one
# again. Each pass computes anew if the instance may be terminated (sef.failover.retention).
retirements = Table(
    "retirements",
    metadata,
    Column("instance_id", String(INSTANCE_ID_LENGTH), primary_key=True),
    agent_id(nullable=False),
    pool_id(),
    Column("market", String(12), comment="NULL: SEF did not launch it"),
    boolean("was_primary", comment="false: a surplus instance of a batched launch"),
    Column("reason", Text, nullable=False, comment="reason why the agent no longer needs it"),
    Column("since", Instant, nullable=False, comment="time from which it was not needed"),
    Column(
        "terminate_after",
        Instant,
        comment="end of the drain; NULL: AWS or the operator terminates it",
    ),
    Column("kept_because", Text, comment="reason why it still runs, as of the last pass"),
    Column("not_before", Instant, comment="earliest next attempt to terminate it"),
    Column("checked_at", Instant, comment="last health check"),
    counter("missed_checks", comment="consecutive checks in which EC2 did not show the instance"),
    Column(
        "call_at",
        Instant,
        comment="committed before TerminateInstances; from then on it cannot become a primary",
    ),
    Column("terminated_at", Instant, comment="time when it was known to have ended"),
    Column("incident_id", String(40)),
    Column("stopped_at", Instant, comment="time when AWS was first seen to have stopped it"),
    Column("spot_request_id", String(40), comment="spot request that launched it; NULL: unknown"),
    version(),
    Index("retirements_due", "terminated_at", "terminate_after"),
    Index("retirements_checks", "terminated_at", "checked_at"),
    Index("retirements_agent", "agent_id", "terminated_at"),
    comment="Former primaries and surplus instances: kept for a reason, or terminated.",
    **MYSQL_OPTIONS,
)


# An operator has named the instance. Deleted when it becomes a primary again.
ordered_ends = Table(
    "ordered_ends",
    metadata,
    Column("instance_id", String(INSTANCE_ID_LENGTH), primary_key=True),
    agent_id(nullable=False),
    Column("ordered_at", Instant, nullable=False),
    comment="Instances that SEF is to terminate although they hold targets.",
    **MYSQL_OPTIONS,
)


# Committed before the call: if the worker dies after the call, the next pass writes the event.
orphan_terminations = Table(
    "orphan_terminations",
    metadata,
    Column("instance_id", String(INSTANCE_ID_LENGTH), primary_key=True),
    agent_id(comment="agent that the tags of the instance name"),
    pool_id(),
    Column("decided_at", Instant, nullable=False),
    Column("reported_at", Instant, comment="time of its event; NULL: not written yet"),
    Index("orphan_terminations_reported", "reported_at"),
    comment="Terminations of orphans: instances of SEF that no other row refers to.",
    **MYSQL_OPTIONS,
)


# Computed by each sweep; the status shows them, since it must not wait for EC2.
kept_orphans = Table(
    "kept_orphans",
    metadata,
    Column("instance_id", String(INSTANCE_ID_LENGTH), primary_key=True),
    agent_id(comment="agent that the tags of the instance name"),
    pool_id(),
    Column("verdict", String(16), nullable=False, comment="why the sweep keeps it"),
    Column("reason", Text, nullable=False, comment="the verdict as a sentence"),
    Column("found_at", Instant, nullable=False),
    Column("told_at", Instant, comment="last event about it; NULL: none yet"),
    Index("kept_orphans_agent", "agent_id"),
    comment="Running instances of SEF that no row refers to and that SEF leaves running.",
    **MYSQL_OPTIONS,
)


unavailable_pools = Table(
    "unavailable_pools",
    metadata,
    pool_id(primary_key=True),
    Column("market", String(12), primary_key=True),
    Column("error_code", String(80), nullable=False, comment="reason for the cooldown"),
    Column("until", Instant, nullable=False, comment="end of the cooldown"),
    comment="Cooldowns of pools after a capacity error or an interruption.",
    **MYSQL_OPTIONS,
)


# EC2 limits the request rate of an account, so all workers take their tokens from the same row.
request_buckets = Table(
    "request_buckets",
    metadata,
    Column("action", String(32), primary_key=True, comment="RunInstances or TerminateInstances"),
    Column("tokens", Double, nullable=False, comment="tokens left at refilled_at"),
    Column("refilled_at", Instant, nullable=False),
    version(),
    comment="Token buckets of EC2's request rate limits, as SEF estimates them.",
    **MYSQL_OPTIONS,
)
