"""Where traffic goes: target groups of ELBv2, and records of Route 53.

As in `sef.cloud.moves`: look first, then move from what was seen. Route 53 does a batch as a whole
or not at all, and deletes a record only if it is as the batch says. Target groups have nothing to
compare with, but whoever registers or deregisters twice does it once; what a late one did there is
undone by `sef.cutover`.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from sef.cloud.attachments import Impossible, NotReady, PlannedChange
from sef.cloud.clients import Clients
from sef.cloud.errors import translated

if TYPE_CHECKING:
    from mypy_boto3_elbv2.type_defs import TargetDescriptionTypeDef

DEFAULT_TTL = 60
"""Of a record that is not there yet, in seconds."""


class TrafficRouting:
    """Every look returns None when there is nothing to do any more, and raises as those of `Moves`.

    A target group's targets are instances.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    @translated()
    def registered(self, arn: str, port: int | None, instance_id: str) -> PlannedChange | None:
        for target in self._targets(arn):
            if _is(target, instance_id, port) and _state(target) != "draining":
                return None

        def make() -> None:
            self.register(arn, port, instance_id)

        return PlannedChange(f"{instance_id} registered in {_name(arn)}", make)

    @translated()
    def healthy(self, arn: str, port: int | None, instance_id: str) -> None:
        """Raises NotYet until the target group reports the instance healthy."""
        mine = [target for target in self._targets(arn) if _is(target, instance_id, port)]
        if not mine:
            raise NotReady(f"{instance_id} is not registered in {_name(arn)}")
        health = mine[0]["TargetHealth"]
        if health["State"] == "healthy" or health.get("Reason") == "Target.NotInUse":
            return  # where no load balancer uses the group, nobody looks at the health
        why = health.get("Reason") or health.get("Description") or "no reason given"
        raise NotReady(f"{instance_id} is {health['State']} in {_name(arn)}: {why}")

    @translated()
    def deregistered(self, arn: str, instance_ids: Collection[str]) -> PlannedChange | None:
        # With their ports: one that was registered with a port of its own is known by both.
        leaving: list[TargetDescriptionTypeDef] = [
            {"Id": target["Target"]["Id"], "Port": target["Target"]["Port"]}
            for target in self._targets(arn)
            if target["Target"]["Id"] in instance_ids and _state(target) != "draining"
        ]
        if not leaving:
            return None

        @translated()
        def make() -> None:
            self._clients().elbv2.deregister_targets(TargetGroupArn=arn, Targets=leaving)

        named = ", ".join(sorted({target["Id"] for target in leaving}))
        return PlannedChange(f"{named} deregistered from {_name(arn)}", make)

    @translated()
    def register(self, arn: str, port: int | None, instance_id: str) -> None:
        target: TargetDescriptionTypeDef = {"Id": instance_id}
        if port is not None:
            target["Port"] = port
        self._clients().elbv2.register_targets(TargetGroupArn=arn, Targets=[target])

    @translated()
    def record(
        self, zone_id: str, name: str, kind: str, address: str, ttl: int | None
    ) -> PlannedChange | None:
        """Let a record of its own, neither an alias nor one of several, say this address."""
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

        @translated()
        def make() -> None:
            self._clients().route53.change_resource_record_sets(
                HostedZoneId=zone_id, ChangeBatch={"Changes": changes}
            )

        return PlannedChange(f"{name} says {address}", make)

    @translated()
    def check_group(self, arn: str) -> None:
        """Check that instances can be registered in a target group.

        Raises:
            CannotMove: no instance can be registered in it.
            CloudError: it does not exist, or AWS did not answer.
        """
        [group] = self._clients().elbv2.describe_target_groups(TargetGroupArns=[arn])[
            "TargetGroups"
        ]
        if group["TargetType"] != "instance":
            raise Impossible(f"the targets of {_name(arn)} are of type {group['TargetType']}")

    @translated()
    def check_record(self, zone_id: str, name: str, kind: str) -> None:
        """Check that a record fits its zone and can be changed.

        Raises:
            CannotMove: the record does not fit its zone, or cannot be changed.
            CloudError: the zone does not exist, or AWS did not answer.
        """
        zone = self._clients().route53.get_hosted_zone(Id=zone_id)["HostedZone"]["Name"]
        domain = zone.rstrip(".").lower()
        if name != domain and not name.endswith(f".{domain}"):
            raise Impossible(f"{name} is not in the zone {zone_id}, {domain}")
        self._record(zone_id, name, kind)

    def _record(self, zone_id: str, name: str, kind: str) -> dict[str, Any] | None:
        answer = self._clients().route53.list_resource_record_sets(
            HostedZoneId=zone_id,
            StartRecordName=name,
            StartRecordType=kind,  # type: ignore[arg-type]
            MaxItems="10",
        )
        found = [
            dict(record)
            for record in answer["ResourceRecordSets"]
            if record["Name"].rstrip(".").lower() == name and record["Type"] == kind
        ]
        if any("SetIdentifier" in record for record in found):
            raise Impossible(f"{name} has several records with a routing policy")
        if any("AliasTarget" in record for record in found):
            raise Impossible(f"{name} is an alias")
        return found[0] if found else None

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
