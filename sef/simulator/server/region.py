"""EC2 in one region: moto's backend with a launch template, slow states, and answers that lag."""

import datetime
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance, InstanceState, Reservation, StateReason
from moto.ec2.utils import random_ami_id

from sef.simulator.server.aws_checks import check_region
from sef.simulator.server.spot_requests import SpotRequests

TEMPLATE_NAME = "sef-default"
TEMPLATE_INSTANCE_TYPE = "m5.large"

_PROFILE = ("iam_instance_profile_name", "iam_instance_profile_arn")


@dataclass(frozen=True, slots=True)
class _PastState:
    """The state and the tags of an instance from a moment on."""

    at: float
    state: str
    code: int
    tags: Mapping[str, str]


class Region:
    """EC2 in one region.

    Attributes:
        is_muted: the answers of launches are not read, and may be incomplete.
        pending: instances that are launched and do not run yet.
    """

    def __init__(self, name: str) -> None:
        self.backend = ec2_backends[DEFAULT_ACCOUNT_ID][name]
        self.is_muted = False
        self.pending: list[Instance] = []
        self._moto_run_instances = self.backend.run_instances
        self._moto_describe_tags = self.backend.describe_tags
        self._moto_all_reservations = self.backend.all_reservations
        self._moto_get_instance = self.backend.get_instance
        self._repeated: Reservation | None = None
        self._hidden: frozenset[str] = frozenset()
        self._launched: Reservation | None = None
        self._past: dict[str, list[_PastState]] = {}
        vars(self.backend).update(
            run_instances=self._run_instances,
            describe_tags=self._describe_tags,
            all_reservations=self._all_reservations,
            get_instance=self._get_instance,
        )
        check_region(self.backend)
        self.spot_requests = SpotRequests(self.backend, self._run_instances)
        self._seed()

    def instances(self) -> list[Instance]:
        return [i for r in self.backend.reservations.values() for i in r.instances]

    def instance(self, instance_id: str) -> Instance | None:
        return next((i for i in self.instances() if i.id == instance_id), None)

    def take_launched(self) -> Reservation | None:
        """Return the launch since the last call of this method, if there was any."""
        launched, self._launched = self._launched, None
        return launched

    @contextmanager
    def answering_with(self, reservation: Reservation) -> Iterator[None]:
        """Let RunInstances launch nothing and return these instances in their present state."""
        self._repeated = reservation
        try:
            yield
        finally:
            self._repeated = None

    @contextmanager
    def hiding(self, ids: frozenset[str]) -> Iterator[None]:
        """Leave these instances out of every answer."""
        outer = self._hidden
        self._hidden |= ids
        try:
            yield
        finally:
            self._hidden = outer

    @contextmanager
    def as_of(self, moment: float | None) -> Iterator[None]:
        """Show instances with their state and tags of a past moment, and no later instances.

        Such answers come from a replica of EC2's data that lags behind. None: the present.
        """
        if moment is None:
            yield
            return
        present = [(i, i._state, self.backend.tags.get(i.id)) for i in self.instances()]
        past = {i.id: self._past_state(i.id, moment) for i, _, _ in present}
        try:
            for instance, _, _ in present:
                if state := past[instance.id]:
                    instance._state = InstanceState(state.state, state.code)
                    self.backend.tags[instance.id] = dict(state.tags)
            with self.hiding(frozenset(i for i, state in past.items() if state is None)):
                yield
        finally:
            for instance, present_state, tags in present:
                instance._state = present_state
                if tags is not None:
                    self.backend.tags[instance.id] = tags

    def record_states(self, ids: Collection[str], at: float) -> None:
        """Record the present state and tags of these instances, for answers that lag."""
        for instance_id in ids:
            instance = self.instance(instance_id)
            if instance is not None:
                tags = dict(self.backend.tags.get(instance_id, {}))
                state = _PastState(at, instance.state, instance._state.code, tags)
                self._past.setdefault(instance_id, []).append(state)

    def forget(self) -> None:
        """Terminate and forget all instances; EC2 forgets an instance an hour after its end."""
        for instance in self.instances():
            if instance.state != "terminated":
                instance.terminate()
            self.backend.tags.pop(instance.id, None)
        self.backend.reservations.clear()
        self._past.clear()
        self.pending.clear()
        self.spot_requests.forget()

    def advance(self, now: float, pending_seconds: float) -> None:
        """Let instances run that have been pending for long enough."""
        pending = [i for i in self.pending if i.state == "pending"]
        self.pending = [i for i in pending if launched_at(i) + pending_seconds > now]
        for instance in pending:
            running_at = launched_at(instance) + pending_seconds
            if running_at <= now:
                instance._state = InstanceState("running", 16)
                self.record_states([instance.id], running_at)

    def _past_state(self, instance_id: str, moment: float) -> _PastState | None:
        earlier = [state for state in self._past.get(instance_id, []) if state.at <= moment]
        return earlier[-1] if earlier else None

    def _run_instances(self, *args: Any, **kwargs: Any) -> Reservation:
        if self._repeated is not None:
            return self._repeated
        reservation = self._moto_run_instances(*args, **kwargs)
        for instance in reservation.instances:
            instance._state = InstanceState("pending", 0)
        self.pending += reservation.instances
        self._launched = reservation
        if not self.is_muted or any(kwargs[k] for k in _PROFILE):
            return reservation
        # To render the answer takes longer than the launch, and a restart reads no answers.
        return Reservation(reservation.id, reservation.owner_id)

    def _get_instance(self, instance_id: str) -> Instance:
        # At each launch moto copies all reservations to find one instance.
        if not self._hidden:
            for reservation in reversed(self.backend.reservations.values()):
                for instance in reservation.instances:
                    if instance.id == instance_id:
                        return instance
        return self._moto_get_instance(instance_id)

    def _describe_tags(self, filters: Any = None) -> list[dict[str, str]]:
        # moto reads all tags to find those of one instance, several times for each instance: a
        # listing of 1,000 instances took seconds.
        wanted = (filters or {}).get("resource-id", [])
        if list(filters or {}) != ["resource-id"] or len(wanted) != 1 or "*" in wanted[0]:
            return self._moto_describe_tags(filters)
        all_tags = self.backend.tags
        tags = all_tags.get(wanted[0])
        if not tags:
            return []
        self.backend.tags = {wanted[0]: tags}
        try:
            return self._moto_describe_tags(filters)
        finally:
            self.backend.tags = all_tags

    def _all_reservations(self, filters: Any = None) -> list[Reservation]:
        # moto copies and filters all reservations to find one by its instance.
        everything = self.backend.reservations
        wanted = set((filters or {}).get("instance-id", ()))
        if wanted:
            self.backend.reservations = {
                key: reservation
                for key, reservation in everything.items()
                if any(instance.id in wanted for instance in reservation.instances)
            }
        try:
            reservations = self._moto_all_reservations(filters)
        finally:
            self.backend.reservations = everything
        if self._hidden:
            return [r for r in reservations if not any(i.id in self._hidden for i in r.instances)]
        return reservations

    def _seed(self) -> None:
        """Create an image, and the default launch template that uses it."""
        image = Ami(
            self.backend,
            random_ami_id(),
            name="sef-simulated-linux",
            owner_alias="amazon",
            description="An image that boots nothing, for the simulated EC2",
            public=True,
            virtualization_type="hvm",
            architecture="x86_64",
            hypervisor="xen",
            root_device_type="ebs",
        )
        self.backend.amis[image.id] = image
        self.backend.create_launch_template(
            TEMPLATE_NAME,
            "The default of the simulated EC2",
            {"ImageId": image.id, "InstanceType": TEMPLATE_INSTANCE_TYPE},
            {},
        )


def interrupt(instance: Instance) -> None:
    """Terminate an instance as EC2 does to reclaim its capacity."""
    instance.terminate()
    if instance.lifecycle == "spot":
        code = "Server.SpotInstanceTermination"
        instance._reason = code
        instance.state_reason = StateReason(f"{code}: Spot instance termination", code)


def launched_at(instance: Instance) -> float:
    return instance.launch_time.replace(tzinfo=datetime.UTC).timestamp()
