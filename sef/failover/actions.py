"""Make the calls to AWS that the rows of one agent ask for, the most urgent kind first.

Each kind of call is a step of its own. An unexpected exception in one of them, such as a row that
cannot be read, ends this step only: the traffic of an agent must not wait for a broken health
check, and a launch must not wait for a broken cutover.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from sef.cloud.errors import CloudError
from sef.context import Context
from sef.errors import Unavailable
from sef.failover.cutover.keep import look_at_devices
from sef.failover.cutover.named_devices import due_devices
from sef.failover.cutover.together import advance_cutover
from sef.failover.cutover.upkeep import look_at_targets
from sef.failover.instances import (
    attributes,
    launch,
    retire,
    retired,
    run_instances,
    terminate,
)
from sef.failover.instances.attributes import UnsetAttributes
from sef.failover.instances.limits import TerminationBudget
from sef.failover.instances.run_instances import UntaggedInstance
from sef.failover.losses import check_missing_primary
from sef.failover.snapshot import Snapshot
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import Retirement, due_retirements, running_retirements
from sef.failover.standbys.rows import Replica
from sef.notifications.failures import report_failure
from sef.terms import ReplicaStatus

Step = Callable[[Context, Snapshot, TerminationBudget], str | None]
"""Makes one call, and returns a sentence about it; None if there is nothing to do now."""


def act(
    ctx: Context,
    snapshot: Snapshot,
    budget: TerminationBudget,
    failed: set[str],
    *,
    is_postponed: bool,
) -> str | None:
    """Make one call to AWS that the rows ask for; return a sentence, or None without a call.

    A launch that is postponed in this pass delays no other call of the pass: the old primary is
    still terminated.

    Args:
        failed: the names of the steps that have failed in this pass. They are left out, and a step
            that fails now is added.
        is_postponed: the pass began while the agent's work was postponed. It makes cutover steps
            only.

    Raises:
        CloudError: EC2 did not return a usable answer.
        Unavailable: the database is away.
    """
    for step in _STEPS[:1] if is_postponed else _STEPS:
        name = step.__name__.removeprefix("_")
        if name in failed:
            continue
        try:
            sentence = step(ctx, snapshot, budget)
        except (CloudError, Unavailable):
            raise
        except Exception as error:
            failed.add(name)
            report_failure(ctx, snapshot.agent.id, name, error)
            continue
        if sentence is not None:
            return sentence
    return None


def _advance_cutover(ctx: Context, snapshot: Snapshot, budget: TerminationBudget) -> str | None:
    return advance_cutover(ctx, snapshot.agent.id)


def _launch_standby(ctx: Context, snapshot: Snapshot, budget: TerminationBudget) -> str | None:
    agent = snapshot.agent
    if agent.is_postponed(ctx.clock()):
        return None
    return launch.advance_all(ctx, agent, snapshot.standby, snapshot.relief, snapshot.incident)


def _release_standbys(ctx: Context, snapshot: Snapshot, budget: TerminationBudget) -> str | None:
    for replica in snapshot.releasing:
        if _may_be_needed(snapshot, replica):
            continue
        if not replica.misses or watch.is_due(ctx, replica):
            sentence = terminate.release_standby(ctx, replica, budget)
            if sentence is not None:
                return sentence
    return None


def _may_be_needed(snapshot: Snapshot, replica: Replica) -> bool:
    """Return True in an emergency if a released standby may be the only instance to promote.

    A launch that never ran is not needed while another launch is under way. Without this, launches
    that all hang would add up.
    """
    if snapshot.incident is None or not snapshot.incident.is_emergency:
        return False
    has_run = replica.ready_at is not None
    return has_run or replica.instance_id is None or snapshot.standby is None


def _terminate_retired(ctx: Context, snapshot: Snapshot, budget: TerminationBudget) -> str | None:
    for retirement in ctx.database.read(due_retirements, snapshot.agent.id, ctx.clock()):
        sentence = retire.terminate_retired(ctx, retirement, budget)
        if sentence is not None:
            return sentence
    return None


def _check_standby(ctx: Context, snapshot: Snapshot, budget: TerminationBudget) -> str | None:
    standby = snapshot.standby
    if standby is None or standby.status is not ReplicaStatus.READY:
        return None
    if not watch.is_due(ctx, standby):
        return None
    return f"checked the standby: {watch.check_standby(ctx, standby)}"


def _check_missing_primary(
    ctx: Context, snapshot: Snapshot, budget: TerminationBudget
) -> str | None:
    """Check again a primary that EC2 did not show, before the next search for losses."""
    for replica in snapshot.replicas:
        is_primary = replica.instance_id == snapshot.agent.instance_id
        if is_primary and replica.misses > 0 and watch.is_due(ctx, replica):
            return check_missing_primary(ctx, snapshot.agent)
    return None


def _look_after_instances(
    ctx: Context, snapshot: Snapshot, budget: TerminationBudget
) -> str | None:
    agent = snapshot.agent
    work = ctx.database.read(_last_work, agent.id, ctx.clock())
    if work.endangered:
        is_urgent = snapshot.incident is not None and snapshot.incident.is_emergency
        look_at_devices(ctx, agent, is_urgent=is_urgent)
        return "looked if the targets are deleted with their instance"
    unchecked = [one for one in work.retirements if retired.is_check_due(ctx, one)]
    if unchecked:
        return retired.check_retired(ctx, unchecked)
    attributes.set_attributes(ctx, work.unset)
    run_instances.tag_instances(ctx, work.untagged)
    return None


def _look_at_targets(ctx: Context, snapshot: Snapshot, budget: TerminationBudget) -> str | None:
    agent, incident = snapshot.agent, snapshot.incident
    if agent.cutover is None or (incident is not None and incident.is_emergency):
        return None
    return look_at_targets(ctx, agent.id)


_STEPS: Sequence[Step] = (
    # The cutover comes first: the primary's traffic is more urgent than the next standby.
    _advance_cutover,
    _launch_standby,
    _release_standbys,
    _terminate_retired,
    _check_standby,
    _check_missing_primary,
    # No other step waits for tags, and none for a look at targets that nothing moves.
    _look_after_instances,
    _look_at_targets,
)


@dataclass(frozen=True, slots=True)
class _LastWork:
    """The work of an agent that no other work waits for.

    Attributes:
        retirements: retired instances that may run.
        untagged: instances that lack the tags of the agent.
        unset: instances that lack attributes of the primary.
        endangered: targets that would be deleted with their instance.
    """

    retirements: Sequence[Retirement]
    untagged: Sequence[UntaggedInstance]
    unset: Sequence[UnsetAttributes]
    endangered: Sequence[str]


def _last_work(connection: Connection, agent_id: str, now: datetime) -> _LastWork:
    return _LastWork(
        running_retirements(connection, agent_id),
        run_instances.untagged_instances(connection, agent_id),
        attributes.unset_attributes(connection, agent_id),
        due_devices(connection, agent_id, now),
    )
