"""The tables of incidents, their signals and their cutovers."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from sef.db.tables.columns import (
    MYSQL,
    Instant,
    agent_id,
    counter,
    metadata,
    one_of,
    pool_id,
    serial,
)
from sef.terms import (
    AGENT_ID_LENGTH,
    INSTANCE_ID_LENGTH,
    OPEN_CUTOVERS,
    OPEN_INCIDENTS,
    CutoverStatus,
    IncidentKind,
    SignalType,
    StepKind,
    StepStatus,
)

# Pools that AWS took many instances of at once: one event each.
pool_storms = Table(
    "pool_storms",
    metadata,
    pool_id(primary_key=True),
    Column("began_at", Instant, nullable=False),
    Column("latest_at", Instant, nullable=False),
    Column("agents", Integer, nullable=False),
    Column("event_id", BigInteger, nullable=False, comment="the event that tells of it"),
    counter("version"),
    comment="Pools that AWS took many instances of at once, the last time for each.",
    **MYSQL,
)


# One row per instance that is being lost, however many signals announce it.
incidents = Table(
    "incidents",
    metadata,
    Column("id", String(40), primary_key=True),
    agent_id(nullable=False),
    Column(
        "subject",
        String(80),
        nullable=False,
        comment="the instance, or epoch-N for an agent whose instance is not known",
    ),
    Column(
        "kind",
        String(16),
        nullable=False,
        server_default=IncidentKind.INTERRUPTION,
        comment="interruption, loss, drill or return-to-spot",
    ),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    pool_id(),
    Column(
        "status",
        String(16),
        nullable=False,
        comment="open or needs_operator, then done or released; or ignored",
    ),
    Column(
        "open_agent_id",
        String(AGENT_ID_LENGTH),
        comment="the agent until it is over, else NULL: one open incident per agent",
    ),
    Column("goal", String(12), nullable=False, comment="monitor, standby or switch"),
    Column("reason", Text, nullable=False),
    Column("obstacle", Text, comment="why it needs an operator, while it does"),
    Column("risk_score", Double),
    Column("inputs", JSON),
    Column("rebalance_at", Instant),
    Column("termination_at", Instant),
    Column("deadline", Instant),
    Column("opened_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("replica_id", String(40)),
    Column("new_instance_id", String(INSTANCE_ID_LENGTH)),
    Column("failover_time_ms", Integer),
    counter("version"),
    UniqueConstraint("open_agent_id", name="incidents_one_open"),
    CheckConstraint(
        f"(open_agent_id IS NOT NULL) = ({one_of('status', OPEN_INCIDENTS)})", name="incidents_open"
    ),
    CheckConstraint(one_of("kind", IncidentKind), name="incidents_kind"),
    Index("incidents_subject", "agent_id", "subject", "opened_at"),
    Index("incidents_agent", "agent_id", "opened_at"),
    Index("incidents_pool", "pool_id", "rebalance_at"),
    Index("incidents_closed", "closed_at"),
    Index("incidents_termination", "termination_at"),
    comment="One row per instance that is being lost.",
    **MYSQL,
)


# One row per promotion of an agent that has cutover targets.
cutovers = Table(
    "cutovers",
    metadata,
    Column("id", String(40), primary_key=True),
    agent_id(nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("incident_id", String(40)),
    Column("old_instance_id", String(INSTANCE_ID_LENGTH)),
    Column("new_instance_id", String(INSTANCE_ID_LENGTH), nullable=False),
    pool_id(),
    Column("deadline", Instant, comment="when the old primary is gone; NULL: nothing presses"),
    Column("is_hurried", Boolean, nullable=False, comment="there was no time to await anything"),
    Column("status", String(16), nullable=False),
    Column(
        "open_agent_id",
        String(AGENT_ID_LENGTH),
        comment="the agent until it is over, else NULL: one unfinished cutover per agent",
    ),
    Column("due_at", Instant, comment="when there is something to try again; NULL: over"),
    Column("started_at", Instant, nullable=False),
    Column("traffic_moved_at", Instant, comment="when the new primary had all of its targets"),
    Column("finished_at", Instant),
    counter("version"),
    UniqueConstraint("agent_id", "epoch", name="cutovers_once"),
    UniqueConstraint("open_agent_id", name="cutovers_one_open"),
    CheckConstraint(one_of("status", CutoverStatus), name="cutovers_status"),
    CheckConstraint(
        f"(open_agent_id IS NOT NULL) = ({one_of('status', OPEN_CUTOVERS)})", name="cutovers_open"
    ),
    Index("cutovers_due", "due_at"),
    comment="One row per promotion of an agent that has cutover targets.",
    **MYSQL,
)


cutover_steps = Table(
    "cutover_steps",
    metadata,
    Column("cutover_id", String(40), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("stage", Integer, nullable=False, comment="those of one stage need not wait"),
    Column("kind", String(20), nullable=False),
    Column("target", JSON(none_as_null=True)),
    Column("status", String(8), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("latency_ms", Integer, comment="from its first attempt to its end"),
    Column("error", Text, comment="what the last attempt that did not finish it came to"),
    counter("version"),
    CheckConstraint(one_of("kind", StepKind), name="cutover_steps_kind"),
    CheckConstraint(one_of("status", StepStatus), name="cutover_steps_status"),
    comment="The steps of a cutover, in order.",
    **MYSQL,
)


spot_interruption_events = Table(
    "spot_interruption_events",
    metadata,
    serial(),
    Column("incident_id", String(40), nullable=False),
    agent_id(nullable=False),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    pool_id(),
    Column("signal_type", String(32), nullable=False),
    Column("detected_at", Instant, nullable=False),
    Column("signalled_at", Instant, nullable=False),
    Column("termination_time", Instant),
    Column("times_received", Integer, nullable=False, default=1),
    Column("last_received_at", Instant, nullable=False),
    Column("replica_id", String(40)),
    Column("failover_time_ms", Integer),
    Column("failover_completed", Boolean, nullable=False, default=False),
    UniqueConstraint("incident_id", "signal_type", name="spot_interruption_events_once"),
    CheckConstraint(one_of("signal_type", SignalType), name="spot_interruption_events_signal"),
    Index("spot_interruption_events_agent", "agent_id", "detected_at"),
    comment="The signals of AWS, one row per incident and kind.",
    **MYSQL,
)
