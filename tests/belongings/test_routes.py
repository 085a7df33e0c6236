"""Routes that point to the primary follow it."""

from collections.abc import Callable
from typing import Any

import pytest

from smart_emergency_fallback import SmartEmergencyFallback
from tests.failover.cutover.cutover_targets import cutover_of, fail_over, hooked, steps_of
from tests.harness import ALIVE, ONCE, TERMINATION, World

EVERYWHERE = "0.0.0.0/0"
PRIVATE = "10.99.0.0/16"


class Router:
    """An instance that is the target of routes, with its source/destination check off."""

    def __init__(
        self, world: World, sef: SmartEmergencyFallback, *destinations: str, check: bool = False
    ) -> None:
        self.ec2 = world.client
        self.world = world
        self.primary = world.primary(sef)
        if not check:
            self.ec2.modify_instance_attribute(
                InstanceId=self.primary, SourceDestCheck={"Value": False}
            )
        vpc = world.described(self.primary)["VpcId"]
        self.table = self.ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        for destination in destinations:
            self.ec2.create_route(
                RouteTableId=self.table,
                DestinationCidrBlock=destination,
                NetworkInterfaceId=self.interface(self.primary),
            )

    def interface(self, instance_id: str) -> str:
        return str(self.world.described(instance_id)["NetworkInterfaces"][0]["NetworkInterfaceId"])

    def target(self, *destinations: str) -> list[dict[str, str]]:
        return [
            {"route_table_id": self.table, "destination_cidr": destination}
            for destination in destinations
        ]

    def interfaces(self) -> dict[str, str | None]:
        """Return the interface of each route, by destination."""
        [table] = self.ec2.describe_route_tables(RouteTableIds=[self.table])["RouteTables"]
        return {
            route["DestinationCidrBlock"]: route.get("NetworkInterfaceId")
            for route in table["Routes"]
            if route.get("Origin") != "CreateRouteTable" and route.get("GatewayId") != "local"
        }


@pytest.mark.parametrize("how", ["switch", "notice", "death"])
@ONCE
def test_routes_follow_the_primary(world: World, how: str) -> None:
    sef = world.sef(probation_seconds=0)
    router = Router(world, sef, EVERYWHERE, PRIVATE)
    answer = sef.register_agent("a", {"cutover": {"routes": router.target(EVERYWHERE, PRIVATE)}})
    assert answer["warnings"] == []
    if how == "switch":
        sef.enable_manual_replica_mode("a")
        new = str(sef.execute_manual_switch("a")["new_instance_id"])
    else:
        if how == "death":
            world.simulation.terminate(router.primary)
        new = fail_over(world, sef, router.primary)
    world.settle(sef, 5)
    assert set(router.interfaces().values()) == {router.interface(new)}
    assert len(router.interfaces()) == 2
    assert world.described(new)["SourceDestCheck"] is False
    assert cutover_of(sef)["status"] == "done"


@ONCE
def test_refused_route_stays_with_the_primary_that_serves(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    router = Router(world, sef, EVERYWHERE)
    sef.register_agent("a", {"cutover": {"routes": router.target(EVERYWHERE)}})
    sef.enable_manual_replica_mode("a")
    world.simulation.add_fault("ReplaceRoute", error_code="UnauthorizedOperation")
    new = str(sef.execute_manual_switch("a")["new_instance_id"])
    for _ in range(3):
        world.settle(sef, 60)
    assert router.interfaces() == {EVERYWHERE: router.interface(router.primary)}
    assert world.state(router.primary) in ALIVE
    assert steps_of(sef)["route"] == "failed"
    world.simulation.clear_faults()
    for _ in range(3):
        world.settle(sef, 70)
    assert router.interfaces() == {EVERYWHERE: router.interface(new)}


@ONCE
def test_route_that_is_gone_is_created(world: World) -> None:
    sef = world.sef()
    router = Router(world, sef, EVERYWHERE)
    sef.register_agent("a", {"cutover": {"routes": router.target(EVERYWHERE)}})
    world.client.delete_route(RouteTableId=router.table, DestinationCidrBlock=EVERYWHERE)
    new = fail_over(world, sef, router.primary)
    assert router.interfaces() == {EVERYWHERE: router.interface(new)}


def to_a_gateway(router: Router) -> list[dict[str, str]]:
    gateway = router.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    vpc = router.world.described(router.primary)["VpcId"]
    attached = router.ec2.describe_internet_gateways(
        Filters=[{"Name": "attachment.vpc-id", "Values": [vpc]}]
    )["InternetGateways"]
    if attached:
        gateway = attached[0]["InternetGatewayId"]
    else:
        router.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    router.ec2.create_route(
        RouteTableId=router.table, DestinationCidrBlock="10.98.0.0/16", GatewayId=gateway
    )
    return router.target(EVERYWHERE, "10.98.0.0/16")


def to_another_interface(router: Router) -> list[dict[str, str]]:
    subnet = router.world.described(router.primary)["SubnetId"]
    made = router.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
    router.ec2.attach_network_interface(
        NetworkInterfaceId=made["NetworkInterfaceId"], InstanceId=router.primary, DeviceIndex=1
    )
    router.ec2.create_route(
        RouteTableId=router.table,
        DestinationCidrBlock="10.97.0.0/16",
        NetworkInterfaceId=made["NetworkInterfaceId"],
    )
    return router.target(EVERYWHERE, "10.97.0.0/16")


def no_table(router: Router) -> list[dict[str, str]]:
    return [
        *router.target(EVERYWHERE),
        {"route_table_id": "rtb-0123abcd", "destination_cidr": EVERYWHERE},
    ]


@pytest.mark.parametrize(
    ("targets", "warning"),
    [
        (to_a_gateway, "10.98.0.0/16 points to igw-"),
        (to_another_interface, "name it as cutover.network_interface"),
        (no_table, "InvalidRouteTableID.NotFound"),
        (lambda router: router.target(EVERYWHERE, "10.96.0.0/16"), "has no route to 10.96.0.0/16"),
    ],
    ids=["gateway", "another interface", "no table", "no route"],
)
@ONCE
def test_put_names_routes_that_cannot_follow(
    world: World, targets: Callable[[Router], list[dict[str, str]]], warning: str
) -> None:
    sef = world.sef()
    router = Router(world, sef, EVERYWHERE)
    named = targets(router)
    [given] = [
        w
        for w in sef.register_agent("a", {"cutover": {"routes": named}})["warnings"]
        if "does not follow" not in w
    ]
    assert warning in given
    planned = world.signal(sef, TERMINATION, instance_id=router.primary, dry_run=True)["warnings"]
    assert given in planned


@ONCE
def test_routes_that_are_no_targets_are_named(world: World) -> None:
    sef = world.sef()
    router = Router(world, sef, EVERYWHERE, PRIVATE)
    warnings = sef.register_agent("a", {"cutover": {"routes": router.target(PRIVATE)}})["warnings"]
    told = f"the route to {EVERYWHERE} in {router.table} points to {router.primary}"
    assert [w for w in warnings if w.startswith(told)] == warnings
    assert len(warnings) == 1
    sef.register_agent("a", {"cutover": None})
    planned = world.signal(sef, TERMINATION, instance_id=router.primary, dry_run=True)["warnings"]
    assert len([w for w in planned if "add it to cutover.routes" in w]) == 2


@ONCE
def test_checked_router_is_told(world: World) -> None:
    sef = world.sef()
    router = Router(world, sef, EVERYWHERE, check=True)
    [warning] = sef.register_agent("a", {"cutover": {"routes": router.target(EVERYWHERE)}})[
        "warnings"
    ]
    assert "source/destination check on" in warning


@ONCE
def test_frozen_worker_of_an_older_epoch_gives_the_route_back(world: World) -> None:
    sef = world.sef(probation_seconds=0)
    router = Router(world, sef, EVERYWHERE)
    sef.register_agent("a", {"cutover": {"routes": router.target(EVERYWHERE)}})
    promoted: list[str] = []

    def promote_again(**_: Any) -> None:
        first = world.agent().instance_id
        promoted.append(fail_over(world, sef, str(first)))
        world.settle(sef, 5)

    late = world.sef(
        clients=hooked(world, "before-call.*.ReplaceRoute", promote_again), probation_seconds=0
    )
    fail_over(world, late, router.primary)
    world.settle(sef, 5)
    assert world.agent().instance_id == promoted[0]
    assert router.interfaces() == {EVERYWHERE: router.interface(promoted[0])}
