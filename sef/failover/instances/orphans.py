"""Find and terminate orphans: instances launched by SEF that no database row refers to.

A sweep has these steps:

1. List the instances with this deployment's tags, then read the rows. In this order an instance
   that is launched in between is not in the list.
2. Judge each instance (`sef.failover.instances.orphan_rules`).
3. If the primary of an agent is gone and one unknown instance reports as the agent's, make that one
   the primary (`sef.failover.adoption`).
4. Finish the terminations that an earlier sweep decided but did not report.
5. Commit each decision to terminate an orphan, call EC2, and report the termination. If the process
   dies in between, the next sweep reports it.
6. Store the orphans that are kept, with the reason, and tell people of them.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from sef.agents import read_agent
from sef.cloud.ec2 import AGENT_TAG, Ec2, Instance
from sef.cloud.errors import CloudError, Remedy
from sef.config import Settings
from sef.context import Context
from sef.db.database import Database
from sef.errors import Unavailable
from sef.failover.instances.kept_orphans import needs_update, store_kept
from sef.failover.instances.orphan_rules import (
    Verdict,
)
from sef.failover.instances.orphan_survey import (
    Survey,
    judge_all,
    kept_of_survey,
    read_known,
    survey,
)
from sef.failover.instances.orphan_terminations import (
    OrphanTermination,
    cancel_termination,
    record_decision,
    report_termination,
    unreported,
)
from sef.failover.standbys.watch import FORGOTTEN_AFTER
from sef.failover.succession import adopt_successor
from sef.notifications.failures import report_failure_at


def sweep_orphans(ctx: Context, now: datetime) -> int:
    """Terminate the orphans and return the number of reported terminations.

    Raises:
        CloudError: EC2 did not return a usable answer, or refused a call. Terminations made before
            the error are reported by this sweep or the next one.
        Unavailable: the database cannot be read; no further instance is terminated.
    """
    database, ec2 = ctx.database, ctx.ec2
    view = survey(ctx, now)
    unfinished = database.read(unreported)
    if _adopt_successors(ctx, view, now):
        view = survey(ctx, now)
    surplus = view.with_verdict(Verdict.ORPHAN)
    reported = _finish_earlier(database, ec2, unfinished, view.launched, surplus, now)
    try:
        reported += _terminate_each(ctx, surplus, now)
    finally:
        kept = kept_of_survey(view, ctx.settings, now)
        if database.read(needs_update, kept, now):
            database.write(store_kept, kept, now)
    return reported


def _terminate_each(ctx: Context, surplus: Sequence[Instance], now: datetime) -> int:
    """Terminate orphans; return the number of reports.

    A refusal of one orphan, such as by its termination protection, holds up no other. EC2 being
    throttled or away concerns all of them.

    Raises:
        CloudError: EC2 cannot be reached, or refused the termination of an orphan; then the others
            have been tried.
    """
    reported = 0
    refusal: CloudError | None = None
    for orphan in surplus:
        step = f"termination of orphan {orphan.id}"
        try:
            reported += _terminate(ctx, orphan, now)
        except Unavailable:
            raise
        except CloudError as error:
            if error.remedy is not Remedy.OPERATOR:
                raise
            refusal = refusal or error
            report_failure_at(ctx.database, None, step, error, now)
        except Exception as error:
            report_failure_at(ctx.database, None, step, error, now)
    if refusal is not None:
        raise refusal
    return reported


def _adopt_successors(ctx: Context, view: Survey, now: datetime) -> int:
    """Make the instance that reports the primary, for each agent whose primary is gone."""
    unknown = view.with_verdict(Verdict.UNKNOWN_LAUNCH, Verdict.HEARD, Verdict.PRIMARY_DOWN)
    adopted = 0
    for agent_id in sorted({i.tags[AGENT_TAG] for i in unknown if AGENT_TAG in i.tags}):
        primary = view.instances.get(view.primaries.get(agent_id, ""))
        if primary is not None and primary.is_gone:
            agent = ctx.database.read(read_agent, agent_id)
            adopted += adopt_successor(ctx, agent, now)
    return adopted


def _finish_earlier(
    database: Database,
    ec2: Ec2,
    unfinished: Sequence[OrphanTermination],
    launched: Collection[Instance],
    surplus: Collection[Instance],
    now: datetime,
) -> int:
    """Finish the terminations that an earlier sweep decided but did not report.

    Report the instances that have ended, or that EC2 does not show any more. Cancel the decision if
    the instance runs and is no longer surplus. Surplus instances are terminated again later in this
    sweep. Return the number of reports.
    """
    listed = {instance.id for instance in launched}
    kept = listed - {instance.id for instance in surplus}
    for instance_id in kept & {termination.instance_id for termination in unfinished}:
        database.write(cancel_termination, instance_id)
    unlisted = [t for t in unfinished if t.instance_id not in listed]
    instances = ec2.instances([termination.instance_id for termination in unlisted])
    reported = 0
    for termination in unlisted:
        instance = instances.get(termination.instance_id)
        is_forgotten = instance is None and now - termination.decided_at > FORGOTTEN_AFTER
        if is_forgotten or (instance is not None and instance.has_ended):
            reported += database.write(report_termination, termination, now)
    return reported


def _terminate(ctx: Context, orphan: Instance, now: datetime) -> bool:
    """Terminate an orphan; return True if this sweep reported it."""
    termination = OrphanTermination(
        orphan.id,
        agent_id=orphan.tags.get(AGENT_TAG),
        pool_id=str(orphan.pool) if orphan.pool else None,
        decided_at=now,
    )
    return (
        ctx.database.write(_decide, ctx.settings, orphan, termination, now)
        and ctx.ec2.terminate(orphan.id)
        and ctx.database.write(report_termination, termination, now)
    )


def _decide(
    connection: Connection,
    settings: Settings,
    orphan: Instance,
    termination: OrphanTermination,
    now: datetime,
) -> bool:
    """Commit to a termination, unless a row refers to the instance or it was heard by now."""
    known = read_known(connection, [orphan], now)
    # The survey has asked EC2 about the primary.
    known = replace(known, running=set(known.primaries.values()))
    if judge_all([orphan], known, settings, now)[orphan.id] is not Verdict.ORPHAN:
        return False
    record_decision(connection, termination)
    return True
