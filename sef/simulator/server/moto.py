"""moto, made repeatable: the same calls at the same times give the same instances and ids.

Everything that reaches into moto is here and in `refusals`. It is imported only in the process of
the simulated EC2.
"""

import datetime
import io
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import moto.ec2.utils
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.instances import Instance, InstanceState, Reservation, StateReason
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.ec2.utils import random_ami_id
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from sef.simulator.server.aws_checks import refuse_everywhere, refuse_on

DEFAULT_REGION = "us-east-1"
TEMPLATE_NAME = "sef-default"
TEMPLATE_INSTANCE_TYPE = "m5.large"

_READS = ("Describe", "Get", "List", "Search")
_PROFILE = ("iam_instance_profile_name", "iam_instance_profile_arn")
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an AWS service, with all that is needed to make it again."""

    method: str
    path: str
    query: str
    body: str
    service: str
    region: str
    headers: Mapping[str, str]
    """The content type; for services other than EC2 also the rest, as WSGI names them."""

    @classmethod
    def read(cls, environ: Mapping[str, Any]) -> "Call":
        length = int(environ.get("CONTENT_LENGTH") or 0)
        region, service = _signed_for(environ.get("HTTP_AUTHORIZATION", ""))
        kept = {"CONTENT_TYPE": environ.get("CONTENT_TYPE", "")}
        if service != "ec2":
            kept |= {k: v for k, v in environ.items() if k.startswith("HTTP_") or k == "RAW_URI"}
            kept.pop("HTTP_AUTHORIZATION", None)
            kept.pop("HTTP_X_AMZ_SECURITY_TOKEN", None)
        return cls(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", "/"),
            query=environ.get("QUERY_STRING", ""),
            # Latin-1 keeps any bytes, and JSON can carry it.
            body=environ["wsgi.input"].read(length).decode("latin-1"),
            service=service,
            region=region,
            headers=kept,
        )

    @property
    def form(self) -> dict[str, str]:
        if not self.headers["CONTENT_TYPE"].startswith(_FORM):
            return {}
        return dict(parse_qsl(self.body, keep_blank_values=True))

    @property
    def action(self) -> str:
        if self.service == "route53":
            return _route53_action(self.method, self.path, self.body)
        target = self.headers.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        return self.form.get("Action") or target

    @property
    def instance_ids(self) -> frozenset[str]:
        """The instances that the call names."""
        return frozenset(value for value in self.form.values() if value.startswith("i-"))

    @property
    def only_reads(self) -> bool:
        action = self.action
        return action.startswith(_READS) if action else self.method in ("GET", "HEAD")

    def environ(self, form: Mapping[str, str] | None = None) -> dict[str, Any]:
        """As WSGI; with another form in its place if one is given."""
        body = (self.body if form is None else urlencode(form)).encode("latin-1")
        scope = f"simulated/20000101/{self.region}/{self.service}/aws4_request"
        return {
            "HTTP_HOST": "127.0.0.1",
            **self.headers,
            "REQUEST_METHOD": self.method,
            "PATH_INFO": self.path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": self.query,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 Credential={scope}, Signature=simulated",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an instance was like from a moment on."""

    at: float
    state: str
    code: int
    tags: Mapping[str, str]


class Region:
    """EC2 in one region: moto's, with a default launch template, and states that take time."""

    def __init__(self, name: str) -> None:
        self.backend = ec2_backends[DEFAULT_ACCOUNT_ID][name]
        self._launch = self.backend.run_instances
        self._tags = self.backend.describe_tags
        self._reservations = self.backend.all_reservations
        self._find = self.backend.get_instance
        self._answer_with: Reservation | None = None
        self._hidden: frozenset[str] = frozenset()
        self._launched: Reservation | None = None
        self._past: dict[str, list[_Seen]] = {}
        self.is_heard = True
        self.pending: list[Instance] = []
        vars(self.backend).update(
            run_instances=self._run_instances,
            describe_tags=self._describe_tags,
            all_reservations=self._all_reservations,
            get_instance=self._get_instance,
        )
        refuse_on(self.backend)
        self._furnish()

    def instances(self) -> list[Instance]:
        return [i for r in self.backend.reservations.values() for i in r.instances]

    def instance(self, instance_id: str) -> Instance | None:
        return next((i for i in self.instances() if i.id == instance_id), None)

    def take_launched(self) -> Reservation | None:
        """What was launched since this was last asked."""
        launched, self._launched = self._launched, None
        return launched

    @contextmanager
    def answering_with(self, reservation: Reservation) -> Iterator[None]:
        """RunInstances launches nothing and tells of these instances, as they are now."""
        self._answer_with = reservation
        try:
            yield
        finally:
            self._answer_with = None

    @contextmanager
    def hiding(self, ids: frozenset[str]) -> Iterator[None]:
        """These instances are not there yet for whoever asks."""
        outer = self._hidden
        self._hidden |= ids
        try:
            yield
        finally:
            self._hidden = outer

    @contextmanager
    def as_of(self, moment: float | None) -> Iterator[None]:
        """Instances have the state and the tags that they had then; later ones are not there.

        That is what an answer of EC2 looks like which comes from a copy that lags behind.
        """
        if moment is None:
            yield
            return
        present = [(i, i._state, self.backend.tags.get(i.id)) for i in self.instances()]
        then = {i.id: self._seen_at(i.id, moment) for i, _, _ in present}
        try:
            for instance, _, _ in present:
                if seen := then[instance.id]:
                    instance._state = InstanceState(seen.state, seen.code)
                    self.backend.tags[instance.id] = dict(seen.tags)
            with self.hiding(frozenset(i for i, seen in then.items() if seen is None)):
                yield
        finally:
            for instance, state, tags in present:
                instance._state = state
                if tags is not None:
                    self.backend.tags[instance.id] = tags

    def note(self, ids: Collection[str], at: float) -> None:
        """Remember what these instances are like from now on, for answers that lag."""
        for instance_id in ids:
            instance = self.instance(instance_id)
            if instance is not None:
                tags = dict(self.backend.tags.get(instance_id, {}))
                seen = _Seen(at, instance.state, instance._state.code, tags)
                self._past.setdefault(instance_id, []).append(seen)

    def forget(self) -> None:
        """End all instances, and know nothing of them, as EC2 does an hour after their end."""
        for instance in self.instances():
            if instance.state != "terminated":
                instance.terminate()
            self.backend.tags.pop(instance.id, None)
        self.backend.reservations.clear()
        self._past.clear()
        self.pending.clear()

    def _seen_at(self, instance_id: str, moment: float) -> "_Seen | None":
        before = [seen for seen in self._past.get(instance_id, []) if seen.at <= moment]
        return before[-1] if before else None

    def settle(self, now: float, pending_seconds: float) -> None:
        """What has been pending long enough runs."""
        still = [i for i in self.pending if i.state == "pending"]
        self.pending = [i for i in still if launched_at(i) + pending_seconds > now]
        for instance in still:
            began = launched_at(instance) + pending_seconds
            if began <= now:
                instance._state = InstanceState("running", 16)
                self.note([instance.id], began)

    def _run_instances(self, *args: Any, **kwargs: Any) -> Reservation:
        if self._answer_with is not None:
            return self._answer_with
        reservation = self._launch(*args, **kwargs)
        for instance in reservation.instances:
            instance._state = InstanceState("pending", 0)
        self.pending += reservation.instances
        self._launched = reservation
        if self.is_heard or any(kwargs[k] for k in _PROFILE):
            return reservation
        # At a restart nobody reads the answer, and to write it takes longer than to launch.
        return Reservation(reservation.id, reservation.owner_id)

    def _get_instance(self, instance_id: str) -> Instance:
        # moto copies every reservation there is to find one, at every launch.
        if not self._hidden:
            for reservation in reversed(self.backend.reservations.values()):
                for instance in reservation.instances:
                    if instance.id == instance_id:
                        return instance
        return self._find(instance_id)

    def _describe_tags(self, filters: Any = None) -> list[dict[str, str]]:
        # moto looks at every tag there is for the tags of one instance, several times an instance:
        # a listing of 1,000 instances took seconds.
        wanted = (filters or {}).get("resource-id", [])
        if list(filters or {}) != ["resource-id"] or len(wanted) != 1 or "*" in wanted[0]:
            return self._tags(filters)
        tags = self.backend.tags
        one = tags.get(wanted[0])
        if not one:
            return []
        self.backend.tags = {wanted[0]: one}
        try:
            return self._tags(filters)
        finally:
            self.backend.tags = tags

    def _all_reservations(self, filters: Any = None) -> list[Reservation]:
        # moto copies every reservation there is, and looks at each, to find one by its instance.
        all_there_is = self.backend.reservations
        wanted = set((filters or {}).get("instance-id", ()))
        if wanted:
            self.backend.reservations = {
                key: reservation
                for key, reservation in all_there_is.items()
                if any(instance.id in wanted for instance in reservation.instances)
            }
        try:
            found = self._reservations(filters)
        finally:
            self.backend.reservations = all_there_is
        if self._hidden:
            found = [r for r in found if not any(i.id in self._hidden for i in r.instances)]
        return found

    def _furnish(self) -> None:
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


class Moto:
    """moto in this process: its WSGI application, its regions, its clock and its dice.

    Args:
        seed: two with the same seed give the same ids to the same calls.
        born: the time of what is there from the beginning.
    """

    def __init__(self, seed: str, born: float) -> None:
        self._seed = seed
        self._born = born
        self._regions: dict[str, Region] = {}
        self._is_heard = True
        self._clock = _replace_clock()
        self.health = refuse_everywhere()
        # moto answers RunInstances with "pending" always; a repeat is to tell the present state.
        transformed = EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER
        transformed.pop("RunInstances.Reservation.Instances.Instance.State", None)
        moto.ec2.utils.filter_dict_attribute_mapping.update(
            {"client-token": "client_token", "instance-lifecycle": "lifecycle"}
        )
        # First the region: the applications would make it too, with dice of no particular throw.
        self.region(DEFAULT_REGION)
        self._ec2 = create_backend_app("ec2")
        self._others = DomainDispatcherApplication(create_backend_app)

    def regions(self) -> list[Region]:
        return list(self._regions.values())

    def region(self, name: str) -> Region:
        """Raise KeyError for a name that is no region."""
        if name not in self._regions:
            with self.at(self._born, f"region {name}"):
                self._regions[name] = Region(name)
                self._regions[name].is_heard = self._is_heard
        return self._regions[name]

    def call(self, call: Call, form: Mapping[str, str] | None = None) -> Answer:
        answered: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            answered[:] = status, headers

        application: Any = self._ec2
        if call.service != "ec2":
            application = self._others
            # It may look at EC2's state there; a service without regions has one of another name.
            with suppress(KeyError):
                self.region(call.region)
        chunks = application(call.environ(form), start_response)
        return Answer(answered[0], answered[1], b"".join(chunks))

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Nobody reads the answers, so that they need not be whole."""
        self._hear(False)
        try:
            yield
        finally:
            self._hear(True)

    def _hear(self, is_heard: bool) -> None:
        self._is_heard = is_heard
        for region in self._regions.values():
            region.is_heard = is_heard

    @contextmanager
    def at(self, moment: float, dice: str) -> Iterator[None]:
        """Stop the clock at a moment, and throw the dice in a way of its own."""
        outer = self._clock.stopped_at
        self._clock.stopped_at = moment
        mock_random.seed(f"{self._seed} {dice}")
        try:
            yield
        finally:
            self._clock.stopped_at = outer


def interrupt(instance: Instance) -> None:
    """Take an instance away as EC2 does when it wants the capacity back."""
    instance.terminate()
    if instance.lifecycle == "spot":
        code = "Server.SpotInstanceTermination"
        instance._reason = code
        instance.state_reason = StateReason(f"{code}: Spot instance termination", code)


def launched_at(instance: Instance) -> float:
    return instance.launch_time.replace(tzinfo=datetime.UTC).timestamp()


class _Clock:
    stopped_at: float | None = None

    def read(self) -> float:
        return time.time() if self.stopped_at is None else self.stopped_at


def _replace_clock() -> _Clock:
    """Make moto's `utcnow` read our clock, wherever it has been imported to."""
    clock = _Clock()

    class Clocked(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(clock.read(), tz)

    vars(moto.core.utils)["datetime"] = SimpleNamespace(**{**vars(datetime), "datetime": Clocked})
    return clock


def _route53_action(method: str, path: str, body: str) -> str:
    """Route 53 says what it is to do by method and path; of changes, the body says it too."""
    if method == "GET" and path.rstrip("/").endswith("/rrset"):
        return "ListResourceRecordSets"
    named = re.search(r"<(\w+)Request[ >]", body)
    return named[1] if named else ""


def _signed_for(authorization: str) -> tuple[str, str]:
    """Region and service out of a signature's scope; nothing checks the signature itself."""
    scope = authorization.partition("Credential=")[2].partition(",")[0].split("/")
    return (scope[2], scope[3].lower()) if len(scope) == 5 else (DEFAULT_REGION, "ec2")
