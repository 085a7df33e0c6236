"""The tables of the history, the outbox, idempotency keys, limits and leases."""

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from sef.db.tables.columns import MYSQL, Instant, agent_id, counter, metadata, one_of, serial
from sef.terms import (
    IDEMPOTENCY_KEY_LENGTH,
    NotificationKind,
    NotificationSeverity,
)

system_events = Table(
    "system_events",
    metadata,
    serial(),
    Column("event_type", String(64), nullable=False),
    Column("severity", String(8), nullable=False),
    agent_id(),
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
    agent_id(primary_key=True, comment="empty for a limit of the whole fleet"),
    Column("hit_at", Instant, comment="the last time, about; NULL: never"),
    counter("version"),
    comment="Limits against damage, and when they were hit.",
    **MYSQL,
)


# What people are to be told: the outbox. Written in the transaction of what it tells of.
notifications = Table(
    "notifications",
    metadata,
    serial(),
    Column(
        "thread",
        String(160),
        nullable=False,
        comment="the incident; without one, type, agent and hour",
    ),
    Column("kind", String(16), nullable=False, comment="event that the notification reports"),
    Column("incident_id", String(40)),
    agent_id(),
    Column("severity", String(8), nullable=False),
    Column("title", String(255), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("dispatched_at", Instant, comment="when the channels were given it; NULL: not yet"),
    UniqueConstraint("thread", "kind", name="notifications_once"),
    CheckConstraint(one_of("kind", NotificationKind), name="notifications_kind"),
    CheckConstraint(one_of("severity", NotificationSeverity), name="notifications_severity"),
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
    serial(),
    Column("notification_id", BigInteger, nullable=False),
    Column("channel", String(160), nullable=False, comment="as it is shown, without secrets"),
    Column("thread", String(160), nullable=False),
    Column("status", String(8), nullable=False),
    Column("attempts", Integer, nullable=False, default=0, server_default=text("0")),
    Column("next_at", Instant, nullable=False),
    Column("claimed_until", Instant, comment="somebody sends it until then; NULL: nobody"),
    Column("sent_at", Instant),
    Column("error", Text),
    counter("version"),
    UniqueConstraint("notification_id", "channel", name="notification_deliveries_once"),
    CheckConstraint(
        "status IN ('pending', 'sent', 'failed')", name="notification_deliveries_status"
    ),
    Index("notification_deliveries_due", "channel", "status", "next_at"),
    Index("notification_deliveries_thread", "thread", "channel", "status"),
    comment="Messages on their way to the channels of SEF_NOTIFICATION_URLS.",
    **MYSQL,
)


# Calls of operators that a client may repeat without knowing what became of the first.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("idempotency_key", String(IDEMPOTENCY_KEY_LENGTH), primary_key=True),
    agent_id(nullable=False),
    Column("call", String(64), nullable=False),
    Column("answer", JSON(none_as_null=True), comment="NULL until the effect is committed"),
    Column("claimed_until", Instant, comment="somebody works on it until then; NULL: nobody"),
    Column("created_at", Instant, nullable=False),
    counter("version"),
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
    counter("version"),
    comment="Which process does a periodic job.",
    **MYSQL,
)
