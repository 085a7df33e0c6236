"""What operators call, and what they are answered.

A call with an `idempotency_key` has its effect once; repeated, it gets its first answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sef.agents import read_agent
from sef.db.database import Database
from sef.failover.cutover.checks import TargetChecks
from sef.failover.cutover.targets import parse_targets
from sef.failover.explain.dry_run import DryRunResult
from sef.operators import status
from sef.operators.idempotency import IdempotentCalls, Keep
from sef.operators.modes import Modes, SwitchResult
from sef.parsing import parse_idempotency_key
from sef.terms import Goal, Mode

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operators:
    database: Database
    modes: Modes
    checks: TargetChecks
    repeats: IdempotentCalls

    def enable_manual(self, agent_id: str, key: str | None) -> Answer:
        on = "Manual replica mode is on"

        def work(keep: Keep) -> Answer:
            at_first = {"status": "success", "message": on, "replica": None}
            standby = self.modes.enable_manual(agent_id, lambda c: keep(c, at_first))
            if standby is None:
                message = f"{on}; no standby can be had now, it is tried again"
            elif standby.ready_at is None:
                message = f"{on}; the standby is still launching"
            else:
                message = f"{on}; {standby.instance_id} stands by"
            replica = status.replica_fields(standby) if standby else None
            return {"status": "success", "message": message, "replica": replica}

        return self._once(key, agent_id, "manual-replica/enable", work)

    def disable_manual(self, agent_id: str, key: str | None) -> Answer:
        answer = {"status": "success", "message": "Manual replica mode is off"}

        def work(keep: Keep) -> Answer:
            self.modes.disable_manual(agent_id, lambda c: keep(c, answer))
            return answer

        return self._once(key, agent_id, "manual-replica/disable", work)

    def switch(self, agent_id: str, key: str | None) -> Answer:
        def work(keep: Keep) -> Answer:
            switched = self.modes.switch(agent_id, lambda c, begun: keep(c, _switched(begun)))
            return _switched(switched)

        return self._once(key, agent_id, "manual-switch", work)

    def rehearse_switch(self, agent_id: str) -> Answer:
        return _rehearsed_switch(self.modes.rehearse_switch(agent_id))

    def set_auto(self, agent_id: str, mode: str, key: str | None, *, enabled: bool) -> Answer:
        answer = {"status": "success", "message": f"{mode} is {'on' if enabled else 'off'}"}

        def work(keep: Keep) -> Answer:
            self.modes.set_auto(agent_id, mode, lambda c: keep(c, answer), enabled=enabled)
            return answer

        return self._once(key, agent_id, f"{mode}/{'enable' if enabled else 'disable'}", work)

    def register(self, agent_id: str, changes: Mapping[str, Any]) -> Answer:
        """Register or change an agent; `warnings` says what the operator should look at."""
        names_targets = changes.get("cutover") is not None
        if names_targets:
            changes = {**changes, "cutover": parse_targets(changes["cutover"])}
        registered = self.modes.register(agent_id, changes)
        agent = self.database.read(read_agent, agent_id)
        # Behind COMMIT: what AWS does not say, or says no to, keeps nobody from registering.
        found = self.checks.warnings(agent) if names_targets else []
        return {
            "status": "success",
            "message": "registered" if registered.is_new else "changed",
            "warnings": [*registered.warnings, *found],
            "agent": status.agent_fields(agent),
        }

    def _once(
        self, key: str | None, agent_id: str, call: str, work: Callable[[Keep], Answer]
    ) -> Answer:
        return self.repeats.once(parse_idempotency_key(key), agent_id, call, work)


def _switched(switched: SwitchResult) -> Answer:
    promotion, standby, cutover = switched.promotion, switched.standby, switched.cutover
    return {
        "status": "success",
        "message": f"Switched to {promotion.new_instance_id}",
        "old_instance_id": promotion.old_instance_id,
        "new_instance_id": promotion.new_instance_id,
        "epoch": promotion.epoch,
        "replica": status.replica_fields(standby) if standby else None,
        "cutover": {"id": cutover.id, "status": cutover.status} if cutover else None,
    }


def _rehearsed_switch(rehearsed: DryRunResult) -> Answer:
    promotion = rehearsed.answer
    return {
        "status": "success",
        "dry_run": True,
        "action": "promoted",
        "message": f"Would switch to {promotion['new_instance_id']}",
        "incident_id": promotion["incident_id"],
        "goal": Goal.SWITCH,
        "reason": "an operator switched",
        "risk": None,
        "threshold": None,
        "mode": Mode.MANUAL,
        "old_instance_id": promotion["old_instance_id"],
        "new_instance_id": promotion["new_instance_id"],
        "epoch": promotion["epoch"],
        **rehearsed.course,
    }
