"""Route traffic to an instance: target groups of ELBv2, and records of Route 53.

As in `sef.cloud.attachments`, a method looks up the present state and plans a change from it.
Route 53 applies a change batch completely or not at all, and deletes a record only if it equals the
record in the batch. Target groups offer no comparison, but registering or deregistering a target a
second time has no effect. `sef.failover.cutover.run` undoes a change that a worker made too late.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sef.cloud.attachments import Impossible, NotReady, PlannedChange
from sef.cloud.clients import Clients
from sef.cloud.errors import translated

if TYPE_CHECKING:
    from mypy_boto3_elbv2.type_defs import TargetDescriptionTypeDef

DEFAULT_TTL = 60
"""TTL of a new record, in seconds."""


class TrafficRouting:
    """Target groups whose targets are instances, and DNS records.

    Each method that plans a change returns None if the wanted state is reached, and raises the
    exceptions of `Attachments`.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    @translated()
    def registered(self, arn: str, port: int | None, instance_id: str) -> PlannedChange | None:
        """Plan to register an instance in a target group; a port of None is the group's own."""
        for target in self._targets(arn):
            if _is(target, instance_id, port) and _state(target) != "draining":
                return None
        return PlannedChange(
            f"{instance_id} registered in {_name(arn)}",
            partial(self.register, arn, port, instance_id),
        )

    @translated()
    def healthy(self, arn: str, port: int | None, instance_id: str) -> None:
        """Raise NotReady until the target group reports the instance healthy."""
        targets = [target for target in self._targets(arn) if _is(target, instance_id, port)]
        if not targets:
            raise NotReady(f"{instance_id} is not registered in {_name(arn)}")
        health = targets[0]["TargetHealth"]
        if health["State"] == "healthy" or health.get("Reason") == "Target.NotInUse":
            return  # ELBv2 checks no health while no load balancer uses the group
        reason = health.get("Reason") or health.get("Description") or "no reason given"
        raise NotReady(f"{instance_id} is {health['State']} in {_name(arn)}: {reason}")

    @translated()
    def deregistered(self, arn: str, instance_ids: Collection[str]) -> PlannedChange | None:
        """Plan to deregister instances from a target group, on every port."""
        # ELBv2 identifies a target by instance and port if it was registered with a port.
        leaving: list[TargetDescriptionTypeDef] = [
            {"Id": target["Target"]["Id"], "Port": target["Target"]["Port"]}
            for target in self._targets(arn)
            if target["Target"]["Id"] in instance_ids and _state(target) != "draining"
        ]
        if not leaving:
            return None
        ids = ", ".join(sorted({target["Id"] for target in leaving}))
        return PlannedChange(
            f"{ids} deregistered from {_name(arn)}", partial(self._deregister, arn, leaving)
        )

    @translated()
    def holders_of_group(self, arn: str) -> set[str]:
        """Return the instances that are registered in a target group and not draining."""
        return {
            target["Target"]["Id"] for target in self._targets(arn) if _state(target) != "draining"
        }

    @translated()
    def addresses_of_record(self, zone_id: str, name: str, kind: str) -> set[str]:
        """Return the addresses of a simple record; none if there is no such record."""
        record = self._record(zone_id, name, kind) or {}
        return {value["Value"] for value in record.get("ResourceRecords", [])}

    @translated()
    def register(self, arn: str, port: int | None, instance_id: str) -> None:
        """Register an instance in a target group; a port of None is the group's own."""
        target: TargetDescriptionTypeDef = {"Id": instance_id}
        if port is not None:
            target["Port"] = port
        self._clients().elbv2.register_targets(TargetGroupArn=arn, Targets=[target])

    @translated()
    def record(
        self, zone_id: str, name: str, kind: str, address: str, ttl: int | None
    ) -> PlannedChange | None:
        """Plan to set a simple record, without alias or routing policy, to an address.

        A `ttl` of None keeps the record's TTL; a new record gets `DEFAULT_TTL`.
        """
        current = self._record(zone_id, name, kind)
        wanted: dict[str, Any] = {"Name": name, "Type": kind, **(current or {})} | {
            "TTL": ttl if ttl is not None else (current or {}).get("TTL", DEFAULT_TTL),
            "ResourceRecords": [{"Value": address}],
        }
        if current == wanted:
            return None
        changes: list[Any] = [{"Action": "CREATE", "ResourceRecordSet": wanted}]
        if current is not None:
            changes.insert(0, {"Action": "DELETE", "ResourceRecordSet": current})
        return PlannedChange(
            f"{name} set to {address}", partial(self._change_records, zone_id, changes)
        )

    @translated()
    def check_group(self, arn: str) -> None:
        """Check that instances can be registered in a target group.

        Raises:
            Impossible: the targets of the group are of another type.
            CloudError: the group does not exist, or AWS did not answer.
        """
        [group] = self._clients().elbv2.describe_target_groups(TargetGroupArns=[arn])[
            "TargetGroups"
        ]
        if group["TargetType"] != "instance":
            raise Impossible(f"the targets of {_name(arn)} are of type {group['TargetType']}")

    @translated()
    def check_record(self, zone_id: str, name: str, kind: str) -> None:
        """Check that a record belongs to its zone and is a simple record.

        Raises:
            Impossible: the name is not in the zone, or the record has an alias or a routing policy.
            CloudError: the zone does not exist, or AWS did not answer.
        """
        zone = self._clients().route53.get_hosted_zone(Id=zone_id)["HostedZone"]["Name"]
        domain = zone.rstrip(".").lower()
        if name != domain and not name.endswith(f".{domain}"):
            raise Impossible(f"{name} is not in the zone {zone_id}, {domain}")
        self._record(zone_id, name, kind)

    @translated()
    def _deregister(self, arn: str, targets: "Sequence[TargetDescriptionTypeDef]") -> None:
        self._clients().elbv2.deregister_targets(TargetGroupArn=arn, Targets=targets)

    @translated()
    def _change_records(self, zone_id: str, changes: Sequence[Any]) -> None:
        self._clients().route53.change_resource_record_sets(
            HostedZoneId=zone_id, ChangeBatch={"Changes": changes}
        )

    def _record(self, zone_id: str, name: str, kind: str) -> dict[str, Any] | None:
        answer = self._clients().route53.list_resource_record_sets(
            HostedZoneId=zone_id,
            StartRecordName=name,
            StartRecordType=kind,  # type: ignore[arg-type]
            MaxItems="10",
        )
        records = [
            dict(record)
            for record in answer["ResourceRecordSets"]
            if record["Name"].rstrip(".").lower() == name and record["Type"] == kind
        ]
        if any("SetIdentifier" in record for record in records):
            raise Impossible(f"{name} has several records with a routing policy")
        if any("AliasTarget" in record for record in records):
            raise Impossible(f"{name} is an alias")
        return records[0] if records else None

    def _targets(self, arn: str) -> list[Any]:
        answer = self._clients().elbv2.describe_target_health(TargetGroupArn=arn)
        return list(answer["TargetHealthDescriptions"])


def _is(target: Any, instance_id: str, port: int | None) -> bool:
    described = target["Target"]
    return described["Id"] == instance_id and port in (None, described.get("Port"))


def _state(target: Any) -> str:
    return str(target["TargetHealth"]["State"])


def _name(arn: str) -> str:
    return arn.split("/")[-2]
