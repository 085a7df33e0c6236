"""The simulated EC2 as boto3 meets it: a real process, over a socket."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sef.simulator.client import Simulation, SimulationError
from sef.simulator.process import ensure_running
from tests.waiting import LIMIT, until

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    simulation = ensure_running(tmp_path_factory.mktemp("simulated"))
    yield simulation
    simulation.stop()


@pytest.fixture(autouse=True)
def _as_it_begins(simulation: Simulation) -> None:
    simulation.clear_faults()
    simulation.set_options(
        pending_seconds=0, visible_after_seconds=0, refuse_token_of_terminated=True
    )
    for pool in simulation.pools():
        if not pool.capacity:
            simulation.set_pool(pool.pool, capacity=True)


@pytest.fixture(scope="module")
def ec2(simulation: Simulation) -> "EC2Client":
    """Each call is made once, so that a test sees what EC2 answers and not what a retry makes."""
    return client(simulation, tries=1)


def client(simulation: Simulation, *, tries: int, region: str = "us-east-1") -> "EC2Client":
    return boto3.client(
        "ec2",
        endpoint_url=simulation.endpoint,
        region_name=region,
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
        config=Config(
            connect_timeout=LIMIT,
            read_timeout=LIMIT,
            retries={"total_max_attempts": tries},
            proxies={},
        ),
    )


def launch(
    ec2: "EC2Client",
    pool: str = "m5.large.us-east-1a",
    *,
    token: str | None = None,
    spot: bool = True,
    **more: Any,
) -> str:
    """Launch from the default template and return the instance's id."""
    kind, _, zone = pool.rpartition(".")
    parameters: dict[str, Any] = {
        "LaunchTemplate": {"LaunchTemplateName": "sef-default"},
        "InstanceType": kind,
        "Placement": {"AvailabilityZone": zone},
        "MinCount": 1,
        "MaxCount": 1,
    } | more
    if spot:
        parameters["InstanceMarketOptions"] = {"MarketType": "spot"}
    if token:
        parameters["ClientToken"] = token
    return ec2.run_instances(**parameters)["Instances"][0]["InstanceId"]


def instance(ec2: "EC2Client", instance_id: str) -> Any:
    answer = ec2.describe_instances(InstanceIds=[instance_id])
    return answer["Reservations"][0]["Instances"][0]


def state(ec2: "EC2Client", instance_id: str) -> str:
    return str(instance(ec2, instance_id)["State"]["Name"])


def refused(call: Callable[[], object]) -> tuple[str, int]:
    """Code and HTTP status that a call is refused with."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


class TestClientTokens:
    def test_the_same_token_gives_the_same_instance(self, ec2: "EC2Client") -> None:
        token = str(uuid4())
        first = launch(ec2, token=token)
        assert launch(ec2, token=token) == first
        assert instance(ec2, first)["ClientToken"] == token
        found = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])
        assert [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]] == [first]

    def test_a_repeat_tells_the_present_state(self, ec2: "EC2Client") -> None:
        token = str(uuid4())
        parameters: dict[str, Any] = {
            "LaunchTemplate": {"LaunchTemplateName": "sef-default"},
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": token,
        }
        first = ec2.run_instances(**parameters)
        again = ec2.run_instances(**parameters)
        assert again["ReservationId"] == first["ReservationId"]
        assert first["Instances"][0]["State"]["Name"] == "pending"
        assert again["Instances"][0]["State"]["Name"] == "running"

    def test_with_other_parameters_it_is_refused(self, ec2: "EC2Client") -> None:
        token = str(uuid4())
        launch(ec2, token=token)
        assert refused(lambda: launch(ec2, token=token, spot=False)) == (
            "IdempotentParameterMismatch",
            400,
        )

    def test_in_another_zone_it_is_another_token(self, ec2: "EC2Client") -> None:
        token = str(uuid4())
        first = launch(ec2, "m5.large.us-east-1a", token=token)
        assert launch(ec2, "m5.large.us-east-1b", token=token) != first

    def test_at_the_same_time_it_launches_one(self, ec2: "EC2Client") -> None:
        token = str(uuid4())
        with ThreadPoolExecutor(8) as threads:
            ids = set(threads.map(lambda _: launch(ec2, token=token), range(8)))
        assert len(ids) == 1

    def test_of_a_terminated_instance_it_is_refused(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        token = str(uuid4())
        first = launch(ec2, token=token)
        ec2.terminate_instances(InstanceIds=[first])
        assert refused(lambda: launch(ec2, token=token)) == ("IdempotentInstanceTerminated", 400)
        simulation.set_options(refuse_token_of_terminated=False)
        assert launch(ec2, token=token) == first

    def test_a_refused_launch_does_not_use_it_up(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        token = str(uuid4())
        simulation.set_pool("m5.large.us-east-1a", capacity=False)
        assert refused(lambda: launch(ec2, token=token))[0] == "InsufficientInstanceCapacity"
        simulation.set_pool("m5.large.us-east-1a", capacity=True)
        assert launch(ec2, token=token)

    def test_what_it_launched_is_told_though_the_pool_is_full_now(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        token = str(uuid4())
        first = launch(ec2, token=token)
        simulation.set_pool("m5.large.us-east-1a", capacity=False)
        assert launch(ec2, token=token) == first


class TestPlaceAndMarket:
    def test_it_lands_in_the_zone_and_market_that_were_asked_for(self, ec2: "EC2Client") -> None:
        found = instance(ec2, launch(ec2, "c5.large.us-east-1c"))
        assert found["InstanceType"] == "c5.large"
        assert found["Placement"]["AvailabilityZone"] == "us-east-1c"
        assert found["InstanceLifecycle"] == "spot"
        assert "InstanceLifecycle" not in instance(ec2, launch(ec2, spot=False))

    def test_every_zone_has_a_default_subnet_which_says_the_zone_too(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        filters: Any = [{"Name": "default-for-az", "Values": ["true"]}]
        subnets = {
            s["AvailabilityZone"]: s["SubnetId"]
            for s in ec2.describe_subnets(Filters=filters)["Subnets"]
        }
        assert sorted(subnets) == [f"us-east-1{letter}" for letter in "abcdef"]
        parameters: dict[str, Any] = {"Placement": {}, "SubnetId": subnets["us-east-1d"]}
        found = instance(ec2, launch(ec2, **parameters))
        assert found["Placement"]["AvailabilityZone"] == "us-east-1d"
        simulation.set_pool("m5.large.us-east-1d", capacity=False)
        assert refused(lambda: launch(ec2, **parameters))[0] == "InsufficientInstanceCapacity"

    def test_a_template_gives_what_the_request_leaves_out(self, ec2: "EC2Client") -> None:
        ec2.create_launch_template(
            LaunchTemplateName="full",
            LaunchTemplateData={
                "ImageId": "ami-12345678",
                "InstanceType": "r5.large",
                "Placement": {"AvailabilityZone": "us-east-1e"},
                "InstanceMarketOptions": {"MarketType": "spot"},
                "TagSpecifications": [
                    {"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "web"}]}
                ],
            },
        )
        answer = ec2.run_instances(
            LaunchTemplate={"LaunchTemplateName": "full", "Version": "$Latest"},
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "sef:agent", "Value": "a"}]}
            ],
            MinCount=1,
            MaxCount=1,
        )
        found = instance(ec2, answer["Instances"][0]["InstanceId"])
        assert found["InstanceType"] == "r5.large"
        assert found["Placement"]["AvailabilityZone"] == "us-east-1e"
        assert found["InstanceLifecycle"] == "spot"
        tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
        assert tags.items() >= {"team": "web", "sef:agent": "a"}.items()

    def test_an_unknown_template_is_refused(self, ec2: "EC2Client") -> None:
        template = {"LaunchTemplateName": "no-such"}
        code, status = refused(lambda: launch(ec2, LaunchTemplate=template))
        assert code.startswith("InvalidLaunchTemplateName")
        assert status == 400

    def test_instances_are_found_by_tag_and_state(self, ec2: "EC2Client") -> None:
        tag = {"Key": "sef:attempt", "Value": str(uuid4())}
        spec = [{"ResourceType": "instance", "Tags": [tag]}]
        kept, ended = (launch(ec2, TagSpecifications=spec) for _ in range(2))
        ec2.terminate_instances(InstanceIds=[ended])
        found = ec2.describe_instances(
            Filters=[
                {"Name": "tag:sef:attempt", "Values": [tag["Value"]]},
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
            ]
        )
        assert [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]] == [kept]

    def test_another_region_is_furnished_too(self, simulation: Simulation) -> None:
        there = client(simulation, tries=1, region="eu-west-1")
        assert instance(there, launch(there, "m5.large.eu-west-1b"))


class TestStates:
    def test_a_new_instance_is_pending_and_then_runs(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        simulation.set_options(pending_seconds=600)
        new = launch(ec2)
        assert state(ec2, new) == "pending"
        assert ec2.describe_instance_status(InstanceIds=[new])["InstanceStatuses"] == []
        simulation.age(new, 600)
        assert state(ec2, new) == "running"
        statuses = ec2.describe_instance_status(InstanceIds=[new])["InstanceStatuses"]
        assert [s["InstanceState"]["Name"] for s in statuses] == ["running"]

    def test_terminated_is_for_good(self, ec2: "EC2Client", simulation: Simulation) -> None:
        simulation.set_options(pending_seconds=0.1)
        new = launch(ec2)
        ec2.terminate_instances(InstanceIds=[new])
        simulation.set_options(pending_seconds=0)
        assert state(ec2, new) == "terminated"

    def test_aws_can_take_one_away_unannounced(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        new = launch(ec2)
        simulation.terminate(new)
        assert instance(ec2, new)["StateReason"]["Code"] == "Server.SpotInstanceTermination"

    def test_one_that_is_forgotten_was_never_there(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        address = ec2.allocate_address(Domain="vpc")["AllocationId"]
        old = launch(ec2, token="of-the-forgotten")
        ec2.associate_address(AllocationId=address, InstanceId=old)
        simulation.interrupt(old, terminate_after_seconds=0)
        simulation.forget_instances()
        assert refused(lambda: instance(ec2, old)) == ("InvalidInstanceID.NotFound", 400)
        assert simulation.instances() == []
        (told,) = ec2.describe_addresses(AllocationIds=[address])["Addresses"]
        assert not told.get("InstanceId")
        new = launch(ec2, token="of-the-forgotten")
        assert new != old
        assert [i.id for i in simulation.instances()] == [new]

    def test_an_interrupted_one_ends_when_it_was_said_to(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        new = launch(ec2)
        began = time.time()
        simulation.interrupt(new, terminate_after_seconds=0.5)
        assert [i.interrupted for i in simulation.instances() if i.id == new] == [True]
        until(lambda: state(ec2, new) == "terminated")
        assert time.time() >= began + 0.5

    def test_a_new_instance_can_be_unknown_for_a_while(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        simulation.set_options(visible_after_seconds=60)
        new = launch(ec2)
        assert refused(lambda: instance(ec2, new)) == ("InvalidInstanceID.NotFound", 400)
        by_id: Any = [{"Name": "instance-id", "Values": [new]}]
        assert ec2.describe_instances(Filters=by_id)["Reservations"] == []
        simulation.set_options(visible_after_seconds=0)
        assert state(ec2, new) == "running"


class TestFaults:
    def test_without_spot_capacity_on_demand_is_still_to_be_had(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        simulation.set_pool("m5.large.us-east-1a", capacity=False)
        assert refused(lambda: launch(ec2)) == ("InsufficientInstanceCapacity", 500)
        assert launch(ec2, spot=False)
        assert launch(ec2, "m5.large.us-east-1b")

    def test_a_pool_has_room_for_some_of_those_that_are_asked_for(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        def several(least: int, most: int, token: str) -> int:
            answer = ec2.run_instances(
                LaunchTemplate={"LaunchTemplateName": "sef-default"},
                InstanceType="m5.large",
                Placement={"AvailabilityZone": "us-east-1a"},
                InstanceMarketOptions={"MarketType": "spot"},
                ClientToken=token,
                MinCount=least,
                MaxCount=most,
            )
            return len(answer["Instances"])

        simulation.set_pool("m5.large.us-east-1a", room=3)
        assert several(1, 2, "first") == 2
        assert refused(lambda: several(2, 2, "too-many")) == ("InsufficientInstanceCapacity", 500)
        assert several(1, 5, "last") == 1
        assert refused(lambda: launch(ec2)) == ("InsufficientInstanceCapacity", 500)
        assert (several(1, 2, "first"), several(1, 5, "last")) == (2, 1)
        [pool] = [p for p in simulation.pools() if p.pool == "m5.large.us-east-1a"]
        assert (pool.capacity, pool.room) == (False, 0)
        simulation.set_pool("m5.large.us-east-1a", capacity=True)
        assert several(1, 5, "more") == 5

    @pytest.mark.parametrize(
        ("code", "status"),
        [("MaxSpotInstanceCountExceeded", 400), ("UnauthorizedOperation", 403)],
    )
    def test_a_pool_refuses_one_market_with_a_named_error(
        self, ec2: "EC2Client", simulation: Simulation, code: str, status: int
    ) -> None:
        simulation.add_fault(
            "RunInstances", pool="m5.large.us-east-1a", market="spot", error_code=code
        )
        assert refused(lambda: launch(ec2)) == (code, status)
        assert launch(ec2, spot=False)
        assert launch(ec2, "m5.xlarge.us-east-1a")

    def test_a_throttle_ends_after_its_count(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        simulation.throttle("DescribeInstances", count=2)
        for _ in range(2):
            assert refused(ec2.describe_instances) == ("RequestLimitExceeded", 503)
        assert launch(ec2)
        assert ec2.describe_instances()["Reservations"]
        assert simulation.faults() == []

    def test_boto3_gets_over_a_throttle_by_itself(self, simulation: Simulation) -> None:
        simulation.throttle("DescribeRegions", count=1)
        assert client(simulation, tries=2).describe_regions()["Regions"]

    def test_a_call_whose_reply_is_lost_has_been_done_once(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        token = str(uuid4())
        simulation.add_fault("RunInstances", count=1, lose_reply=True)
        with pytest.raises(BotoCoreError):
            launch(ec2, token=token)
        made = [i.id for i in simulation.instances() if i.client_token == token]
        assert [launch(ec2, token=token)] == made

    def test_boto3_repeats_a_lost_call_with_its_token(self, simulation: Simulation) -> None:
        before = len(simulation.instances())
        simulation.add_fault("RunInstances", count=1, lose_reply=True)
        launch(client(simulation, tries=2))
        assert len(simulation.instances()) == before + 1

    def test_a_slow_call_holds_up_no_other(self, ec2: "EC2Client", simulation: Simulation) -> None:
        simulation.add_fault("RunInstances", count=1, delay_seconds=5)
        with ThreadPoolExecutor() as threads:
            slow = threads.submit(launch, ec2)
            until(lambda: simulation.faults() == [])
            ec2.describe_instances()
            assert not slow.done()
            assert slow.result()

    def test_until_a_new_instance_is_known_it_can_be_neither_tagged_nor_terminated(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        simulation.set_options(visible_after_seconds=60)
        new = launch(ec2)
        tags: Any = [{"Key": "sef:agent", "Value": "a"}]
        not_found = ("InvalidInstanceID.NotFound", 400)
        assert refused(lambda: ec2.create_tags(Resources=[new], Tags=tags)) == not_found
        assert refused(lambda: ec2.terminate_instances(InstanceIds=[new])) == not_found
        simulation.set_options(visible_after_seconds=0)
        assert state(ec2, new) == "running"
        ec2.terminate_instances(InstanceIds=[new])
        assert state(ec2, new) == "terminated"

    def test_nonsense_is_refused_in_one_line(self, simulation: Simulation) -> None:
        with pytest.raises(SimulationError, match="invalid pool large; expected"):
            simulation.set_pool("large", capacity=False)
        with pytest.raises(SimulationError, match="needs error_code"):
            simulation.add_fault("RunInstances")
        with pytest.raises(SimulationError, match="seconds must be 0 or more"):
            simulation.set_options(pending_seconds=-1)
        with pytest.raises(SimulationError, match="there is no instance i-none"):
            simulation.terminate("i-none")


class TestAnswers:
    """Answers that lack something, or tell of what was."""

    @pytest.mark.parametrize(
        ("element", "field"),
        [
            ("tagSet", "Tags"),
            ("placement", "Placement"),
            ("availabilityZone", "Placement"),
            ("launchTime", "LaunchTime"),
            ("instanceLifecycle", "InstanceLifecycle"),
            ("instanceState", "State"),
            ("instanceType", "InstanceType"),
            ("instanceId", "InstanceId"),
        ],
    )
    def test_a_field_is_left_out_for_a_count(
        self, ec2: "EC2Client", simulation: Simulation, element: str, field: str
    ) -> None:
        tags: Any = [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "web"}]}]
        new = launch(ec2, TagSpecifications=tags)
        whole = instance(ec2, new)
        simulation.add_fault("DescribeInstances", omit=[element], count=1)
        lacking = instance(ec2, new)
        if element == "availabilityZone":
            assert "AvailabilityZone" not in lacking[field]
        else:
            assert field not in lacking
        assert instance(ec2, new) == whole

    def test_a_whole_list_is_left_out_or_emptied(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        new = launch(ec2)
        simulation.add_fault("DescribeInstances", omit=["reservationSet"], count=1)
        assert "Reservations" not in ec2.describe_instances()
        simulation.add_fault("DescribeInstances", omit=["item"], count=1)
        assert ec2.describe_instances()["Reservations"] == []
        assert state(ec2, new) == "running"

    def test_an_answer_lags_behind(self, ec2: "EC2Client", simulation: Simulation) -> None:
        first = launch(ec2)
        state(ec2, first)
        then = time.time()
        second = launch(ec2)
        ec2.create_tags(Resources=[first], Tags=[{"Key": "team", "Value": first}])
        simulation.terminate(first)
        both: Any = [{"Name": "instance-id", "Values": [first, second]}]
        by_tag: Any = [{"Name": "tag:team", "Values": [first]}]
        simulation.add_fault("DescribeInstances", as_of=then, count=2)
        [lagging] = ec2.describe_instances(Filters=both)["Reservations"]
        [shown] = lagging["Instances"]
        assert (shown["InstanceId"], shown["State"]["Name"]) == (first, "running")
        assert "team" not in {tag["Key"] for tag in shown["Tags"]}
        assert ec2.describe_instances(Filters=by_tag)["Reservations"] == []
        # The next copy is up to date.
        assert state(ec2, first) == "terminated"
        assert state(ec2, second) == "running"
        assert ec2.describe_instances(Filters=by_tag)["Reservations"] != []

    def test_answers_lag_by_a_time(self, ec2: "EC2Client", simulation: Simulation) -> None:
        new = launch(ec2)
        simulation.add_fault("*", lag_seconds=60)
        assert refused(lambda: instance(ec2, new))[0] == "InvalidInstanceID.NotFound"
        ec2.terminate_instances(InstanceIds=[new])  # only what is told lags
        simulation.clear_faults()
        assert state(ec2, new) == "terminated"

    @pytest.mark.parametrize(("size", "pages"), [(0, [0, 3]), (1, [1, 1, 1]), (2, [2, 1])])
    def test_an_answer_comes_in_pages_and_an_empty_one_is_not_the_last(
        self, ec2: "EC2Client", simulation: Simulation, size: int, pages: list[int]
    ) -> None:
        ids = sorted(launch(ec2) for _ in range(3))
        simulation.add_fault("DescribeInstances", page_size=size)
        filters: Any = [{"Name": "instance-id", "Values": ids}]
        told = list(ec2.get_paginator("describe_instances").paginate(Filters=filters))
        assert [len(page["Reservations"]) for page in told] == pages
        found = [i["InstanceId"] for p in told for r in p["Reservations"] for i in r["Instances"]]
        assert sorted(found) == ids


class TestPrices:
    def test_every_pool_of_a_type_has_its_price(self, ec2: "EC2Client") -> None:
        history = ec2.describe_spot_price_history(
            InstanceTypes=["m5.xlarge"], ProductDescriptions=["Linux/UNIX"]
        )["SpotPriceHistory"]
        assert len({entry["AvailabilityZone"] for entry in history}) == 6
        assert all(0 < float(entry["SpotPrice"]) < 0.192 for entry in history)

    def test_a_price_that_is_set_is_the_latest(
        self, ec2: "EC2Client", simulation: Simulation
    ) -> None:
        pool = "c5.xlarge.us-east-1b"
        simulation.set_pool(pool, price=Decimal("0.0512"))
        history = ec2.describe_spot_price_history(
            InstanceTypes=["c5.xlarge"],
            AvailabilityZone="us-east-1b",
            StartTime=datetime.now(UTC),
        )["SpotPriceHistory"]
        assert [entry["SpotPrice"] for entry in history] == ["0.0512"]
        assert [p.price for p in simulation.pools() if p.pool == pool] == [Decimal("0.0512")]

    def test_other_products_and_unknown_types_have_none(self, ec2: "EC2Client") -> None:
        windows = ec2.describe_spot_price_history(ProductDescriptions=["Windows"])
        unknown = ec2.describe_spot_price_history(InstanceTypes=["p4d.24xlarge"])
        assert windows["SpotPriceHistory"] == unknown["SpotPriceHistory"] == []

    def test_pages_follow_each_other(self, ec2: "EC2Client") -> None:
        pages = ec2.get_paginator("describe_spot_price_history").paginate(
            Filters=[{"Name": "instance-type", "Values": ["t3.micro"]}],
            PaginationConfig={"PageSize": 4},
        )
        zones = [e["AvailabilityZone"] for page in pages for e in page["SpotPriceHistory"]]
        assert len(zones) == len(set(zones)) == 6

    def test_on_demand_costs_more(self, simulation: Simulation) -> None:
        on_demand = simulation.on_demand_prices()
        assert on_demand["m5.large"] == Decimal("0.096")
        assert all(
            pool.price < on_demand[pool.pool.rpartition(".")[0]]
            for pool in simulation.pools()
            if pool.price is not None
        )
