"""Spot requests: moto launches spot instances without one, and never launches again.

As AWS documents them
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-requests.html, spot-request-status.html,
interruption-behavior.html and using-spot-instances-cancel.html of the same guide):

- each spot instance has a request, one-time or persistent;
- a persistent request is open again after its instance has ended, and launches another one;
- an interruption with the behavior `stop` stops the instance, and EC2 starts it again. `hibernate`
  does the same here;
- an instance that its owner stops has a disabled request;
- the cancellation of a request leaves a running instance, and terminates a stopped one.

Not documented is how soon EC2 launches or starts again: `Options.spot_return_seconds`, and room in
the pool. It is not verified that the launch time of a hibernated instance changes when it resumes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.instances import Instance, StateReason
from moto.ec2.utils import generic_filter, random_spot_request_id

STOPS = ("stop", "hibernate")
"""Interruption behaviors that do not terminate the instance."""


class SpotRequest(TaggedEC2Resource):
    """A spot request, with the attributes that moto writes into answers."""

    def __init__(self, backend: Any, instance: Instance, *, kind: str, behavior: str) -> None:
        super().__init__()
        self.ec2_backend = backend
        self.id = self.spot_instance_request_id = random_spot_request_id()
        self.type = kind
        self.instance_interruption_behavior = behavior
        self.instance: Any = instance
        self.state = "active"
        self.code = "fulfilled"
        self.due: float | None = None
        self.product_description = "Linux/UNIX"
        self.create_time = instance.launch_time
        instance.spot_instance_request_id = self.id  # type: ignore[attr-defined]

    @property
    def is_persistent(self) -> bool:
        return self.type == "persistent"

    @property
    def instance_id(self) -> str | None:
        return None if self.state == "open" and self.has_ended else self.instance.id

    @property
    def has_ended(self) -> bool:
        return bool(self.instance.state == "terminated")

    @property
    def pool(self) -> str:
        return f"{self.instance.instance_type}.{self.instance.placement.zone}"

    @property
    def status(self) -> dict[str, Any]:
        return {"Code": self.code, "Message": "", "UpdateTime": self.create_time}

    def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
        names = {"spot-instance-request-id": "id", "state": "state", "instance-id": "instance_id"}
        if filter_name in names:
            return getattr(self, names[filter_name])
        return super().get_filter_value(filter_name, "DescribeSpotInstanceRequests")


class SpotRequests:
    """The spot requests of one region, in place of moto's.

    Args:
        run: launches instances as the region does.
    """

    def __init__(self, backend: Any, run: Callable[..., Any]) -> None:
        self._backend = backend
        self._run = run
        self._requests: dict[str, SpotRequest] = {}
        self._moto_request = backend.request_spot_instances
        vars(backend).update(
            request_spot_instances=self._request,
            describe_spot_instance_requests=self._describe,
            cancel_spot_instance_requests=self._cancel,
        )

    def note(self, instances: Sequence[Instance], form: Mapping[str, str]) -> None:
        """Give new spot instances their requests."""
        options = "InstanceMarketOptions.SpotOptions."
        for instance in instances:
            request = SpotRequest(
                self._backend,
                instance,
                kind=form.get(f"{options}SpotInstanceType", "one-time"),
                behavior=form.get(f"{options}InstanceInterruptionBehavior", "terminate"),
            )
            self._requests[request.id] = request

    def stop_interrupted(self, instance: Instance, at: float, delay: float) -> bool:
        """Stop an interrupted instance, if its request says so; EC2 starts it again later."""
        request = self._live_of(instance)
        if request is None or request.instance_interruption_behavior not in STOPS:
            return False
        instance.stop()
        code = "Server.SpotInstanceShutdown"
        instance.state_reason = StateReason(f"{code}: Spot instance interruption", code)
        request.state, request.code = "open", "instance-stopped-no-capacity"
        request.due = at + delay
        return True

    def sweep(self, at: float, delay: float) -> None:
        """Let the requests follow their instances, after a change at a moment."""
        for request in self._requests.values():
            state = request.instance.state
            if not request.is_persistent:
                if state == "terminated" and request.state == "active":
                    request.state, request.code = "closed", "instance-terminated-by-user"
            elif state == "terminated" and request.state in ("active", "disabled"):
                request.state, request.code = "open", "instance-terminated-by-user"
                request.due = at + delay
            elif state == "terminated" and request.state == "open" and request.due is None:
                request.due = at + delay
            elif state == "stopped" and request.state == "active":
                request.state, request.code = "disabled", "instance-stopped-by-user"
            elif state == "running" and request.state == "disabled":
                request.state, request.code = "active", "fulfilled"

    def due(self, now: float) -> list[tuple[float, SpotRequest]]:
        """Return the open requests that launch or start an instance by now, the earliest first."""
        return sorted(
            (
                (request.due, request)
                for request in self._requests.values()
                if request.state == "open" and request.due is not None and request.due <= now
            ),
            key=lambda entry: (entry[0], entry[1].id),
        )

    def fulfil(self, request: SpotRequest) -> str:
        """Launch or start the instance of an open request, and return its id."""
        if request.has_ended:
            old = request.instance
            zone = {} if old.subnet_id else {"placement": old.placement.zone}
            reservation = self._run(
                old.image_id,
                1,
                old.user_data,
                [],
                security_group_ids=[group.id for group in old.security_groups],
                instance_type=old.instance_type,
                is_instance_type_default=False,
                subnet_id=old.subnet_id,
                key_name=old.key_name,
                lifecycle="spot",
                iam_instance_profile_name=None,
                iam_instance_profile_arn=None,
                **zone,
            )
            request.instance = reservation.instances[0]
            request.instance.spot_instance_request_id = request.id
        else:
            request.instance.start()
        request.state, request.code, request.due = "active", "fulfilled", None
        return str(request.instance.id)

    def forget(self) -> None:
        self._requests.clear()

    def _live_of(self, instance: Instance) -> SpotRequest | None:
        return next(
            (
                request
                for request in self._requests.values()
                if request.instance is instance and request.is_persistent
                if request.state != "cancelled"
            ),
            None,
        )

    def _request(self, **parameters: Any) -> list[SpotRequest]:
        made = []
        for request in self._moto_request(**parameters):
            del self._backend.spot_instance_requests[request.id]
            own = SpotRequest(
                self._backend,
                request.instance,
                kind=request.type,
                behavior=request.instance_interruption_behaviour,
            )
            self._requests[own.id] = own
            made.append(own)
        return made

    def _describe(
        self, filters: Any = None, spot_instance_ids: Sequence[str] | None = None
    ) -> list[Any]:
        found = list(self._requests.values())
        if spot_instance_ids:
            self._check(spot_instance_ids)
            found = [request for request in found if request.id in spot_instance_ids]
        return list(generic_filter(filters, found))

    def _cancel(self, request_ids: Sequence[str]) -> list[SpotRequest]:
        self._check(request_ids)
        cancelled = [self._requests[request_id] for request_id in request_ids]
        for request in cancelled:
            if request.state not in ("open", "active", "disabled"):
                continue
            if request.instance.state == "stopped":
                request.instance.terminate()
            request.state, request.due = "cancelled", None
            request.code = "request-canceled-and-instance-running"
        return cancelled

    def _check(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            if request_id not in self._requests:
                raise EC2ClientError(
                    "InvalidSpotInstanceRequestID.NotFound",
                    f"The spot instance request ID '{request_id}' does not exist",
                )


def start_with_launch_time() -> None:
    """Let the launch time of an instance be that of its last start.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html (launchTime)
    """
    start = Instance.start

    def start_now(self: Any) -> Any:
        result = start(self)
        self.launch_time = utcnow()
        return result

    Instance.start = start_now  # type: ignore[method-assign]
