"""Switch to the standby on an operator's request, and its dry run.

1. Check that the agent is in manual mode with a ready standby, and that EC2 shows it running.
2. In one transaction: check again with the agent locked, promote the standby, plan the termination
   of the old primary, begin the cutover, and store the answer under its Idempotency-Key.
3. Reconcile the agent: the cutover, the termination and the launch of the next standby.
4. Answer with the state after that pass.
"""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from sef.agents import Agent, read_agent
from sef.clock import iso
from sef.context import Context
from sef.errors import Conflict
from sef.failover.cutover.rows import cutover_of_epoch
from sef.failover.explain.dry_run import dry_run
from sef.failover.incidents.rows import open_incident
from sef.failover.promotion import Promotion, promote, standby_as_successor
from sef.failover.reconcile import reconcile_agent
from sef.failover.standbys import watch
from sef.failover.standbys.rows import Replica, live_standby
from sef.operators.idempotency import Answer, IdempotentCall, idempotent_call
from sef.operators.status import replica_fields
from sef.terms import Goal, Mode, ReplicaStatus

REASON = "an operator switched"
"""Reason of the promotion, in events and answers."""


def switch(ctx: Context, agent_id: str, key: str | None) -> Answer:
    """Promote the standby, terminate the old primary, launch the next standby.

    Raises:
        AgentNotFound: no agent has this id.
        Conflict: manual mode is disabled, or the standby is missing or not ready.
        CloudError: EC2 does not confirm that the standby runs; nothing was changed.
    """
    with idempotent_call(ctx, key, agent_id, "manual-switch") as call:
        if call.is_new:
            _, standby = ctx.database.read(_require_ready_standby, agent_id)
            # An operator's switch has time to check that the standby runs.
            watch.require_running(ctx, standby)
            promotion = ctx.database.write(_switch, ctx, agent_id, call)
            reconcile_agent(ctx, agent_id)
            call.answer = ctx.database.read(_answer, agent_id, promotion)
    return call.answer


def dry_run_switch(ctx: Context, agent_id: str) -> Answer:
    """Return the plan of `switch`; change nothing. Raises the errors of `switch`."""
    ctx.database.read(_require_ready_standby, agent_id)
    result = dry_run(ctx, agent_id, _promote, _promoted, must_run=True)
    promotion = result.answer
    return {
        "status": "success",
        "dry_run": True,
        "action": "promoted",
        "message": f"Would switch to {promotion['new_instance_id']}",
        "incident_id": promotion["incident_id"],
        "goal": Goal.SWITCH,
        "reason": REASON,
        "risk": None,
        "threshold": None,
        "mode": Mode.MANUAL,
        "old_instance_id": promotion["old_instance_id"],
        "new_instance_id": promotion["new_instance_id"],
        "epoch": promotion["epoch"],
        **result.course,
    }


def _switch(connection: Connection, ctx: Context, agent_id: str, call: IdempotentCall) -> Promotion:
    promotion = _promote(connection, ctx, agent_id)
    call.store(connection, _answer(connection, agent_id, promotion))
    return promotion


def _promote(connection: Connection, ctx: Context, agent_id: str) -> Promotion:
    agent, standby = _require_ready_standby(connection, agent_id, lock=True)
    return promote(
        connection,
        agent,
        standby_as_successor(standby),
        open_incident(connection, agent_id),
        REASON,
        ctx.clock,
        retire_after=timedelta(0),
        settings=ctx.settings,
    )


def _promoted(connection: Connection, promotion: Promotion) -> dict[str, Any]:
    return asdict(promotion)


def _require_ready_standby(
    connection: Connection, agent_id: str, *, lock: bool = False
) -> tuple[Agent, Replica]:
    """Return the agent and its standby if an operator may switch now.

    Raises:
        AgentNotFound: no agent has this id.
        Conflict: manual mode is disabled, or the standby is missing or not ready.
    """
    agent = read_agent(connection, agent_id, lock=lock)
    if not agent.manual_replica_enabled:
        raise Conflict(
            "manual_mode_not_enabled",
            "Manual replica mode is not enabled for this agent. Enable it first.",
        )
    standby = live_standby(connection, agent_id)
    if standby is None:
        raise Conflict(
            "no_replica",
            "No standby is available. SEF launches one; retry when sef-status shows it ready.",
        )
    if standby.status is not ReplicaStatus.READY:
        raise Conflict(
            "replica_not_ready", f"The standby is not ready: {_why_not_ready(agent, standby)}."
        )
    return agent, standby


def _why_not_ready(agent: Agent, standby: Replica) -> str:
    if standby.instance_id is not None:
        return "it is still launching; retry in a moment"
    if agent.not_before is not None:
        return f"its launch is postponed until {iso(agent.not_before)}"
    return "SEF is about to launch it; retry in a moment"


def _answer(connection: Connection, agent_id: str, promotion: Promotion) -> Answer:
    standby = live_standby(connection, agent_id)
    cutover = cutover_of_epoch(connection, agent_id, promotion.epoch)
    return {
        "status": "success",
        "message": f"Switched to {promotion.new_instance_id}",
        "old_instance_id": promotion.old_instance_id,
        "new_instance_id": promotion.new_instance_id,
        "epoch": promotion.epoch,
        "replica": replica_fields(standby) if standby else None,
        "cutover": {"id": cutover.id, "status": cutover.status} if cutover else None,
    }
