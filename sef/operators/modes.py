"""What operators do: manual replica mode and its switch, the auto modes, registering agents."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, insert_agent, read_agent, update_agent
from sef.clock import iso
from sef.context import Context
from sef.errors import AgentNotFound, Conflict, ModeConflict
from sef.failover.cutover.rows import Cutover, cutover_of_epoch, supersede_cutover
from sef.failover.explain.dry_run import DryRunResult, dry_run
from sef.failover.incidents.rows import open_incident
from sef.failover.promotion import Promotion, promote
from sef.failover.reconcile import reconcile_agent
from sef.failover.standbys import watch
from sef.failover.standbys.rows import Replica, live_standby, replica_of_instance
from sef.notifications.events import Event, write_events
from sef.terms import NotificationKind, ReplicaStatus

LOOK_EVERY = 0.2
Also = Callable[[Connection], None]
"""What else belongs into the transaction of an effect."""
AUTO_FLAGS = {"auto-switch": "auto_switch_enabled", "auto-terminate": "auto_terminate_enabled"}


@dataclass(frozen=True, slots=True)
class SwitchResult:
    """A switch, as far as it has come."""

    promotion: Promotion
    standby: Replica | None
    """The next one."""
    cutover: Cutover | None
    """What follows the new primary; None when nothing belongs to the agent."""


@dataclass(frozen=True, slots=True)
class RegistrationResult:
    is_new: bool
    warnings: Sequence[str]
    """Sentences about what the operator has to do now."""


def enable_manual(ctx: Context, agent_id: str, also: Also) -> Replica | None:
    """Turn manual replica mode on and return the standby, launching or ready.

    Waits for `ready`, `enable_wait` seconds at most.
    """
    ctx.database.write(_set_manual, ctx, agent_id, also, enabled=True)
    deadline = time.monotonic() + ctx.settings.enable_wait
    while True:
        reconcile_agent(ctx, agent_id)
        agent, standby = ctx.database.read(
            lambda c: (read_agent(c, agent_id), live_standby(c, agent_id))
        )
        left = deadline - time.monotonic()
        is_settled = standby is None or standby.status is ReplicaStatus.READY
        if is_settled or left <= 0 or agent.is_postponed(ctx.clock() + timedelta(seconds=left)):
            return standby
        time.sleep(LOOK_EVERY)


def disable_manual(ctx: Context, agent_id: str, also: Also) -> None:
    """Turn manual replica mode off; the standby is released unless an incident wants it."""
    ctx.database.write(_set_manual, ctx, agent_id, also, enabled=False)
    reconcile_agent(ctx, agent_id)


def switch(
    ctx: Context, agent_id: str, also: Callable[[Connection, SwitchResult], None]
) -> SwitchResult:
    """Promote the standby, retire the old primary, launch the next standby.

    Args:
        also: done in the transaction of the promotion, with what there is by then.

    Raises:
        NotPossibleNow: manual mode is off, or the standby is not there or not ready.
        CloudError: EC2 cannot say whether the standby still runs; nothing was changed.
    """
    standby = ctx.database.read(lambda c: _switchable(c, agent_id)[1])
    # A planned switch has the time to make sure that there is something to switch to.
    watch.require_running(ctx, standby)

    def write(connection: Connection) -> Promotion:
        promotion = _switch(connection, ctx, agent_id)
        cutover = cutover_of_epoch(connection, agent_id, promotion.epoch)
        also(connection, SwitchResult(promotion, None, cutover))
        return promotion

    promotion = ctx.database.write(write)
    reconcile_agent(ctx, agent_id)
    return ctx.database.read(
        lambda c: SwitchResult(
            promotion,
            live_standby(c, agent_id),
            cutover_of_epoch(c, agent_id, promotion.epoch),
        )
    )


def dry_run_switch(ctx: Context, agent_id: str) -> DryRunResult:
    """What `switch` would do; nothing is changed. Raises what `switch` would."""
    ctx.database.read(_switchable, agent_id)
    return dry_run(
        ctx,
        agent_id,
        lambda c: _switch(c, ctx, agent_id),
        lambda c, promotion: asdict(promotion),
        must_run=True,
    )


def set_auto(ctx: Context, agent_id: str, mode: str, also: Also, *, enabled: bool) -> None:
    """Turn `auto-switch` or `auto-terminate` on or off."""

    def write(connection: Connection) -> None:
        agent = read_agent(connection, agent_id, lock=True)
        if enabled and agent.manual_replica_enabled:
            raise ModeConflict(
                "manual_mode_active",
                f"Cannot enable {mode} while manual replica mode is active",
            )
        if getattr(agent, AUTO_FLAGS[mode]) != enabled:
            _set_flag(connection, ctx, agent, AUTO_FLAGS[mode], mode, enabled)
        also(connection)

    ctx.database.write(write)
    reconcile_agent(ctx, agent_id)


def register(ctx: Context, agent_id: str, changes: Mapping[str, Any]) -> RegistrationResult:
    """Register an agent or change one.

    Another instance starts another epoch, like a promotion does. The former one, that SEF
    launched, is its operator's from then on: who names the primary by hand knows best when
    the other is not needed any more.

    Raises:
        NotPossibleNow: the instance is the agent's standby.
    """

    def write(connection: Connection) -> RegistrationResult:
        now = ctx.clock()
        try:
            agent = read_agent(connection, agent_id, lock=True)
        except AgentNotFound:
            insert_agent(connection, agent_id, now, **changes)
            event = Event("agent_registered", f"{agent_id} is registered", agent_id)
            write_events(connection, [event], now)
            return RegistrationResult(is_new=True, warnings=[])
        values = dict(changes)
        warnings = []
        if changes.get("instance_id", agent.instance_id) != agent.instance_id:
            _refuse_standby(connection, agent_id, changes["instance_id"])
            values["epoch"] = agent.epoch + 1
            supersede_cutover(connection, agent_id, "an operator named another primary", now)
            warnings = _left_running(connection, agent, now)
        update_agent(connection, agent, now, **values)
        said = f"{agent_id} is changed: {', '.join(sorted(changes)) or 'nothing'}"
        write_events(
            connection, [Event("agent_changed", said, agent_id, details=dict(changes))], now
        )
        return RegistrationResult(is_new=False, warnings=warnings)

    return ctx.database.write(write)


def _set_manual(
    connection: Connection, ctx: Context, agent_id: str, also: Also, *, enabled: bool
) -> None:
    agent = read_agent(connection, agent_id, lock=True)
    if enabled and (agent.auto_switch_enabled or agent.auto_terminate_enabled):
        raise ModeConflict(
            "auto_mode_active", "Cannot enable manual mode while auto mode is active"
        )
    if agent.manual_replica_enabled != enabled:
        _set_flag(connection, ctx, agent, "manual_replica_enabled", "manual-replica", enabled)
    also(connection)


def _set_flag(
    connection: Connection, ctx: Context, agent: Agent, flag: str, mode: str, enabled: bool
) -> None:
    now = ctx.clock()
    # An operator's call is a reason to try at once what was put off.
    update_agent(connection, agent, now, not_before=None, **{flag: enabled})
    said = f"{mode} is {'enabled' if enabled else 'disabled'}"
    write_events(connection, [Event("mode_changed", said, agent.id)], now)


def _switch(connection: Connection, ctx: Context, agent_id: str) -> Promotion:
    agent, standby = _switchable(connection, agent_id, lock=True)
    return promote(
        connection,
        agent,
        standby,
        open_incident(connection, agent_id),
        "an operator switched",
        ctx.clock,
        retire_after=timedelta(0),
        settings=ctx.settings,
    )


def _refuse_standby(connection: Connection, agent_id: str, instance_id: str | None) -> None:
    standby = live_standby(connection, agent_id)
    if standby is not None and instance_id is not None and standby.instance_id == instance_id:
        raise Conflict(
            "instance_is_standby",
            f"{instance_id} is the standby of {agent_id}, which manual-switch makes the primary.",
        )


def _left_running(connection: Connection, agent: Agent, now: datetime) -> list[str]:
    """Say that the instance which is not the primary any more runs on, if SEF launched it."""
    instance_id = agent.instance_id
    launched = replica_of_instance(connection, instance_id) if instance_id else None
    if launched is None or launched.status is not ReplicaStatus.PROMOTED:
        return []
    said = (
        f"{instance_id}, which SEF launched, is not the primary any more and runs on until you "
        f"end it: aws ec2 terminate-instances --instance-ids {instance_id}"
    )
    details = {"instance_id": instance_id}
    event = Event(
        "primary_left", said, agent.id, "warning", details=details, moment=NotificationKind.ALERT
    )
    write_events(connection, [event], now)
    return [said]


def _switchable(
    connection: Connection, agent_id: str, *, lock: bool = False
) -> tuple[Agent, Replica]:
    agent = read_agent(connection, agent_id, lock=lock)
    if not agent.manual_replica_enabled:
        raise Conflict(
            "manual_mode_not_enabled", "Manual replica mode is not enabled for this agent."
        )
    standby = live_standby(connection, agent_id)
    if standby is None:
        raise Conflict("no_replica", "There is no standby to switch to; one is launched.")
    if standby.status is not ReplicaStatus.READY:
        raise Conflict(
            "replica_not_ready", f"The standby is not ready: {_why_not(agent, standby)}."
        )
    return agent, standby


def _why_not(agent: Agent, standby: Replica) -> str:
    if standby.instance_id is not None:
        return "it is still launching; try again in a moment"
    if agent.not_before is not None:
        return f"it cannot be launched now, and is tried again at {iso(agent.not_before)}"
    return "it is about to be launched; try again in a moment"
