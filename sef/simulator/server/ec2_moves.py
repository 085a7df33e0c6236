"""Let moto's EC2 move addresses as AWS does, and keep AWS's limits of attachments and addresses.

Sources:

- An Elastic IP belongs to one private address; AssociateAddress takes it from any holder unless
  AllowReassociation is false, disassociates another Elastic IP of that address, and refuses an
  interface in another network border group:
  https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateAddress.html
- An Elastic IP moves with its secondary private address:
  https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssignPrivateIpAddresses.html
- The limits of interfaces and addresses are those that DescribeInstanceTypes shows. The messages
  are from reports of users, such as https://github.com/cilium/cilium/issues/15877,
  https://github.com/aws/amazon-vpc-cni-k8s/issues/989 and
  https://github.com/kubernetes-sigs/aws-ebs-csi-driver/pull/2500.
- With a shared limit, volumes and interfaces count together:
  https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/volume_limits.html. That page has 28 where
  DescribeInstanceTypes and the error have 27, so the first interface is left out.
- "Not a valid EBS device name": https://github.com/base2genomics/batchit/issues/15

Not verified: the code with which AWS refuses another network border group, and an attachment at
`/dev/xvdf` beside one at `/dev/sdf`, which AWS accepts and never ends according to
https://github.com/joeduffy/blocker/pull/1. Here both are refused with InvalidParameterValue.
"""

import re
from collections.abc import Sequence
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, ResourceAlreadyAssociatedError
from moto.ec2.models.availability_zones_and_regions import Zone
from moto.ec2.models.elastic_ip_addresses import ElasticAddress
from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.responses.elastic_ip_addresses import ElasticIPAddresses
from moto.ec2.responses.elastic_network_interfaces import ElasticNetworkInterfaces
from moto.ec2.utils import random_eip_association_id

_DEVICE = re.compile(r"/dev/(?:sd[a-z]|xvd[a-z]|xvd[a-d][a-z]|sda1)")


def move_addresses() -> None:
    """Change moto's classes, once in a process."""
    _bind_to_private_addresses()
    _associate_as_aws()
    _assign_as_aws()


def check_device(instance: Any, device: str) -> None:
    """Refuse a device name that is not listed or is in use, and a volume too many."""
    if not _DEVICE.fullmatch(device):
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({device}) for parameter device is invalid. {device} is not a valid EBS device "
            "name.",
        )
    if _device(device) in map(_device, instance.block_device_mapping):
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use",
        )
    ebs = _of_type(instance).get("EbsInfo", {})
    limit = ebs.get("MaximumEbsAttachments")
    others = len(instance.nics) - 1 if ebs.get("AttachmentLimitType") == "shared" else 0
    if limit is not None and len(instance.block_device_mapping) + others >= limit:
        raise EC2ClientError(
            "AttachmentLimitExceeded",
            f"You may attach up to {limit - others} devices for this instance type. Please use a "
            "larger instance size to attach more volumes.",
        )


def check_interface_count(instance: Any) -> None:
    """Refuse an interface too many."""
    limit = _of_type(instance).get("NetworkInfo", {}).get("MaximumNetworkInterfaces")
    count = len(instance.nics) + 1
    if limit is not None and count > limit:
        raise EC2ClientError(
            "AttachmentLimitExceeded",
            f"Interface count {count} exceeds the limit for {instance.instance_type}",
        )


def check_address_count(eni: Any, addresses: Sequence[str], further: int) -> None:
    """Refuse an address too many of an interface that is attached to an instance.

    Args:
        further: number of addresses that AWS is to choose.
    """
    if eni.instance is None:
        return
    limit = _of_type(eni.instance).get("NetworkInfo", {}).get("Ipv4AddressesPerInterface")
    own = {one["PrivateIpAddress"] for one in eni.private_ip_addresses}
    if limit is not None and len(own | set(addresses)) + further > limit:
        raise EC2ClientError(
            "PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit."
        )


def _bind_to_private_addresses() -> None:
    """Give each Elastic IP a private address and a network border group."""

    def private_ip_address(self: Any) -> str | None:
        if self.eni is None:
            return None
        bound: str | None = self.__dict__.get("bound_to")
        own = [one["PrivateIpAddress"] for one in self.eni.private_ip_addresses]
        return bound if bound in own else self.eni.private_ip_address

    def border_group(self: Any) -> str:
        return str(self.__dict__.get("border_group") or self.ec2_backend.region_name)

    ElasticAddress.private_ip_address = property(private_ip_address)  # type: ignore[assignment]
    ElasticAddress.network_border_group = property(border_group)  # type: ignore[attr-defined]
    Zone.network_border_group = property(lambda self: self.region_name)  # type: ignore[attr-defined]
    allocate = ElasticIPAddresses.allocate_address

    def allocate_in_group(self: Any) -> ActionResult:
        group = self._get_param("NetworkBorderGroup", if_none=None)
        known = set(map(id, self.ec2_backend.addresses))
        result = allocate(self)
        for address in self.ec2_backend.addresses:
            if id(address) not in known:
                address.border_group = group
        return result

    ElasticIPAddresses.allocate_address = allocate_in_group  # type: ignore[method-assign]


def _associate_as_aws() -> None:
    def associate(self: Any) -> ActionResult:
        backend = self.ec2_backend
        allocation_id = self._get_param("AllocationId", if_none=None)
        public_ip = self._get_param("PublicIp", if_none=None)
        address = (
            backend.address_by_allocation([allocation_id])
            if allocation_id
            else backend.address_by_ip([public_ip])
        )[0]
        instance_id = self._get_param("InstanceId", if_none=None)
        if instance_id:
            eni = backend.get_instance(instance_id).nics[0]
        else:
            eni = backend.get_network_interface(self._get_param("NetworkInterfaceId"))
        private_ip = self._get_param("PrivateIpAddress", if_none=None) or eni.private_ip_address
        may_take = str(self._get_param("AllowReassociation", if_none=True)).lower() == "true"
        _associate(backend, address, eni, private_ip, may_take=may_take)
        return ActionResult({"AssociationId": address.association_id})

    ElasticIPAddresses.associate_address = associate  # type: ignore[method-assign]


def _associate(backend: Any, address: Any, eni: Any, private_ip: str, *, may_take: bool) -> None:
    if private_ip not in [one["PrivateIpAddress"] for one in eni.private_ip_addresses]:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({private_ip}) for parameter privateIpAddress is invalid.",
        )
    if address.network_border_group != backend.region_name:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The address {address.public_ip} is of the network border group "
            f"{address.network_border_group}, and {eni.id} of {backend.region_name}.",
        )
    is_there = (address.eni, address.private_ip_address) == (eni, private_ip)
    if address.eni is not None and not is_there and not may_take:
        raise ResourceAlreadyAssociatedError(address.allocation_id)
    for other in backend.addresses:
        if other is not address and (other.eni, other.private_ip_address) == (eni, private_ip):
            _release(other)
    if address.eni is not None:
        _release(address)
    address.eni, address.instance, address.bound_to = eni, eni.instance, private_ip
    address.association_id = random_eip_association_id()
    if private_ip == eni.private_ip_address:
        eni.public_ip = address.public_ip


def _release(address: Any) -> None:
    if address.eni.public_ip == address.public_ip:
        address.eni.public_ip = None
    address.eni = address.instance = address.association_id = None


def _assign_as_aws() -> None:
    """Move a secondary address, with its Elastic IP, if the call allows it."""
    assign = ElasticNetworkInterfaces.assign_private_ip_addresses
    attach_eni, detach_eni = Instance.attach_eni, Instance.detach_eni

    def assign_or_move(self: Any) -> ActionResult:
        backend = self.ec2_backend
        eni = backend.get_network_interface(self._get_param("NetworkInterfaceId"))
        addresses = self._get_param("PrivateIpAddresses", [])
        further = self._get_int_param("SecondaryPrivateIpAddressCount", 0)
        check_address_count(eni, addresses, further)
        moved = []
        if str(self._get_param("AllowReassignment", if_none=False)).lower() == "true":
            moved = _take(backend, eni, addresses)
        result = assign(self)
        for address, private_ip in moved:
            address.eni, address.instance, address.bound_to = eni, eni.instance, private_ip
        return result

    ElasticNetworkInterfaces.assign_private_ip_addresses = assign_or_move  # type: ignore[method-assign]

    def attach_with_addresses(self: Any, eni: Any, device_index: int) -> str:
        attachment: str = attach_eni(self, eni, device_index)
        _follow(eni)
        return attachment

    def detach_with_addresses(self: Any, eni: Any) -> None:
        detach_eni(self, eni)
        _follow(eni)

    Instance.attach_eni = attach_with_addresses  # type: ignore[method-assign]
    Instance.detach_eni = detach_with_addresses  # type: ignore[method-assign]


def _take(backend: Any, eni: Any, addresses: Sequence[str]) -> list[tuple[Any, str]]:
    """Take secondary addresses from the other interfaces of a subnet; return their Elastic IPs."""
    moved = []
    for other in backend.enis.values():
        if other is eni or other.subnet.id != eni.subnet.id:
            continue
        for one in list(other.private_ip_addresses):
            private_ip = one["PrivateIpAddress"]
            if private_ip not in addresses or private_ip == other.private_ip_address:
                continue
            moved += [
                (address, private_ip)
                for address in backend.addresses
                if address.eni is other and address.private_ip_address == private_ip
            ]
            other.private_ip_addresses.remove(one)
    return moved


def _follow(eni: NetworkInterface) -> None:
    """Let the Elastic IPs of an interface be with the instance that it is attached to."""
    for address in eni.ec2_backend.addresses:
        if address.eni is eni:
            address.instance = eni.instance


def _of_type(instance: Any) -> Any:
    return INSTANCE_TYPES.get(instance.instance_type, {})


def _device(name: str) -> str:
    name = re.sub(r"^xvd", "sd", name.removeprefix("/dev/"))
    return "sda" if name == "sda1" else name
