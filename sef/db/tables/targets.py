"""Define the tables of cutover targets: their agents, where they are, and how they are bound."""

from sqlalchemy import JSON, Column, Index, String, Table

from sef.db.tables.columns import MYSQL_OPTIONS, Instant, agent_id, metadata, version
from sef.terms import INSTANCE_ID_LENGTH

# The key decides between two agents that name one target at the same time.
target_claims = Table(
    "target_claims",
    metadata,
    Column(
        "target",
        String(320),
        primary_key=True,
        comment="kind and name of the target; see sef.failover.cutover.claims",
    ),
    agent_id(nullable=False, comment="the one agent that the target belongs to"),
    Column("claimed_at", Instant, nullable=False),
    Index("target_claims_agent", "agent_id"),
    comment="Cutover targets that belong to one agent; a target group may belong to several.",
    **MYSQL_OPTIONS,
)


target_looks = Table(
    "target_looks",
    metadata,
    agent_id(primary_key=True),
    Column("due_at", Instant, nullable=False, comment="time of the next look"),
    Column("looked_at", Instant, comment="time of the last complete look"),
    Column(
        "elsewhere",
        JSON(none_as_null=True),
        comment="targets that were not with the primary then, with their holders",
    ),
    version(),
    Index("target_looks_due", "due_at"),
    comment="When SEF looks next where the targets of an agent are, and what it saw last.",
    **MYSQL_OPTIONS,
)


# EC2 shows an ended instance without its network, so the last look at a running one is kept.
primary_places = Table(
    "primary_places",
    metadata,
    agent_id(primary_key=True),
    Column("instance_id", String(INSTANCE_ID_LENGTH), nullable=False),
    Column("configuration", JSON, nullable=False, comment="how to launch an instance like it"),
    Column("constraints", JSON, nullable=False, comment="where each cutover target can follow"),
    Column("seen_at", Instant, nullable=False, comment="time of the look that changed the row"),
    comment="Launch parameters and network of each primary, as last seen.",
    **MYSQL_OPTIONS,
)


# A row outlives its target: the data of a target that was given up must not die with an instance.
named_devices = Table(
    "named_devices",
    metadata,
    Column("resource_id", String(40), primary_key=True),
    agent_id(nullable=False),
    Column("dropped_at", Instant, comment="time when it was no longer a target; NULL: it is one"),
    Column("due_at", Instant, comment="next look at its DeleteOnTermination; NULL: none"),
    Index("named_devices_due", "due_at"),
    Index("named_devices_agent", "agent_id"),
    comment="Volumes and network interfaces that are or were cutover targets.",
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
