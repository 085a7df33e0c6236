"""Point routes of route tables to an instance, such as those of a NAT instance or a router.

As in `sef.cloud.attachments`, a method looks up the present state and plans a change from it.
ReplaceRoute moves a route in one call and leaves it where it was when EC2 refuses, but it compares
nothing: `sef.failover.cutover.run` undoes a change that a worker made too late. CreateRoute refuses
a route that exists.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ReplaceRoute.html,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Route.html (a route whose target is gone
is a `blackhole`) and https://docs.aws.amazon.com/vpc/latest/userguide/VPC_NAT_Instance.html. That
EC2 fills in both the instance and the interface of such a route could not be verified, so SEF
accepts either.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sef.cloud.attachments import Impossible, PlannedChange
from sef.cloud.clients import Clients
from sef.cloud.errors import translated

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

DESTINATIONS = ("DestinationCidrBlock", "DestinationIpv6CidrBlock")

_OTHER_TARGETS = (
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "EgressOnlyInternetGatewayId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "CoreNetworkArn",
)


class Routes:
    """Routes that point to an instance or to its network interface.

    Raises:
        CloudError: EC2 refused a call or did not answer.
        Impossible: the route cannot be moved in its present state.
    """

    def __init__(self, clients: Callable[[], Clients]) -> None:
        self._clients = clients

    @translated()
    def route(
        self, table_id: str, destination: str, interface_id: str, instance_id: str
    ) -> PlannedChange | None:
        """Plan to point a route to the first interface of an instance.

        None if it points to an interface of the instance.
        """
        vpc, route = self._route(table_id, destination)
        described = f"{table_id} {destination} pointed to {instance_id}"
        target = {_field_of(destination): destination, "NetworkInterfaceId": interface_id}
        if route is None:
            return PlannedChange(described, partial(self._create, table_id, target))
        attachment = self._attachment(route)
        if instance_id in (attachment.get("InstanceId"), route.get("InstanceId")):
            return None
        _require_first(route, attachment)
        own = self._interface(interface_id)
        if own is not None and own["VpcId"] != vpc:
            raise Impossible(f"{table_id} is in {vpc} and {instance_id} in {own['VpcId']}")
        return PlannedChange(described, partial(self._replace, table_id, target))

    @translated()
    def holders_of_route(self, table_id: str, destination: str) -> set[str]:
        """Return the instance that a route points to, if it exists."""
        _, route = self._route(table_id, destination)
        if route is None:
            return set()
        holder = self._attachment(route).get("InstanceId") or route.get("InstanceId")
        return {holder} if holder else set()

    @translated()
    def check_route(self, table_id: str, destination: str) -> None:
        """Raise CloudError or Impossible if the route does not exist or is not an instance's."""
        _, route = self._route(table_id, destination)
        if route is None:
            raise Impossible(f"{table_id} has no route to {destination}; SEF creates it")
        _require_first(route, self._attachment(route))

    @translated()
    def vpc_of_tables(self, table_ids: Collection[str]) -> dict[str, str]:
        """Return the VPC of each route table that exists."""
        answer = self._ec2.describe_route_tables(
            Filters=[{"Name": "route-table-id", "Values": sorted(table_ids)}]
        )
        return {table["RouteTableId"]: table["VpcId"] for table in answer["RouteTables"]}

    @translated()
    def routes_to(self, instance_id: str, vpc: str) -> list[tuple[str, str]]:
        """Return the table and destination of each route that points to an instance of a VPC."""
        answer = self._ec2.describe_network_interfaces(
            Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}]
        )
        own = {interface["NetworkInterfaceId"] for interface in answer["NetworkInterfaces"]}
        tables = self._ec2.get_paginator("describe_route_tables").paginate(
            Filters=[{"Name": "vpc-id", "Values": [vpc]}]
        )
        return sorted(
            (table["RouteTableId"], _destination(route))
            for page in tables
            for table in page["RouteTables"]
            for route in table.get("Routes", [])
            if route.get("InstanceId") == instance_id or route.get("NetworkInterfaceId") in own
        )

    @property
    def _ec2(self) -> "EC2Client":
        return self._clients().ec2

    def _route(self, table_id: str, destination: str) -> tuple[str, Mapping[str, Any] | None]:
        """Return the VPC of a table, and its route to a destination; None: it has no such route."""
        [table] = self._ec2.describe_route_tables(RouteTableIds=[table_id])["RouteTables"]
        routes: Sequence[Mapping[str, Any]] = table.get("Routes", [])
        found = [route for route in routes if _destination(route) == destination]
        return table["VpcId"], found[0] if found else None

    def _attachment(self, route: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the attachment of the interface that a route points to; empty if it is gone."""
        interface_id = route.get("NetworkInterfaceId")
        interface = self._interface(interface_id) if interface_id else None
        attachment: Mapping[str, Any] = (interface or {}).get("Attachment") or {}
        return attachment

    def _interface(self, interface_id: str) -> Any:
        found = self._ec2.describe_network_interfaces(
            Filters=[{"Name": "network-interface-id", "Values": [interface_id]}]
        )["NetworkInterfaces"]
        return found[0] if found else None

    @translated()
    def _create(self, table_id: str, target: Mapping[str, Any]) -> None:
        self._ec2.create_route(RouteTableId=table_id, **target)

    @translated()
    def _replace(self, table_id: str, target: Mapping[str, Any]) -> None:
        self._ec2.replace_route(RouteTableId=table_id, **target)


def _require_first(route: Mapping[str, Any], attachment: Mapping[str, Any]) -> None:
    """Raise Impossible unless a route points to the first interface of an instance, or nowhere."""
    other = next((route[name] for name in _OTHER_TARGETS if route.get(name)), None)
    if other is not None:
        raise Impossible(f"{_destination(route)} points to {other}, not to an instance")
    if attachment.get("DeviceIndex"):
        raise Impossible(
            f"{_destination(route)} points to {route['NetworkInterfaceId']}, interface "
            f"{attachment['DeviceIndex']} of {attachment.get('InstanceId')}: name it as "
            "cutover.network_interface, and the route follows with it"
        )


def _destination(route: Mapping[str, Any]) -> str:
    return next((str(route[name]) for name in DESTINATIONS if route.get(name)), "")


def _field_of(destination: str) -> str:
    return DESTINATIONS[":" in destination]
