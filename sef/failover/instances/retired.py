"""Look after retired instances until they have ended, and record what EC2 shows of them.

A former primary that AWS interrupted may come back: its persistent spot request launches another
instance, or starts the stopped one. SEF cancels the request when the instance ends, and terminates
an instance that runs again where it terminates former primaries at all (`retention.Interrupted`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.cloud.ec2 import Calls, Instance
from sef.cloud.errors import CloudError, Remedy
from sef.cloud.instance_ends import SpotRequest
from sef.context import Context
from sef.failover.cutover.rows import open_cutover
from sef.failover.incidents.rows import Incident, find_incident
from sef.failover.instances.ending import cancel, cancel_request
from sef.failover.retention import Interrupted
from sef.failover.standbys import watch
from sef.failover.standbys.retirements import Retirement, change_retirement, read_retirement
from sef.failover.standbys.rows import move_replica, replica_of_instance
from sef.failover.standbys.watch import FORGOTTEN_AFTER, MISSING_FOR
from sef.notifications.events import Event, Severity, write_events, write_once
from sef.terms import NotificationKind, ReplicaStatus

MAX_SKEW = timedelta(minutes=5)
"""Maximum difference between the clocks of SEF and EC2 that is expected."""

_UNFINISHED_RECORDS = (ReplicaStatus.PROMOTED, ReplicaStatus.RELEASING)


@dataclass(slots=True)
class _Look:
    """The result of a check of an instance that AWS interrupted.

    Attributes:
        found: None for any other instance.
        is_cancelled: the spot request was cancelled now.
        problem: the reason why it could not be.
        end: the end of an instance that AWS has ended before SEF did; None: another one.
    """

    found: Interrupted | None = None
    request: SpotRequest | None = None
    is_cancelled: bool = False
    problem: str | None = None
    end: str | None = None
    calls: Calls = field(default_factory=list)


def check_retired(ctx: Context, retirements: Sequence[Retirement]) -> str:
    """Check the retired instances of an agent in EC2, and record those that have ended."""
    instances = ctx.ec2.instances([retirement.instance_id for retirement in retirements])
    for retirement in retirements:
        instance = instances.get(retirement.instance_id)
        look = _look_after(ctx, retirement, instance)
        ctx.database.write(_record_check, ctx, retirement, instance, look)
    return "checked the former primaries"


def is_check_due(ctx: Context, retirement: Retirement) -> bool:
    """Return True if a retired instance is to be checked now."""
    checked_at = retirement.checked_at
    every = watch.check_interval(ctx)
    if retirement.missed_checks:
        every = min(every, watch.CHECK_MISSING_EVERY)
    return checked_at is None or abs(ctx.clock() - checked_at) >= every


def record_end(
    connection: Connection, ctx: Context, retirement: Retirement, message: str, calls: Calls
) -> None:
    """Record that a retired instance has ended."""
    now = ctx.clock()
    current = read_retirement(connection, retirement.instance_id)
    if current is None or current.terminated_at is not None:
        return
    change_retirement(connection, current, terminated_at=now, kept_because=None)
    write_retired(connection, current, message, "info", now, calls)
    replica = replica_of_instance(connection, retirement.instance_id)
    if replica is not None and replica.status in _UNFINISHED_RECORDS:
        # Attribute the end to the incident that caused it, not to the incident for which the
        # instance was launched.
        ended = replace(replica, incident_id=retirement.incident_id)
        move_replica(connection, ended, ReplicaStatus.TERMINATED, retirement.reason, now)


def describe_end(ctx: Context, retirement: Retirement, instance: Instance, calls: Calls) -> str:
    """Describe the end of an instance that SEF was to terminate; cancel its spot request first.

    Raises:
        CloudError: AWS did not return a usable answer.
    """
    message = f"{instance.id} is {instance.ec2_state}"
    refusal = cancel_request(ctx, retirement.agent_id, instance, calls)
    return message if refusal is None else f"{message}, and {refusal}"


def write_retired(
    connection: Connection,
    retirement: Retirement,
    message: str,
    severity: Severity,
    now: datetime,
    calls: Calls,
    notification: NotificationKind | None = None,
) -> None:
    """Write an event about a retired instance; a notification is sent once for its message."""
    event = Event(
        "primary_retired",
        message,
        agent_id=retirement.agent_id,
        severity=severity,
        details={"instance_id": retirement.instance_id, "calls": calls},
        incident_id=retirement.incident_id,
        notification=notification,
        matter=None if notification is None else (retirement.instance_id, message),
    )
    write_events(connection, [event], now)


def _look_after(ctx: Context, retirement: Retirement, instance: Instance | None) -> _Look:
    """Find out if AWS brings the instance back, and cancel its spot request if that is due.

    Errors of AWS end the look at an instance that SEF left to AWS: the next check repeats it.

    Raises:
        CloudError: the spot request of an instance that AWS has ended was not looked at; its end is
            not recorded yet.
    """
    look = _Look()
    if instance is not None and instance.has_ended and retirement.terminate_after is not None:
        look.end = describe_end(ctx, retirement, instance, look.calls)
        return look
    agent, incident = ctx.database.read(_left_to_aws, retirement)
    if incident is None:
        return look
    request_id = retirement.spot_request_id
    if instance is not None:
        request_id = instance.spot_request_id or request_id
    try:
        if request_id is not None:
            look.request = ctx.ends.spot_request(request_id)
        look.found = _interrupted(ctx, retirement, instance, agent, incident, look.request)
        if look.found.cancels_request and request_id is not None:
            cancel(ctx, request_id, retirement.instance_id, look.calls)
            look.is_cancelled = True
    except CloudError as error:
        if error.remedy is Remedy.OPERATOR:
            look.problem = str(error)
        if look.found is None:
            look.found = _interrupted(ctx, retirement, instance, agent, incident, None)
    return look


def _left_to_aws(connection: Connection, retirement: Retirement) -> tuple[Agent, Incident | None]:
    """Return the agent, and the incident in which SEF left its former primary to AWS, if so.

    While a cutover has a deadline, nothing is looked after: its steps must not wait for the calls.
    """
    agent = read_agent(connection, retirement.agent_id)
    cutover = open_cutover(connection, agent.id)
    if cutover is not None and cutover.deadline is not None:
        return agent, None
    is_left = retirement.was_primary and retirement.terminate_after is None
    if not is_left or retirement.incident_id is None:
        return agent, None
    incident = find_incident(connection, retirement.incident_id)
    is_planned = incident is None or incident.kind.is_planned
    return agent, None if is_planned else incident


def _interrupted(
    ctx: Context,
    retirement: Retirement,
    instance: Instance | None,
    agent: Agent,
    incident: Incident,
    request: SpotRequest | None,
) -> Interrupted:
    state = None if instance is None else instance.ec2_state
    missing_for = (retirement.missed_checks + 1) * watch.CHECK_MISSING_EVERY
    is_announced = incident.termination_at is not None and incident.kind.is_announced
    is_stopped = state in ("stopping", "stopped")
    # EC2 disables the request of an instance that its owner stops.
    by_aws = is_announced if request is None else request.state != "disabled"
    launched_at = None if instance is None else instance.launched_at
    return Interrupted(
        state=state,
        has_ended=instance.has_ended if instance is not None else missing_for >= MISSING_FOR,
        is_announced=is_announced,
        was_stopped=retirement.stopped_at is not None or (is_stopped and by_aws),
        started_again=launched_at is not None and launched_at > retirement.since + MAX_SKEW,
        behavior=None if request is None else request.behavior,
        brings_back=request is not None and request.brings_back,
        may_end=agent.auto_terminate_enabled or agent.manual_replica_enabled,
    )


def _record_check(
    connection: Connection,
    ctx: Context,
    retirement: Retirement,
    instance: Instance | None,
    look: _Look,
) -> None:
    """Record a health check of a retired instance; a stopped instance still belongs to someone."""
    current = read_retirement(connection, retirement.instance_id)
    if current is None or current.version != retirement.version:
        return
    now = ctx.clock()
    _report_request(connection, current, look, now)
    if instance is not None and instance.has_ended:
        message = look.end or f"{current.instance_id} is {instance.ec2_state}"
        record_end(connection, ctx, current, message, look.calls)
        return
    misses = 0 if instance is not None else current.missed_checks + 1
    if misses * watch.CHECK_MISSING_EVERY >= FORGOTTEN_AFTER:
        message = f"{current.instance_id} is gone: EC2 no longer shows it"
        record_end(connection, ctx, current, message, [])
        return
    values = _after_look(connection, current, look, now)
    if instance is not None and instance.spot_request_id is not None:
        values["spot_request_id"] = instance.spot_request_id
    change_retirement(connection, current, checked_at=now, missed_checks=misses, **values)


def _after_look(
    connection: Connection, retirement: Retirement, look: _Look, now: datetime
) -> dict[str, object]:
    """Return the columns to change after a look at an interrupted instance, and tell of it."""
    found, instance_id = look.found, retirement.instance_id
    if found is None:
        return {}
    values: dict[str, object] = {}
    if found.was_stopped and retirement.stopped_at is None:
        values["stopped_at"] = now
    if found.is_to_end:
        why = "runs again" if found.runs_again else "is stopped, and its spot request starts it"
        message = f"{instance_id} {why} after AWS interrupted it; SEF terminates it"
        write_retired(connection, retirement, message, "warning", now, [])
        return {**values, "terminate_after": now}
    if found.runs_again:
        values["kept_because"] = (
            "it runs again after AWS interrupted it, beside the new primary; it is left to its "
            "operator, since auto-terminate is off"
        )
        _tell_once(connection, retirement, values["kept_because"], now)
    elif found.was_stopped and found.brings_back and look.request is not None:
        values["kept_because"] = (
            f"AWS stopped it, and starts it again when there is capacity (spot request "
            f"{look.request.id}); it is left to its operator, since auto-terminate is off"
        )
    return values


def _tell_once(
    connection: Connection, retirement: Retirement, reason: object, now: datetime
) -> None:
    event = Event(
        "former_primary_runs_again",
        f"{retirement.instance_id} was replaced, and {reason}. Terminate it, or turn on "
        "auto-terminate",
        agent_id=retirement.agent_id,
        severity="warning",
        details={"instance_id": retirement.instance_id},
        incident_id=retirement.incident_id,
        notification=NotificationKind.ALERT,
        matter=(retirement.instance_id,),
    )
    write_once(connection, event, now)


def _report_request(
    connection: Connection, retirement: Retirement, look: _Look, now: datetime
) -> None:
    """Write the event of a cancelled spot request, or tell once that it cannot be cancelled."""
    request, instance_id = look.request, retirement.instance_id
    if request is None:
        return
    launched = ""
    if request.instance_id not in (None, instance_id):
        launched = (
            f". It has launched {request.instance_id}, which SEF does not know: terminate that one "
            "if nothing needs it"
        )
    if look.is_cancelled:
        message = f"cancelled the persistent spot request {request.id} of {instance_id}{launched}"
        notification = NotificationKind.ALERT if launched else None
        severity: Severity = "warning" if launched else "info"
        write_retired(connection, retirement, message, severity, now, look.calls, notification)
    elif look.problem is not None and look.found is not None and look.found.cancels_request:
        event = Event(
            "spot_request_left",
            f"the persistent spot request {request.id} of {instance_id} launches another instance, "
            f"and EC2 refuses to cancel it: {look.problem}. Cancel it, or allow "
            f"ec2:CancelSpotInstanceRequests{launched}",
            agent_id=retirement.agent_id,
            severity="warning",
            details={"instance_id": instance_id, "spot_request_id": request.id},
            incident_id=retirement.incident_id,
            notification=NotificationKind.ALERT,
            matter=(request.id,),
        )
        write_once(connection, event, now)
