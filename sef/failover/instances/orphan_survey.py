"""Survey the launched instances: list them in EC2, and judge which of them are orphans."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from sef.agents import read_agent
from sef.cloud.ec2 import AGENT_TAG, ATTEMPT_TAG, Instance
from sef.config import Settings, variable
from sef.context import Context
from sef.db.leases import deployment_name
from sef.db.tables import (
    agents,
    launch_attempts,
    replica_instances,
    retirements,
)
from sef.errors import AgentNotFound
from sef.failover.adoption import Role, command, heard_within
from sef.failover.instances.attempts import call_sizes, open_tokens
from sef.failover.instances.ending import obstacle_of_spare
from sef.failover.instances.kept_orphans import KeptOrphan
from sef.failover.instances.orphan_rules import (
    KEPT,
    MIN_ORPHAN_AGE,
    Known,
    Listed,
    Verdict,
    judge,
)
from sef.failover.standbys.rows import claimed_instances
from sef.heard import Reporting, heard_at
from sef.terms import plural


@dataclass(frozen=True, slots=True)
class Survey:
    """The launched instances that EC2 lists, and the verdict on each.

    Attributes:
        launched: the instances that have not ended.
        instances: those of them that are orphans, and the primaries of their agents, by id.
        primaries: the primary of each agent, by agent id.
        obstacles: what would be lost with an orphan, by its id.
    """

    launched: Sequence[Instance]
    verdicts: Mapping[str, Verdict]
    instances: Mapping[str, Instance]
    primaries: Mapping[str, str]
    obstacles: Mapping[str, str] = field(default_factory=dict)

    def with_verdict(self, *verdicts: Verdict) -> list[Instance]:
        return [i for i in self.launched if self.verdicts[i.id] in verdicts]

    def primary_state(self, agent_id: str | None) -> str | None:
        """Return EC2's state of the agent's primary; None: unknown, or EC2 does not show it."""
        primary = self.instances.get(self.primaries.get(agent_id or "", ""))
        return primary.ec2_state if primary is not None else None


def survey(ctx: Context, now: datetime) -> Survey:
    """List the launched instances, and judge each by the rows and by EC2.

    Raises:
        CloudError: EC2 did not return a usable answer.
    """
    deployment = ctx.database.write(deployment_name)
    launched = [i for i in ctx.ec2.managed_by(deployment) if ATTEMPT_TAG in i.tags]
    if not launched:
        return Survey([], {}, {}, {})
    known = ctx.database.read(read_known, launched, now)
    everything = set(known.primaries.values())
    possible = judge_all(launched, replace(known, running=everything), ctx.settings, now)
    suspects = [i for i in launched if possible[i.id] is not Verdict.NOT_AN_ORPHAN]
    of_agents = {i.tags[AGENT_TAG] for i in suspects if AGENT_TAG in i.tags}
    primaries = {known.primaries[agent] for agent in of_agents if agent in known.primaries}
    current = ctx.ec2.instances({*primaries, *(i.id for i in suspects)})
    # A retirement may have terminated an instance after it was listed. No row refers to this
    # instance any more, but it is not an orphan.
    ended = {i.id for i in (*launched, *current.values()) if i.has_ended}
    running = {i.id for i in current.values() if i.is_alive}
    verdicts = judge_all(launched, replace(known, running=running), ctx.settings, now, ended)
    alive = [i for i in launched if i.id not in ended]
    obstacles = _obstacles(ctx, [i for i in alive if verdicts[i.id] is Verdict.ORPHAN])
    verdicts |= dict.fromkeys(obstacles, Verdict.HOLDER)
    return Survey(alive, verdicts, current, known.primaries, obstacles)


def _obstacles(ctx: Context, orphans: Sequence[Instance]) -> dict[str, str]:
    """Return the reason to keep each orphan with which a target would be lost."""
    found = {}
    for orphan in orphans:
        agent = None
        with suppress(AgentNotFound):
            agent = ctx.database.read(read_agent, orphan.tags.get(AGENT_TAG, ""))
        kept = obstacle_of_spare(ctx, orphan.id, agent)
        if kept is not None:
            found[orphan.id] = kept
    return found


def kept_of_survey(
    view: Survey, settings: Settings, now: datetime, *, min_age: timedelta = MIN_ORPHAN_AGE
) -> list[KeptOrphan]:
    """Return the orphans that a sweep keeps, with the reason and the advice for each.

    Args:
        min_age: an unknown launch that is younger is left out: the rows may be read from a database
            node that lags.
    """
    kept = []
    for instance in view.with_verdict(*KEPT):
        launched_at = instance.launched_at
        if launched_at is not None and now - launched_at <= min_age:
            continue
        agent_id = instance.tags.get(AGENT_TAG)
        kept.append(
            KeptOrphan(
                instance.id,
                agent_id,
                str(instance.pool) if instance.pool else None,
                view.verdicts[instance.id],
                _reason(view, instance, settings),
                _advice(view, instance),
            )
        )
    return kept


def judge_all(
    launched: Sequence[Instance],
    known: Known,
    settings: Settings,
    now: datetime,
    ended: Collection[str] = (),
) -> dict[str, Verdict]:
    """Return the verdict on each instance; those of `ended` have ended since they were listed."""
    listed = [
        Listed(
            instance.id,
            instance.tags[ATTEMPT_TAG],
            instance.tags.get(AGENT_TAG),
            instance.launched_at,
            has_state=instance.ec2_state is not None,
            has_ended=instance.has_ended or instance.id in ended,
        )
        for instance in launched
    ]
    return judge(
        listed,
        known,
        now,
        heard_within=heard_within(settings),
        maximum=settings.max_terminations_per_run,
    )


def read_known(connection: Connection, launched: Sequence[Instance], now: datetime) -> Known:
    """Return the facts that the rows contribute."""
    # Read the open attempts first. If the answer to a launch is recorded between the two reads, the
    # instance is in both results; in the other order it would be in neither.
    pending = open_tokens(connection)
    ids = sorted(instance.id for instance in launched)
    claimed = claimed_instances(connection, ids)
    tokens = sorted({instance.tags[ATTEMPT_TAG] for instance in launched})
    batched = call_sizes(connection, tokens)
    attempt, replica = launch_attempts.c, replica_instances.c
    of_agents = {i.tags[AGENT_TAG]: i.id for i in launched if AGENT_TAG in i.tags}
    named = set(claimed)
    for column in (replica.instance_id, retirements.c.instance_id):
        named.update(connection.scalars(select(column).where(column.in_(ids))))
    heard = heard_at(
        connection,
        [Reporting(i.tags[AGENT_TAG], i.id) for i in launched if AGENT_TAG in i.tags],
    )
    return Known(
        claimed=claimed,
        named=named,
        tokens={
            *batched,
            *connection.scalars(
                select(attempt.client_token).where(attempt.client_token.in_(tokens))
            ),
        },
        open_tokens=pending,
        batched=frozenset(batched),
        first_launch_at=connection.scalar(select(func.min(attempt.created_at))),
        primaries=_primaries(connection, of_agents),
        heard={key.instance_id: at for key, at in heard.items()},
    )


def _primaries(connection: Connection, agent_ids: Collection[str]) -> dict[str, str]:
    """Return the primary of each agent that has one, by agent id."""
    rows = connection.execute(
        select(agents.c.id, agents.c.instance_id).where(
            agents.c.id.in_(sorted(agent_ids)), agents.c.instance_id.is_not(None)
        )
    )
    return {row.id: row.instance_id for row in rows}


def _reason(view: Survey, instance: Instance, settings: Settings) -> str:
    match view.verdicts[instance.id]:
        case Verdict.UNKNOWN_LAUNCH:
            return "SEF launched it, and no row knows the launch"
        case Verdict.HELD:
            return "no row refers to it, and the rows are older than other instances"
        case Verdict.HEARD:
            return "no row refers to it, and it reports as the agent's instance"
        case Verdict.HOLDER:
            return f"no row refers to it, and {view.obstacles[instance.id]}"
        case Verdict.PRIMARY_DOWN:
            return "no row refers to it, and EC2 does not show the primary of its agent running"
        case _:
            maximum = settings.max_terminations_per_run
            orphans = len(view.with_verdict(Verdict.OVER_LIMIT))
            launched = plural(len(view.launched), "launched instance")
            limit = f"{variable('max_terminations_per_run')}: {maximum}"
            return f"no database row refers to {orphans} of {launched} (limit: {limit})"


def _advice(view: Survey, instance: Instance) -> str:
    """Return SEF's next step and the operator's, as sentences."""
    agent_id = instance.tags.get(AGENT_TAG)
    if agent_id is None:
        return f"If nothing needs it: aws ec2 terminate-instances --instance-ids {instance.id}"
    adopt = command(agent_id, instance.id, Role.PRIMARY)
    others = [
        other
        for other in view.with_verdict(*KEPT)
        if other.tags.get(AGENT_TAG) == agent_id and other.id != instance.id
    ]
    primary, state = view.primaries.get(agent_id), view.primary_state(agent_id)
    if primary is None:
        situation = f"The rows know no primary of {agent_id}"
    else:
        situation = f"{primary}, its primary in the rows, is {state or 'not shown by EC2'}"
    if not others and state not in ("running", "pending"):
        return f"{situation}. To make {instance.id} the primary: {adopt}"
    end = command(agent_id, instance.id, Role.SURPLUS)
    return f"{situation}. If {instance.id} serves: {adopt}. If nothing needs it: {end}"
