"""Enable and disable manual replica mode and the auto modes."""

import time
from datetime import timedelta

from sqlalchemy import Connection

from sef.agents import Agent, read_agent, update_agent
from sef.context import Context
from sef.errors import ModeConflict
from sef.failover.reconcile import reconcile_agent
from sef.failover.snapshot import read_snapshot
from sef.failover.standbys.rows import Replica
from sef.notifications.events import Event, write_events
from sef.operators.idempotency import Answer, IdempotentCall, idempotent_call
from sef.operators.status import replica_fields
from sef.terms import ReplicaStatus

POLL_SECONDS = 0.2
"""Pause between two reads of a standby that is launching."""
AUTO_FLAGS = {"auto-switch": "auto_switch_enabled", "auto-terminate": "auto_terminate_enabled"}
"""Column of `agents` that enables each auto mode."""


def enable_manual(ctx: Context, agent_id: str, key: str | None) -> Answer:
    """Enable manual replica mode; wait up to `enable_wait_seconds` for a ready standby.

    Raises:
        AgentNotFound: no agent has this id.
        ModeConflict: an auto mode is enabled.
    """
    with idempotent_call(ctx, key, agent_id, "manual-replica/enable") as call:
        if call.is_new:
            ctx.database.write(
                _set_manual, ctx, agent_id, call, _answer_enabled(None), enabled=True
            )
            standby = _await_standby(ctx, agent_id)
            call.answer = _answer_enabled(standby, _standby_message(standby))
    return call.answer


def disable_manual(ctx: Context, agent_id: str, key: str | None) -> Answer:
    """Disable manual replica mode; release the standby unless an incident needs it.

    Raises:
        AgentNotFound: no agent has this id.
    """
    answer = {"status": "success", "message": "Manual replica mode disabled"}
    with idempotent_call(ctx, key, agent_id, "manual-replica/disable") as call:
        if call.is_new:
            ctx.database.write(_set_manual, ctx, agent_id, call, answer, enabled=False)
            reconcile_agent(ctx, agent_id)
            call.answer = answer
    return call.answer


def set_auto(ctx: Context, agent_id: str, mode: str, key: str | None, *, enabled: bool) -> Answer:
    """Enable or disable `auto-switch` or `auto-terminate`.

    Raises:
        AgentNotFound: no agent has this id.
        ModeConflict: manual replica mode is enabled.
    """
    answer = {"status": "success", "message": f"{mode} {'enabled' if enabled else 'disabled'}"}
    name = f"{mode}/{'enable' if enabled else 'disable'}"
    with idempotent_call(ctx, key, agent_id, name) as call:
        if call.is_new:
            ctx.database.write(_set_auto, ctx, agent_id, mode, call, answer, enabled=enabled)
            reconcile_agent(ctx, agent_id)
            call.answer = answer
    return call.answer


def _answer_enabled(
    standby: Replica | None, message: str = "Manual replica mode enabled"
) -> Answer:
    return {
        "status": "success",
        "message": message,
        "replica": replica_fields(standby) if standby else None,
    }


def _standby_message(standby: Replica | None) -> str:
    if standby is None:
        return "Manual replica mode enabled. No standby is available yet; SEF keeps trying."
    if standby.ready_at is None:
        return "Manual replica mode enabled. The standby is still launching."
    return f"Manual replica mode enabled. {standby.instance_id} is on standby."


def _await_standby(ctx: Context, agent_id: str) -> Replica | None:
    """Reconcile the agent until its standby is ready, its launch is postponed, or time is up."""
    deadline = time.monotonic() + ctx.settings.enable_wait_seconds
    while True:
        reconcile_agent(ctx, agent_id)
        snapshot = ctx.database.read(read_snapshot, agent_id)
        standby = snapshot.standby
        remaining = deadline - time.monotonic()
        is_settled = standby is None or standby.status is ReplicaStatus.READY
        # If the next launch attempt comes after the deadline, waiting for it is useless.
        is_postponed = snapshot.agent.is_postponed(ctx.clock() + timedelta(seconds=remaining))
        if is_settled or remaining <= 0 or is_postponed:
            return standby
        time.sleep(POLL_SECONDS)


def _set_manual(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    call: IdempotentCall,
    answer: Answer,
    *,
    enabled: bool,
) -> None:
    agent = read_agent(connection, agent_id, lock=True)
    if enabled and (agent.auto_switch_enabled or agent.auto_terminate_enabled):
        raise ModeConflict(
            "auto_mode_active", "Cannot enable manual mode while auto mode is active"
        )
    if agent.manual_replica_enabled != enabled:
        _set_flag(
            connection, ctx, agent, "manual_replica_enabled", "manual-replica", enabled=enabled
        )
    call.store(connection, answer)


def _set_auto(
    connection: Connection,
    ctx: Context,
    agent_id: str,
    mode: str,
    call: IdempotentCall,
    answer: Answer,
    *,
    enabled: bool,
) -> None:
    agent = read_agent(connection, agent_id, lock=True)
    if enabled and agent.manual_replica_enabled:
        raise ModeConflict(
            "manual_mode_active", f"Cannot enable {mode} while manual replica mode is active"
        )
    if getattr(agent, AUTO_FLAGS[mode]) != enabled:
        _set_flag(connection, ctx, agent, AUTO_FLAGS[mode], mode, enabled=enabled)
    call.store(connection, answer)


def _set_flag(
    connection: Connection, ctx: Context, agent: Agent, flag: str, mode: str, *, enabled: bool
) -> None:
    now = ctx.clock()
    # After an operator's call SEF retries postponed work at once.
    update_agent(connection, agent, now, not_before=None, **{flag: enabled})
    message = f"{mode} is {'enabled' if enabled else 'disabled'}"
    write_events(connection, [Event("mode_changed", message, agent.id)], now)
