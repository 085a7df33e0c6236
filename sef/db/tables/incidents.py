"""Define the tables of incidents, signals, cutovers and storms."""

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
    MYSQL_OPTIONS,
    Instant,
    agent_id,
    metadata,
    one_of,
    pool_id,
    serial,
    version,
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

pool_storms = Table(
    "pool_storms",
    metadata,
    pool_id(primary_key=True),
    Column("began_at", Instant, nullable=False, comment="first termination of the storm"),
    Column("latest_at", Instant, nullable=False, comment="last termination of the storm"),
    Column("agents", BigInteger, nullable=False, comment="number of agents with an interruption"),
    Column("event_id", BigInteger, nullable=False, comment="row of system_events for the storm"),
    version(),
    comment="The latest storm of each pool: interruptions of several agents at the same time.",
    **MYSQL_OPTIONS,
)


incidents = Table(
    "incidents",
    metadata,
    Column("id", String(40), primary_key=True),
    agent_id(nullable=False),
    Column(
        "subject",
        String(80),
        nullable=False,
        comment="instance id, or epoch-N if the instance of the agent is unknown",
    ),
    Column(
        "kind",
        String(16),
        nullable=False,
        server_default=IncidentKind.INTERRUPTION,
        comment="interruption, loss, drill or return-to-spot",
    ),
    Column("instance_id", String(INSTANCE_ID_LENGTH), comment="instance that is being lost"),
    pool_id(comment="spot pool of that instance"),
    Column(
        "status",
        String(16),
        nullable=False,
        comment="open, needs_operator, done, released or ignored; see docs/glossary.md",
    ),
    Column(
        "open_agent_id",
        String(AGENT_ID_LENGTH),
        comment="agent_id while open or needs_operator, else NULL; unique: one open per agent",
    ),
    Column("goal", String(12), nullable=False, comment="monitor, standby or switch; only rises"),
    Column("reason", Text, nullable=False, comment="latest decision, as a sentence"),
    Column("obstacle", Text, comment="cause to remove while the status is needs_operator"),
    Column("risk_score", Double, comment="estimated risk of an interruption, 0 to 1"),
    Column("inputs", JSON, comment="values on which the latest decision is based"),
    Column("rebalance_at", Instant, comment="arrival of the rebalance recommendation"),
    Column("termination_at", Instant, comment="arrival of the notice, or detection of the loss"),
    Column("deadline", Instant, comment="time at which AWS terminates the instance"),
    Column("opened_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("replica_id", String(40), comment="replica that was promoted"),
    Column("new_instance_id", String(INSTANCE_ID_LENGTH), comment="primary after the promotion"),
    Column(
        "failover_time_ms",
        BigInteger,
        comment="from arrival of the signal, or start of a planned switchover, to promotion",
    ),
    version(),
    UniqueConstraint("open_agent_id", name="incidents_one_open"),
    CheckConstraint(
        f"(open_agent_id IS NOT NULL) = ({one_of('status', OPEN_INCIDENTS)})", name="incidents_open"
    ),
    CheckConstraint(one_of("kind", IncidentKind), name="incidents_kind"),
    Index("incidents_subject", "agent_id", "subject", "opened_at"),
    Index("incidents_agent", "agent_id", "opened_at"),
    Index("incidents_instance", "instance_id", "opened_at"),
    Index("incidents_pool", "pool_id", "rebalance_at"),
    Index("incidents_closed", "closed_at"),
    Index("incidents_termination", "termination_at"),
    comment="One row for each instance that is being lost, or for each planned switchover.",
    **MYSQL_OPTIONS,
)


cutovers = Table(
    "cutovers",
    metadata,
    Column("id", String(40), primary_key=True),
    agent_id(nullable=False),
    Column("epoch", BigInteger, nullable=False, comment="epoch of the agent after the promotion"),
    Column("incident_id", String(40), comment="NULL for a switch without an incident"),
    Column("old_instance_id", String(INSTANCE_ID_LENGTH)),
    Column("new_instance_id", String(INSTANCE_ID_LENGTH), nullable=False),
    pool_id(comment="spot pool of the new primary"),
    Column("deadline", Instant, comment="earliest end of a holder of targets; NULL if none ends"),
    Column(
        "is_hurried",
        Boolean,
        nullable=False,
        comment="a step had less than 30 s when that end became known: it does not wait",
    ),
    Column(
        "status",
        String(16),
        nullable=False,
        comment="running, needs_operator, done or superseded; see docs/glossary.md",
    ),
    Column(
        "open_agent_id",
        String(AGENT_ID_LENGTH),
        comment="agent_id while running or needs_operator, else NULL; unique: one per agent",
    ),
    Column("due_at", Instant, comment="next attempt of an unfinished step; NULL when finished"),
    Column("started_at", Instant, nullable=False),
    Column("traffic_moved_at", Instant, comment="time when all targets had moved"),
    Column("looked_at", Instant, comment="last look at the former primaries and the holders"),
    Column("not_running", JSON(none_as_null=True), comment="former primaries that do not run"),
    Column("finished_at", Instant),
    version(),
    UniqueConstraint("agent_id", "epoch", name="cutovers_once"),
    UniqueConstraint("open_agent_id", name="cutovers_one_open"),
    CheckConstraint(one_of("status", CutoverStatus), name="cutovers_status"),
    CheckConstraint(
        f"(open_agent_id IS NOT NULL) = ({one_of('status', OPEN_CUTOVERS)})", name="cutovers_open"
    ),
    Index("cutovers_due", "due_at"),
    comment="One row for each epoch in which the targets of an agent had to follow its primary.",
    **MYSQL_OPTIONS,
)


cutover_steps = Table(
    "cutover_steps",
    metadata,
    Column("cutover_id", String(40), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(20), nullable=False, comment="see docs/glossary.md"),
    Column("target", JSON(none_as_null=True), comment="resource that moves; NULL if there is none"),
    Column("status", String(8), nullable=False, comment="pending, done, failed or skipped"),
    Column("attempts", BigInteger, nullable=False, default=0),
    Column("not_before", Instant, nullable=False, comment="earliest next attempt"),
    Column("started_at", Instant, comment="first attempt"),
    Column("finished_at", Instant),
    Column("latency_ms", BigInteger, comment="from the first attempt to the end of the step"),
    Column("ends_at", Instant, comment="end of the holder of the target; NULL if none is known"),
    Column(
        "is_hurried",
        Boolean,
        nullable=False,
        default=False,
        comment="less than 30 s were left when that end became known",
    ),
    Column(
        "is_guarded",
        Boolean,
        nullable=False,
        default=False,
        comment="no promotion asked for it: no target is taken from a strange instance",
    ),
    Column(
        "is_waiting",
        Boolean,
        nullable=False,
        default=False,
        comment="AWS throttled the last attempt, or it waits on purpose: no time-out",
    ),
    Column(
        "taken_from",
        JSON(none_as_null=True),
        comment="instance that gave the target, how it had it, and why the target went back",
    ),
    Column("error", Text, comment="result of the last attempt that did not finish the step"),
    version(),
    CheckConstraint(one_of("kind", StepKind), name="cutover_steps_kind"),
    CheckConstraint(one_of("status", StepStatus), name="cutover_steps_status"),
    comment="The steps of a cutover: what was done for each target, and what is left.",
    **MYSQL_OPTIONS,
)


traffic_bindings = Table(
    "traffic_bindings",
    metadata,
    agent_id(primary_key=True),
    Column("target", String(320), primary_key=True, comment="ARN of the group, or zone/name"),
    Column(
        "instance_id",
        String(INSTANCE_ID_LENGTH),
        nullable=False,
        comment="primary at which it was seen",
    ),
    Column("ports", JSON, nullable=False, comment="ports of the primary in the target group"),
    Column("addresses", JSON, nullable=False, comment="addresses of the primary in the record"),
    Column("seen_at", Instant, nullable=False),
    comment="How traffic was bound at the last primary of an agent, known after its end.",
    **MYSQL_OPTIONS,
)


cutover_bindings = Table(
    "cutover_bindings",
    metadata,
    agent_id(primary_key=True),
    Column("target", String(64), primary_key=True, comment="such as volume vol-0abc1234"),
    Column("instance_id", String(INSTANCE_ID_LENGTH), nullable=False, comment="holder then"),
    Column(
        "binding",
        JSON(none_as_null=True),
        nullable=False,
        comment="its interface, device index, private address or device",
    ),
    comment="How the primary of an agent last had each target, for the next primary.",
    **MYSQL_OPTIONS,
)


spot_interruption_events = Table(
    "spot_interruption_events",
    metadata,
    serial(),
    Column("incident_id", String(40), nullable=False),
    agent_id(nullable=False),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    pool_id(),
    Column(
        "signal_type",
        String(32),
        nullable=False,
        comment="rebalance-recommendation, termination-notice or unannounced-loss",
    ),
    Column("detected_at", Instant, nullable=False, comment="first arrival at SEF"),
    Column("signalled_at", Instant, nullable=False, comment="latest time in the signal, by AWS"),
    Column("termination_time", Instant, comment="announced end of the instance"),
    Column("times_received", BigInteger, nullable=False, default=1),
    Column("last_received_at", Instant, nullable=False),
    Column("replica_id", String(40), comment="replica that was promoted because of the signal"),
    Column("failover_time_ms", BigInteger, comment="from detected_at to the promotion"),
    Column(
        "failover_completed",
        Boolean,
        nullable=False,
        default=False,
        comment="true if the signal caused a promotion",
    ),
    UniqueConstraint("incident_id", "signal_type", name="spot_interruption_events_once"),
    CheckConstraint(one_of("signal_type", SignalType), name="spot_interruption_events_signal"),
    Index("spot_interruption_events_agent", "agent_id", "detected_at"),
    comment="Signals: one row for each incident and signal type, however often it arrived.",
    **MYSQL_OPTIONS,
)
