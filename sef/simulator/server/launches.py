"""Interpret RunInstances like EC2 where moto differs: pool, market, count and client tokens."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.exceptions import ServiceException
from moto.ec2.models.instances import Reservation

from sef.simulator.server.faults import Error
from sef.simulator.server.region import Region

TokenKey = tuple[str, str]
"""A zone and a client token."""

_NOT_COMPARED = {"ClientToken", "Action", "Version", "Placement.AvailabilityZone"}
"""Parameters in which a repeated call may differ. A token belongs to a zone, so a call in another
zone is not a repeat."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A request to launch instances, completed from its launch template."""

    instance_type: str
    zone: str
    market: str
    token: str | None
    fingerprint: str
    form: Mapping[str, str]
    """The request for moto, with the parameters that moto does not read from a template."""
    least: int
    most: int

    @property
    def pool(self) -> str:
        return f"{self.instance_type}.{self.zone}"

    @classmethod
    def read(cls, form: Mapping[str, str], region: Region) -> "Launch | None":
        """Read a request.

        None: its template or subnet does not exist; moto then answers with the error.
        """
        try:
            template = _template(form, region)
            subnet = (
                form.get("SubnetId")
                or form.get("NetworkInterface.1.SubnetId")
                or (None if "Placement.AvailabilityZone" in form else _subnet(template))
            )
            if subnet:
                zone = region.backend.get_subnet(subnet).availability_zone
            else:
                zone = form.get("Placement.AvailabilityZone") or (
                    template.get("Placement", {}).get("AvailabilityZone")
                    or f"{region.backend.region_name}a"
                )
        except (ServiceException, ValueError):
            return None
        template_market = template.get("InstanceMarketOptions", {}).get("MarketType")
        is_spot = "spot" in (form.get("InstanceMarketOptions.MarketType"), template_market)
        completed = dict(form)
        if is_spot:
            completed["InstanceMarketOptions.MarketType"] = "spot"
        if not subnet:
            completed["Placement.AvailabilityZone"] = zone
        elif "NetworkInterface.1.SubnetId" not in form:
            completed["SubnetId"] = subnet
        return cls(
            instance_type=form.get("InstanceType") or template.get("InstanceType", "m1.small"),
            zone=zone,
            market="spot" if is_spot else "on-demand",
            token=form.get("ClientToken"),
            fingerprint=_fingerprint(form),
            form=completed,
            least=int(form.get("MinCount", "1")),
            most=int(form.get("MaxCount") or form.get("MinCount", "1")),
        )

    def asking_for(self, room: int | None) -> Mapping[str, str]:
        """Return the request for the number that EC2 would launch: up to MaxCount, within `room`.

        moto launches MinCount.
        """
        count = self.most if room is None else min(self.most, room)
        return dict(self.form) | {"MinCount": str(count)}


class Tokens:
    """Client tokens and their instances. A token belongs to a zone, as EC2 documents."""

    def __init__(self) -> None:
        self._known: dict[TokenKey, tuple[str, Reservation]] = {}

    def launched(self, launch: Launch) -> Reservation | None:
        known = self._known.get((launch.zone, launch.token or ""))
        return known[1] if known else None

    def refusal(self, launch: Launch, *, of_terminated: bool) -> Error | None:
        """Return the error for a known token, or None if EC2 answers with its instances."""
        fingerprint, reservation = self._known[(launch.zone, launch.token or "")]
        if fingerprint != launch.fingerprint:
            return Error.of(
                "IdempotentParameterMismatch",
                f"Arguments on this idempotent request are inconsistent with arguments used in "
                f"previous request(s) with the client token {launch.token}.",
            )
        if of_terminated and all(i.state == "terminated" for i in reservation.instances):
            return Error.of(
                "IdempotentInstanceTerminated",
                "The client token is that of an instance that has been terminated.",
            )
        return None

    def remember(self, launch: Launch, reservation: Reservation) -> None:
        if launch.token:
            self._known[(launch.zone, launch.token)] = (launch.fingerprint, reservation)


def _template(form: Mapping[str, str], region: Region) -> dict[str, Any]:
    reference = {
        key.removeprefix("LaunchTemplate."): value
        for key, value in form.items()
        if key.startswith("LaunchTemplate.")
    }
    if not reference:
        return {}
    data: dict[str, Any] = region.backend._get_template_from_args(reference).data
    return data


def _subnet(template: Mapping[str, Any]) -> str | None:
    interfaces = template.get("NetworkInterfaces") or [{}]
    subnet: str | None = interfaces[0].get("SubnetId")
    return subnet


def _fingerprint(form: Mapping[str, str]) -> str:
    compared = {key: value for key, value in form.items() if key not in _NOT_COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()
