"""Change the records of several agents in one hosted zone: one listing, one change batch."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from sef.cloud.attachments import Impossible, NotReady
from sef.cloud.holders import ShownInstance
from sef.cloud.records import Record, RecordChange, simple_record, values_of
from sef.context import Context
from sef.failover.cutover.events import describe_nothing_to_do
from sef.failover.cutover.guard import presses, refuse_unrelated
from sef.failover.cutover.inspection import DueStep
from sef.failover.cutover.record import Result
from sef.failover.cutover.run import unsuccessful
from sef.failover.cutover.traffic_memory import TrafficBinding, binding_of, record_key
from sef.failover.cutover.traffic_rules import values_with
from sef.terms import StepStatus

DEFAULT_TTL = 60
"""TTL of a new record, in seconds."""


class ZoneRound:
    """The records at the names of some steps, as Route 53 has just shown them.

    Raises:
        CloudError: AWS refused a call or did not answer.
    """

    def __init__(self, ctx: Context, zone_id: str, dues: Sequence[DueStep]) -> None:
        self._ctx, self._zone_id = ctx, zone_id
        names = [due.step.target["name"] for due in dues]
        self._records = ctx.traffic.at_names(zone_id, names)
        ids = {i for due in dues for i in (due.cutover.new_instance_id, *due.former)}
        self._shown = ctx.attachments.shown(ids)
        self._known = ctx.database.read(_bindings, dues)

    def inspect(self, due: DueStep) -> Result | None:
        """Return the result of a step that needs no change; None if it needs one.

        Raises:
            NotReady: EC2 does not show the new primary.
            Impossible: the record cannot be changed.
            CloudError: AWS refused a call or did not answer.
        """
        record = self._current(due)
        if self._wanted(due, record) == record:
            return self._done(due, describe_nothing_to_do(due.cutover, due.step))
        values = values_of(record)
        # AWS gives the address of an ended instance to another one: while an end presses, an
        # unrelated instance with that address proves nothing.
        if len(values) == 1 and not self._own(due) & set(values) and not presses(due.step):
            vpc_id = self._shown[due.cutover.new_instance_id].vpc_id
            holders = self._ctx.attachments.instances_with_address(values, vpc_id)
            refuse_unrelated(self._ctx, due.cutover, due.step, holders)
        return None

    def make(self, dues: Sequence[DueStep]) -> list[Result]:
        """Change the records of steps that were claimed; return the result of each step.

        A record belongs to one agent, so that no two changes are of one record.
        """
        changes = []
        for due in dues:
            current = self._current(due)
            changes.append(RecordChange(current, self._wanted(due, current)))
        errors = self._ctx.traffic.change(self._zone_id, changes)
        results = []
        for due, error in zip(dues, errors, strict=True):
            message = f"{due.step.target['name']} set to {self._address(due)}"
            results.append(unsuccessful(error) if error else self._done(due, message))
        return results

    def _current(self, due: DueStep) -> Record | None:
        name, kind = _key(due)
        return simple_record(self._records[name], name, kind)

    def _wanted(self, due: DueStep, record: Record | None) -> Record:
        """Return the record with the address of the new primary.

        Without a TTL in the target, the record keeps its own; a new record gets `DEFAULT_TTL`.
        """
        target, present = due.step.target, dict(record or {})
        own, address = self._own(due), self._address(due)
        values = values_with(values_of(record), address, own)
        if values is None:
            raise Impossible(
                f"{target['name']} has the values {', '.join(values_of(record))}, and SEF does not "
                f"know which of them was the primary's: replace it by {address}, and SEF goes on"
            )
        ttl = target.get("ttl")
        return {"Name": target["name"], "Type": target["type"], **present} | {
            "TTL": ttl if ttl is not None else present.get("TTL", DEFAULT_TTL),
            "ResourceRecords": [{"Value": value} for value in values],
        }

    def _address(self, due: DueStep) -> str:
        new, target = due.cutover.new_instance_id, due.step.target
        shown = self._shown.get(new)
        if shown is None:
            raise NotReady(f"EC2 does not show {new}")
        is_public = target["address"] == "public"
        address = shown.public_ip if is_public else shown.private_ip
        if address is not None:
            return address
        if is_public:
            raise Impossible(f"{new} has no public IP address for record {target['name']}")
        raise NotReady(f"{new} has no private address")

    def _own(self, due: DueStep) -> set[str]:
        """Return the addresses of the former primaries: as EC2 shows them, or as remembered."""
        own: set[str] = set()
        for instance_id in due.former:
            shown = self._shown.get(instance_id)
            own |= shown.addresses if shown else set()
        known = self._known.get(due.cutover.agent_id)
        if known is not None and known.instance_id != due.cutover.new_instance_id:
            own |= set(known.addresses)
        new = self._shown.get(due.cutover.new_instance_id)
        return own - (new.addresses if new else set())

    def _done(self, due: DueStep, message: str) -> Result:
        new = due.cutover.new_instance_id
        shown: ShownInstance = self._shown[new]
        binding = TrafficBinding(
            record_key(due.step.target), new, addresses=tuple(sorted(shown.addresses))
        )
        return Result(message, StepStatus.DONE, binding=binding)


def _key(due: DueStep) -> tuple[str, str]:
    return due.step.target["name"], due.step.target["type"]


def _bindings(connection: Connection, dues: Sequence[DueStep]) -> dict[str, Any]:
    return {
        due.cutover.agent_id: binding_of(
            connection, due.cutover.agent_id, record_key(due.step.target)
        )
        for due in dues
    }
