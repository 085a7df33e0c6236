"""The tables of agents and of the instances that SEF launches for them."""

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from sef.db.tables.columns import (
    MYSQL,
    Instant,
    agent_id,
    counter,
    metadata,
    one_of,
    pool_id,
    switch,
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
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    Column("primary_since", Instant, comment="when it became the primary; NULL: at creation"),
    pool_id(),
    switch("auto_switch_enabled"),
    switch("auto_terminate_enabled"),
    switch("manual_replica_enabled"),
    Column("launch_template", String(255)),
    counter(
        "epoch",
        comment="counts the primaries it has had; what knows an older one changes nothing",
    ),
    # Bumped by every update, since an UPDATE to equal values counts no rows on MySQL.
    counter("version"),
    Column("not_before", Instant, comment="back-off: unfinished work rests until then"),
    Column("put_off_because", Text, comment="why it rests, while it does"),
    Column("probation_until", Instant, comment="a fresh primary in a risky pool has a standby"),
    Column("drill_interval", Integer, comment="seconds between drills; NULL: none"),
    Column("drilled_at", Instant),
    Column("cutover", JSON(none_as_null=True), comment="what follows the primary"),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    CheckConstraint(
        "NOT (manual_replica_enabled AND (auto_switch_enabled OR auto_terminate_enabled))",
        name="agents_one_mode",
    ),
    Index("agents_manual", "manual_replica_enabled", "id"),
    Index("agents_probation", "probation_until"),
    Index("agents_drill", "drill_interval"),
    comment="One row per agent: its primary and its modes.",
    **MYSQL,
)


replica_instances = Table(
    "replica_instances",
    metadata,
    Column("id", String(40), primary_key=True),
    agent_id(nullable=False),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    Column("replica_type", String(24), nullable=False),
    pool_id(),
    Column("market", String(12)),
    Column(
        "status",
        String(12),
        nullable=False,
        comment="launching, ready, promoted, releasing, terminated or failed",
    ),
    Column("reason", Text, nullable=False),
    Column("incident_id", String(40)),
    Column(
        "live_agent_id",
        String(AGENT_ID_LENGTH),
        comment="the agent while launching or ready, else NULL: one live standby per agent",
    ),
    Column("created_at", Instant, nullable=False),
    Column("launched_at", Instant),
    Column("ready_at", Instant),
    Column("checked_at", Instant),
    Column(
        "misses",
        Integer,
        nullable=False,
        default=0,
        server_default=text("0"),
        comment="looks in a row that did not find it at EC2",
    ),
    Column("promoted_at", Instant),
    Column("terminated_at", Instant),
    counter("version"),
    UniqueConstraint("live_agent_id", name="replica_instances_one_live"),
    UniqueConstraint("instance_id", name="replica_instances_instance"),
    CheckConstraint(one_of("replica_type", ReplicaType), name="replica_instances_type"),
    CheckConstraint(one_of("status", ReplicaStatus), name="replica_instances_status"),
    CheckConstraint(
        "(live_agent_id IS NOT NULL) = (status IN ('launching', 'ready'))",
        name="replica_instances_live",
    ),
    Index("replica_instances_agent", "agent_id", "created_at"),
    Index("replica_instances_by_status", "status", "checked_at"),
    comment="Standbys, and what became of them.",
    **MYSQL,
)


# One RunInstances call: its token and parameters are committed before it is made, so that it can
# be repeated, word for word, by whoever finds the row.
launch_attempts = Table(
    "launch_attempts",
    metadata,
    Column("client_token", String(64), primary_key=True),
    Column("replica_id", String(40), nullable=False),
    Column("attempt", Integer, nullable=False),
    pool_id(),
    Column("market", String(12), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column(
        "launch_fingerprint",
        String(32),
        nullable=False,
        comment="digest of the parameters without what tells agents apart",
    ),
    Column(
        "status",
        String(12),
        nullable=False,
        comment="open: not answered, its effect unknown; launched; refused",
    ),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    Column("error_code", String(80)),
    Column("created_at", Instant, nullable=False),
    Column(
        "calls",
        Integer,
        nullable=False,
        default=0,
        server_default=text("0"),
        comment="how often it was made, or about to be; 0: it launched nothing",
    ),
    Column("call_token", String(64), comment="the call that it shares with others, if it does"),
    Column("answered_at", Instant),
    Column(
        "tagged_at",
        Instant,
        comment="of a shared call: when the instance got the tags of its agent",
    ),
    UniqueConstraint("replica_id", "attempt", name="launch_attempts_number"),
    CheckConstraint(one_of("market", Market), name="launch_attempts_market"),
    CheckConstraint("status IN ('open', 'launched', 'refused')", name="launch_attempts_status"),
    Index("launch_attempts_by_status", "status"),
    Index("launch_attempts_created", "created_at"),
    Index("launch_attempts_call", "call_token", "tagged_at"),
    comment="Instances that are to be launched, committed before RunInstances is called.",
    **MYSQL,
)


launch_calls = Table(
    "launch_calls",
    metadata,
    Column("client_token", String(64), primary_key=True),
    Column("parameters", JSON, nullable=False),
    Column("size", Integer, nullable=False, comment="attempts that it makes, instances at most"),
    Column("calls", Integer, nullable=False, comment="how often it was made, or about to be"),
    Column("made_at", Instant, nullable=False, comment="when it was for the last time"),
    Column("created_at", Instant, nullable=False),
    CheckConstraint("size > 1", name="launch_calls_size"),
    comment="RunInstances calls for several attempts, committed before they are made.",
    **MYSQL,
)


# Former primaries that are to be terminated.
retirements = Table(
    "retirements",
    metadata,
    Column("instance_id", String(INSTANCE_ID_LENGTH), primary_key=True),
    agent_id(nullable=False),
    Column("reason", Text, nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("missed_checks", Integer, nullable=False, default=0, server_default=text("0")),
    Column("terminated_at", Instant),
    Column("obstacle", Text, comment="why it is left running after all"),
    Column("incident_id", String(40)),
    Index("retirements_due", "terminated_at", "not_before"),
    Index("retirements_agent", "agent_id", "terminated_at"),
    comment="Former primaries that are to be terminated.",
    **MYSQL,
)


# Committed before the call, so that a crash after it does not leave an end that nobody tells of.
orphan_terminations = Table(
    "orphan_terminations",
    metadata,
    Column("instance_id", String(INSTANCE_ID_LENGTH), primary_key=True),
    agent_id(comment="for whom it was launched, as far as its tags say"),
    pool_id(),
    Column("decided_at", Instant, nullable=False),
    Column("reported_at", Instant, comment="when its event was written; NULL: not yet"),
    Index("orphan_terminations_reported", "reported_at"),
    comment="Instances that no row has a use for and that are to be terminated.",
    **MYSQL,
)


unavailable_pools = Table(
    "unavailable_pools",
    metadata,
    pool_id(primary_key=True),
    Column("market", String(12), primary_key=True),
    Column("error_code", String(80), nullable=False),
    Column("until", Instant, nullable=False),
    comment="Pools that had no capacity of late.",
    **MYSQL,
)


# EC2 counts the requests of an account; so do all workers together, to stay below.
request_buckets = Table(
    "request_buckets",
    metadata,
    Column("action", String(32), primary_key=True, comment="RunInstances, TerminateInstances"),
    Column("tokens", Double, nullable=False),
    Column("refilled_at", Instant, nullable=False, comment="the moment that tokens is about"),
    counter("version"),
    comment="What is left in EC2's request buckets.",
    **MYSQL,
)
