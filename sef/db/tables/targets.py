"""Define the tables of cutover targets: the agent that each belongs to, and where they are."""

from sqlalchemy import JSON, Column, Index, String, Table

from sef.db.tables.columns import MYSQL_OPTIONS, Instant, agent_id, metadata, version

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
