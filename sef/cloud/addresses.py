"""Move Elastic IPs and private addresses, each with one call.

Such a call leaves the address where it is if AWS refuses it, but it takes the address from any
holder. `sef.cloud.late_calls` and the caller keep a late call from moving it to a former primary.
"""

from functools import partial
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from sef.cloud.acceptance import Acceptance
from sef.cloud.changes import Impossible, PlannedChange
from sef.cloud.errors import translated
from sef.cloud.holders import attached_to
from sef.cloud.placement import Binding, Interface, NetworkPlacement


class AddressMoves(Acceptance):
    """Elastic IPs and private addresses.

    Each method returns None if the wanted state is reached.

    Args of the methods:
        binding: how the former primary had the address; None: not known.
        calm: nothing presses, so see first that the instance can take the address as it was bound,
            and raise Impossible if it cannot. Otherwise the first address or interface has to do.

    Raises:
        CloudError: EC2 refused a call or did not answer.
        NotReady: the change has to wait.
        Impossible: the change cannot be made in the present state.
    """

    @translated()
    def elastic_ip(
        self,
        allocation_id: str,
        instance_id: str,
        binding: Binding | None = None,
        *,
        calm: bool = False,
    ) -> PlannedChange | None:
        """Plan to associate an Elastic IP with an address of an instance, as it was bound."""
        place = self.place(instance_id)
        answer = self._ec2.describe_addresses(AllocationIds=[allocation_id])
        address = answer["Addresses"][0]
        interface_id = address.get("NetworkInterfaceId")
        wanted = _address_at(binding, place)
        is_here = place.has_interface(interface_id)
        if is_here:
            present = (interface_id, address.get("PrivateIpAddress") or place.private_ip)
            if binding is None or wanted is None or present == wanted:
                return None
        caveat = ""
        if wanted is None:
            assert binding is not None, "without a binding the first address is wanted"
            caveat = _lost_address(allocation_id, binding, place)
            if calm:
                raise Impossible(caveat)
            caveat = f"{caveat}; it is at {place.private_ip} now"
            wanted = place.interface_id, place.private_ip
        if calm:
            self.accepts_elastic_ip(address, *wanted, place)
        return PlannedChange(
            f"{address['PublicIp']} ({allocation_id}) moved to {instance_id}",
            partial(
                self._move_elastic_ip,
                allocation_id,
                is_free=address.get("AssociationId") is None,
                interface_id=wanted[0],
                private_ip=wanted[1],
            ),
            holder=None if is_here else address.get("InstanceId") or interface_id or None,
            holders=frozenset() if is_here else _holders_of(address),
            caveat=caveat,
        )

    @translated()
    def private_ip(
        self,
        address: str,
        instance_id: str,
        binding: Binding | None = None,
        *,
        calm: bool = False,
    ) -> PlannedChange | None:
        """Plan to assign a secondary private address to an interface of an instance."""
        place = self.place(instance_id)
        if place.with_address(address) is not None:
            return None
        self._check_subnet(address, place)
        interfaces = self._ec2.describe_network_interfaces(
            Filters=[
                {"Name": "subnet-id", "Values": [place.subnet_id]},
                {"Name": "addresses.private-ip-address", "Values": [address]},
            ]
        )["NetworkInterfaces"]
        holder = interfaces[0] if interfaces else None
        if holder is not None and holder["PrivateIpAddress"] == address:
            raise Impossible(
                f"{address} is the primary address of {holder['NetworkInterfaceId']}; only a "
                "secondary one can be moved"
            )
        at, caveat = self._interface_for(address, binding, place, calm=calm)
        if calm:
            self.accepts_private_ip(address, at, place)
        holder_id = None
        if holder is not None:
            attachment = holder.get("Attachment") or {}
            holder_id = attachment.get("InstanceId") or holder["NetworkInterfaceId"]
        return PlannedChange(
            f"{address} moved to {instance_id}",
            partial(self._move_private_ip, address, is_free=holder is None, interface_id=at.id),
            holder=holder_id,
            holders=frozenset(attached_to(interfaces)),
            caveat=caveat,
        )

    def _interface_for(
        self, address: str, binding: Binding | None, place: NetworkPlacement, *, calm: bool
    ) -> tuple[Interface, str]:
        """Return the interface that an address belongs to, and the caveat if it is another one."""
        if binding is None or binding.device_index in (None, 0):
            return place.first, ""
        at = place.at_index(binding.device_index)
        if at is not None:
            return at, ""
        caveat = (
            f"{address} was at the interface with device index {binding.device_index} of "
            f"{binding.instance_id}, and {place.instance_id} has no such interface: attach one, or "
            "name the interface as network_interface too"
        )
        if calm:
            raise Impossible(caveat)
        return place.first, f"{caveat}; it is at {place.interface_id} now"

    def _check_subnet(self, address: str, place: NetworkPlacement) -> None:
        answer = self._ec2.describe_subnets(SubnetIds=[place.subnet_id])
        block = answer["Subnets"][0]["CidrBlock"]
        if IPv4Address(address) not in IPv4Network(block):
            raise Impossible(
                f"{address} is not in {place.subnet_id} ({block}), the subnet of "
                f"{place.instance_id}"
            )

    @translated()
    def _move_elastic_ip(
        self, allocation_id: str, *, is_free: bool, interface_id: str, private_ip: str
    ) -> None:
        # The call names the interface, since EC2 refuses the id of an instance with several
        # interfaces. An address that was free is only taken if it still is.
        self._ec2.associate_address(
            AllocationId=allocation_id,
            NetworkInterfaceId=interface_id,
            PrivateIpAddress=private_ip,
            AllowReassociation=not is_free,
        )

    @translated()
    def _move_private_ip(self, address: str, *, is_free: bool, interface_id: str) -> None:
        # An Elastic IP of the address moves along:
        # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssignPrivateIpAddresses.html
        self._ec2.assign_private_ip_addresses(
            NetworkInterfaceId=interface_id,
            PrivateIpAddresses=[address],
            AllowReassignment=not is_free,
        )


def _holders_of(address: Any) -> frozenset[str] | None:
    """Return the holder of an Elastic IP; None if it is with an interface of no known instance."""
    if address.get("InstanceId"):
        return frozenset({address["InstanceId"]})
    return None if address.get("NetworkInterfaceId") else frozenset()


def _address_at(binding: Binding | None, place: NetworkPlacement) -> tuple[str, str] | None:
    """Return the interface and the address of an instance that correspond to a binding.

    None: the instance has no such address.
    """
    if binding is None:
        return place.interface_id, place.private_ip
    at = place.with_address(binding.private_ip)
    if at is not None and binding.private_ip is not None:
        return at.id, binding.private_ip  # the address or its interface has moved there
    if not binding.is_first:
        return None
    at = place.at_index(binding.device_index)
    return None if at is None else (at.id, at.first_address)


def _lost_address(allocation_id: str, binding: Binding, place: NetworkPlacement) -> str:
    if binding.is_first:
        return (
            f"{allocation_id} was at the interface with device index {binding.device_index} of "
            f"{binding.instance_id}, and {place.instance_id} has no such interface: attach one, or "
            "name the interface as network_interface too"
        )
    return (
        f"{allocation_id} was at {binding.private_ip}, a secondary private address of "
        f"{binding.instance_id} that {place.instance_id} does not have: name {binding.private_ip} "
        "as private_ip too, or associate the Elastic IP with the first address"
    )
