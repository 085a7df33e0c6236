"""RunInstances as EC2 does it where moto does not: its pool, its market, and client tokens."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moto.core.exceptions import ServiceException
from moto.ec2.models.instances import Reservation

from sef.simulator.server.faults import Error
from sef.simulator.server.moto import Region

TokenKey = tuple[str, str]

# Which zone is what a token belongs to, so it does not make two requests different.
_NO_PARAMETERS = {"ClientToken", "Action", "Version", "Placement.AvailabilityZone"}


@dataclass(frozen=True, slots=True)
class Launch:
    """A request to launch, with what its launch template adds."""

    instance_type: str
    zone: str
    market: str
    token: str | None
    fingerprint: str
    form: Mapping[str, str]
    """What moto is asked: with all spelled out that it does not take from a template itself."""
    least: int
    most: int

    @property
    def pool(self) -> str:
        return f"{self.instance_type}.{self.zone}"

    @classmethod
    def read(cls, form: Mapping[str, str], region: Region) -> "Launch | None":
        """None when the request names a template or a subnet that is not there: moto says so."""
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
        spelled_out = dict(form)
        if is_spot:
            spelled_out["InstanceMarketOptions.MarketType"] = "spot"
        if not subnet:
            spelled_out["Placement.AvailabilityZone"] = zone
        elif "NetworkInterface.1.SubnetId" not in form:
            spelled_out["SubnetId"] = subnet
        return cls(
            instance_type=form.get("InstanceType") or template.get("InstanceType", "m1.small"),
            zone=zone,
            market="spot" if is_spot else "on-demand",
            token=form.get("ClientToken"),
            fingerprint=_fingerprint(form),
            form=spelled_out,
            least=int(form.get("MinCount", "1")),
            most=int(form.get("MaxCount") or form.get("MinCount", "1")),
        )

    def asking_for(self, room: int | None) -> Mapping[str, str]:
        """Return the form with the count that EC2 would launch: up to MaxCount, if there is room.

        moto launches MinCount.
        """
        count = self.most if room is None else min(self.most, room)
        return dict(self.form) | {"MinCount": str(count)}


class Tokens:
    """Client tokens and what they launched. A token belongs to a zone, as EC2 documents."""

    def __init__(self) -> None:
        self._known: dict[TokenKey, tuple[str, Reservation]] = {}

    def launched(self, launch: Launch) -> Reservation | None:
        known = self._known.get((launch.zone, launch.token or ""))
        return known[1] if known else None

    def refusal(self, launch: Launch, *, of_terminated: bool) -> Error | None:
        """Why a token that is known cannot be answered with what it launched."""
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
    asked = {
        key.removeprefix("LaunchTemplate."): value
        for key, value in form.items()
        if key.startswith("LaunchTemplate.")
    }
    if not asked:
        return {}
    data: dict[str, Any] = region.backend._get_template_from_args(asked).data
    return data


def _subnet(template: Mapping[str, Any]) -> str | None:
    interfaces = template.get("NetworkInterfaces") or [{}]
    subnet: str | None = interfaces[0].get("SubnetId")
    return subnet


def _fingerprint(form: Mapping[str, str]) -> str:
    compared = {key: value for key, value in form.items() if key not in _NO_PARAMETERS}
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()
