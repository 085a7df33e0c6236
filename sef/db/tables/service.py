"""Define the tables of events, notifications, idempotency keys, limits and leases."""

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
)

from sef.db.tables.columns import (
    MYSQL_OPTIONS,
    Instant,
    agent_id,
    counter,
    metadata,
    one_of,
    serial,
    version,
)
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
    Column("severity", String(8), nullable=False, comment="info, warning or error"),
    agent_id(comment="NULL for an event that concerns no single agent"),
    Column("incident_id", String(40)),
    Column("message", Text, nullable=False),
    Column("metadata", JSON, key="details", comment="details for programs"),
    Column("created_at", Instant, nullable=False),
    CheckConstraint("severity IN ('info', 'warning', 'error')", name="system_events_severity"),
    Index("system_events_agent", "agent_id", "id"),
    Index("system_events_incident", "incident_id", "id"),
    comment="History: actions, findings and rejections of SEF, as sentences.",
    **MYSQL_OPTIONS,
)


# One event reports an episode of a limit. Attempts that the limit stops later write no event.
limit_episodes = Table(
    "limit_episodes",
    metadata,
    Column(
        "name",
        String(64),
        primary_key=True,
        comment="setting of the limit, and what it holds back if that is of several kinds",
    ),
    agent_id(primary_key=True, comment="empty for a limit of the fleet"),
    Column("hit_at", Instant, comment="approximate last time; NULL: never"),
    Column("told_at", Instant, comment="time of the last event; NULL: none"),
    version(),
    comment="Safety limits, and the last time that each was reached.",
    **MYSQL_OPTIONS,
)


# One event reports an episode of a failure. Repeats only move `seen_at`.
step_failures = Table(
    "step_failures",
    metadata,
    agent_id(primary_key=True, comment="empty for a step of no single agent"),
    Column("step", String(64), primary_key=True),
    Column("error", String(100), primary_key=True, comment="type of the exception"),
    Column("seen_at", Instant, comment="approximate last time"),
    version(),
    Index("step_failures_seen", "seen_at"),
    comment="Steps of the periodic work that an exception ended.",
    **MYSQL_OPTIONS,
)


# The outbox: a notification is committed in the same transaction as the change that it reports.
notifications = Table(
    "notifications",
    metadata,
    serial(),
    Column(
        "thread",
        String(160),
        nullable=False,
        comment="incident id; without an incident, event type, agent and matter",
    ),
    Column(
        "kind",
        String(16),
        nullable=False,
        comment="see docs/notifications.md",
    ),
    Column(
        "matter",
        String(40),
        nullable=False,
        comment="digest of the kind, the incident or agent, and what it is about",
    ),
    Column("incident_id", String(40)),
    agent_id(),
    Column("severity", String(8), nullable=False),
    Column("title", String(255), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("dispatched_at", Instant, comment="time when its deliveries were created"),
    UniqueConstraint("matter", name="notifications_once"),
    CheckConstraint(one_of("kind", NotificationKind), name="notifications_kind"),
    CheckConstraint(one_of("severity", NotificationSeverity), name="notifications_severity"),
    Index("notifications_to_dispatch", "dispatched_at", "id"),
    Index("notifications_incident", "incident_id", "id"),
    comment="Outbox: notifications about incidents and events.",
    **MYSQL_OPTIONS,
)


# A worker claims a delivery before it sends the message. If the claim expires, the result is
# unknown and the message is sent again.
notification_deliveries = Table(
    "notification_deliveries",
    metadata,
    serial(),
    Column("notification_id", BigInteger, nullable=False),
    Column("channel", String(160), nullable=False, comment="URL of the channel, without secrets"),
    Column("thread", String(160), nullable=False),
    Column("status", String(8), nullable=False, comment="pending, sent or failed"),
    counter("attempts"),
    Column("next_at", Instant, nullable=False, comment="earliest next attempt"),
    Column("claimed_until", Instant, comment="a worker sends it until then; NULL: no worker"),
    Column("sent_at", Instant),
    Column("error", Text, comment="result of the last failed attempt"),
    Column(
        "digest",
        BigInteger,
        comment="id of the first delivery in the digest that it was sent in; NULL: by itself",
    ),
    version(),
    UniqueConstraint("notification_id", "channel", name="notification_deliveries_once"),
    CheckConstraint(
        "status IN ('pending', 'sent', 'failed')", name="notification_deliveries_status"
    ),
    Index("notification_deliveries_due", "channel", "status", "next_at"),
    Index("notification_deliveries_sent", "channel", "sent_at"),
    Index("notification_deliveries_thread", "thread", "channel", "status"),
    comment="One row for each notification and channel of SEF_NOTIFICATION_URLS.",
    **MYSQL_OPTIONS,
)


idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("idempotency_key", String(IDEMPOTENCY_KEY_LENGTH), primary_key=True),
    agent_id(nullable=False),
    Column("call", String(64), nullable=False, comment="operation that the key belongs to"),
    Column("answer", JSON(none_as_null=True), comment="NULL until the effect is committed"),
    Column("claimed_until", Instant, comment="a worker runs it until then; NULL: no worker"),
    Column("created_at", Instant, nullable=False),
    version(),
    Index("idempotency_keys_created", "created_at"),
    comment="Calls with an Idempotency-Key, and their answers for repeats.",
    **MYSQL_OPTIONS,
)


# The name is the value of the tag sef:managed. By it, two deployments of SEF in one AWS account
# distinguish their instances.
deployment = Table(
    "deployment",
    metadata,
    Column("one", Integer, primary_key=True, autoincrement=False, comment="always 1"),
    Column("name", String(40), nullable=False),
    CheckConstraint("one = 1", name="deployment_one"),
    comment="Name of this SEF, with which it tags its instances.",
    **MYSQL_OPTIONS,
)


# A lease only saves work: if two processes run a job at the same time, the result is still correct.
leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True, comment="id of the job"),
    Column("holder", String(64), nullable=False, comment="process that runs the job"),
    Column("expires_at", Instant, nullable=False),
    version(),
    comment="Leases: the process that runs each periodic job.",
    **MYSQL_OPTIONS,
)
