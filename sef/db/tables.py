"""The tables, once, for MySQL, MariaDB and SQLite; `schema.sql` is rendered from here.

Names and columns of `agents`, `pricing_reports`, `replica_instances`, `spot_interruption_events`
and `system_events` are public: people's own SQL reads them.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Float,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from sef.terms import (
    AGENT_ID_LENGTH,
    IDEMPOTENCY_KEY_LENGTH,
    INSTANCE_ID_LENGTH,
    OPEN_CUTOVERS,
    OPEN_INCIDENTS,
    POOL_ID_LENGTH,
    STORED_STEP,
    CutoverStatus,
    Flag,
    IncidentKind,
    Market,
    NotificationKind,
    NotificationSeverity,
    ReplicaStatus,
    ReplicaType,
    SignalType,
    Source,
    StepKind,
    StepStatus,
)

PROCESSED_BY = "smart_emergency_fallback"


class Instant(TypeDecorator[datetime]):
    """A moment: aware and UTC in Python, a UTC DATETIME with microseconds in the database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Price(TypeDecorator[Decimal]):
    """An exact price.

    SQLite has no decimals: its double holds the 13 digits of a price, and rounding restores them.
    """

    impl = Numeric(13, 9)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Float())
        return dialect.type_descriptor(Numeric(13, 9))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return float(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None:
            return None
        return (Decimal(repr(value)) if isinstance(value, float) else value).quantize(STORED_STEP)


def one_of(column: str, values: Iterable[StrEnum]) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    # Ids that differ in case are different ids.
    "mysql_collate": "utf8mb4_bin",
}

metadata = MetaData()


def _agent_id(**options: Any) -> Column[str]:
    return Column("agent_id", String(AGENT_ID_LENGTH), **options)


def _pool_id(**options: Any) -> Column[str]:
    return Column("pool_id", String(POOL_ID_LENGTH), **options)


def _switch(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, default=False, server_default=text("0"))


def _counter(name: str, **options: Any) -> Column[int]:
    return Column(name, Integer, nullable=False, default=1, server_default=text("1"), **options)


def _serial() -> Column[int]:
    return Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )


agents = Table(
    "agents",
    metadata,
    Column("id", String(AGENT_ID_LENGTH), primary_key=True),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    Column("primary_since", Instant, comment="when it became the primary; NULL: at creation"),
    _pool_id(),
    _switch("auto_switch_enabled"),
    _switch("auto_terminate_enabled"),
    _switch("manual_replica_enabled"),
    Column("launch_template", String(255)),
    _counter(
        "epoch",
        comment="counts the primaries it has had; what knows an older one changes nothing",
    ),
    # Bumped by every update, since an UPDATE to equal values counts no rows on MySQL.
    _counter("version"),
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

pricing_reports = Table(
    "pricing_reports",
    metadata,
    _agent_id(primary_key=True),
    _pool_id(primary_key=True),
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
        _agent_id(primary_key=True),
        _pool_id(primary_key=True),
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
    _agent_id(primary_key=True),
    _pool_id(primary_key=True),
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
    _agent_id(primary_key=True),
    _pool_id(primary_key=True),
    Column("source", String(8), primary_key=True),
    Column("observed_at", Instant, primary_key=True),
    Column("spot_price", Price, nullable=False),
    Column("received_at", Instant, nullable=False),
    CheckConstraint(one_of("source", Source), name="buffered_observations_source"),
    Index("buffered_observations_received", "received_at"),
    comment="Reports that wait for their other half.",
    **MYSQL,
)

replica_instances = Table(
    "replica_instances",
    metadata,
    Column("id", String(40), primary_key=True),
    _agent_id(nullable=False),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    Column("replica_type", String(24), nullable=False),
    _pool_id(),
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
    _counter("version"),
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
    _pool_id(),
    Column("market", String(12), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column(
        "shape",
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
    _agent_id(nullable=False),
    Column("reason", Text, nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("misses", Integer, nullable=False, default=0, server_default=text("0")),
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
    _agent_id(comment="for whom it was launched, as far as its tags say"),
    _pool_id(),
    Column("decided_at", Instant, nullable=False),
    Column("told_at", Instant, comment="when its event was written; NULL: not yet"),
    Index("orphan_terminations_told", "told_at"),
    comment="Instances that no row has a use for and that are to be terminated.",
    **MYSQL,
)

unavailable_pools = Table(
    "unavailable_pools",
    metadata,
    _pool_id(primary_key=True),
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
    _counter("version"),
    comment="What is left in EC2's request buckets.",
    **MYSQL,
)

# Pools that AWS took many instances of at once: one event each.
pool_storms = Table(
    "pool_storms",
    metadata,
    _pool_id(primary_key=True),
    Column("began_at", Instant, nullable=False),
    Column("latest_at", Instant, nullable=False),
    Column("agents", Integer, nullable=False),
    Column("event_id", BigInteger, nullable=False, comment="the event that tells of it"),
    _counter("version"),
    comment="Pools that AWS took many instances of at once, the last time for each.",
    **MYSQL,
)

# One row per instance that is being lost, however many signals announce it.
incidents = Table(
    "incidents",
    metadata,
    Column("id", String(40), primary_key=True),
    _agent_id(nullable=False),
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
    _pool_id(),
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
    _counter("version"),
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
    _agent_id(nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("incident_id", String(40)),
    Column("old_instance_id", String(INSTANCE_ID_LENGTH)),
    Column("new_instance_id", String(INSTANCE_ID_LENGTH), nullable=False),
    _pool_id(),
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
    Column("served_at", Instant, comment="when the new primary had everything it is to have"),
    Column("finished_at", Instant),
    _counter("version"),
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
    _counter("version"),
    CheckConstraint(one_of("kind", StepKind), name="cutover_steps_kind"),
    CheckConstraint(one_of("status", StepStatus), name="cutover_steps_status"),
    comment="The steps of a cutover, in order.",
    **MYSQL,
)

spot_interruption_events = Table(
    "spot_interruption_events",
    metadata,
    _serial(),
    Column("incident_id", String(40), nullable=False),
    _agent_id(nullable=False),
    Column("instance_id", String(INSTANCE_ID_LENGTH)),
    _pool_id(),
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

system_events = Table(
    "system_events",
    metadata,
    _serial(),
    Column("event_type", String(64), nullable=False),
    Column("severity", String(8), nullable=False),
    _agent_id(),
    Column("incident_id", String(40)),
    Column("message", Text, nullable=False),
    Column("metadata", JSON, key="details"),
    Column("created_at", Instant, nullable=False),
    CheckConstraint("severity IN ('info', 'warning', 'error')", name="system_events_severity"),
    Index("system_events_agent", "agent_id", "id"),
    Index("system_events_incident", "incident_id", "id"),
    comment="What SEF did, saw or refused, for people.",
    **MYSQL,
)

# A limit that is hit is said once, not with every try that it stops.
limit_episodes = Table(
    "limit_episodes",
    metadata,
    Column("name", String(32), primary_key=True, comment="the setting that sets the limit"),
    _agent_id(primary_key=True, comment="empty for a limit of the whole fleet"),
    Column("hit_at", Instant, comment="the last time, about; NULL: never"),
    _counter("version"),
    comment="Limits against damage, and when they were hit.",
    **MYSQL,
)

# What people are to be told: the outbox. Written in the transaction of what it tells of.
notifications = Table(
    "notifications",
    metadata,
    _serial(),
    Column(
        "thread",
        String(160),
        nullable=False,
        comment="the incident; without one, type, agent and hour",
    ),
    Column("moment", String(16), nullable=False, comment="event that the notification reports"),
    Column("incident_id", String(40)),
    _agent_id(),
    Column("urgency", String(8), nullable=False),
    Column("title", String(255), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("dispatched_at", Instant, comment="when the channels were given it; NULL: not yet"),
    UniqueConstraint("thread", "moment", name="notifications_once"),
    CheckConstraint(one_of("moment", NotificationKind), name="notifications_moment"),
    CheckConstraint(one_of("urgency", NotificationSeverity), name="notifications_urgency"),
    Index("notifications_to_dispatch", "dispatched_at", "id"),
    Index("notifications_incident", "incident_id", "id"),
    comment="What people are to be told.",
    **MYSQL,
)

# One message on its way to one channel. A claim says who sends it; one that has run out is
# sent again, since nobody knows whether it went.
notification_deliveries = Table(
    "notification_deliveries",
    metadata,
    _serial(),
    Column("notification_id", BigInteger, nullable=False),
    Column("channel", String(160), nullable=False, comment="as it is shown, without secrets"),
    Column("thread", String(160), nullable=False),
    Column("status", String(8), nullable=False),
    Column("attempts", Integer, nullable=False, default=0, server_default=text("0")),
    Column("next_at", Instant, nullable=False),
    Column("claimed_until", Instant, comment="somebody sends it until then; NULL: nobody"),
    Column("sent_at", Instant),
    Column("error", Text),
    _counter("version"),
    UniqueConstraint("notification_id", "channel", name="notification_deliveries_once"),
    CheckConstraint(
        "status IN ('pending', 'sent', 'failed')", name="notification_deliveries_status"
    ),
    Index("notification_deliveries_due", "channel", "status", "next_at"),
    Index("notification_deliveries_thread", "thread", "channel", "status"),
    comment="Messages on their way to the channels of SEF_NOTIFY.",
    **MYSQL,
)

# Calls of operators that a client may repeat without knowing what became of the first.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("idempotency_key", String(IDEMPOTENCY_KEY_LENGTH), primary_key=True),
    _agent_id(nullable=False),
    Column("call", String(64), nullable=False),
    Column("answer", JSON(none_as_null=True), comment="NULL until the effect is committed"),
    Column("claimed_until", Instant, comment="somebody works on it until then; NULL: nobody"),
    Column("created_at", Instant, nullable=False),
    _counter("version"),
    Index("idempotency_keys_created", "created_at"),
    comment="Calls that carried an Idempotency-Key, and their answers.",
    **MYSQL,
)

# Who this SEF is: part of the tag of every instance it launches, so that two of them in one AWS
# account leave each other's alone.
deployment = Table(
    "deployment",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False, comment="always 1"),
    Column("name", String(40), nullable=False),
    CheckConstraint("one = 1", name="deployment_one"),
    comment="Who this SEF is: part of the tag of its instances.",
    **MYSQL,
)

# Which process does a periodic job. A lease only saves work: two holders do no harm.
leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("expires_at", Instant, nullable=False),
    _counter("version"),
    comment="Which process does a periodic job.",
    **MYSQL,
)
