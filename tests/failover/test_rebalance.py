"""A rebalance recommendation: SEF keeps a standby in a safer pool for a limited time."""

import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from sef.errors import AgentNotFound
from tests.harness import ALIVE, ON_MARIADB, OTHERS, POOL, REBALANCE, TERMINATION, World, meanwhile


def test_it_launches_a_standby_in_another_pool(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    answer = world.signal(sef, REBALANCE, instance_id=primary)

    standby = world.standby()
    assert answer["action"] == "standby_ready"
    assert answer["replica_id"] == standby.id
    assert answer["risk_score"] == 0.5  # no history: act
    assert standby.replica_type == "automatic-rebalance"
    assert standby.pool_id != POOL
    assert world.agent().instance_id == primary
    assert world.state(primary) in ALIVE
    status = sef.get_agent_status("a")
    assert status["mode"] == "emergency_only"
    assert status["replica"]["instance_id"] == standby.instance_id
    assert status["incident"]["goal"] == "standby"
    world.check()


@ON_MARIADB
def test_it_chooses_the_cheapest_of_pools_of_equal_risk(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.simulation.set_pool("m5.large.us-east-1f", price=0.01)
    world.clock.advance(60)
    try:
        world.signal(sef, REBALANCE)
        assert world.standby().pool_id == "m5.large.us-east-1f"
    finally:
        world.simulation.set_pool("m5.large.us-east-1f", price=0.0404)


@ON_MARIADB
def test_it_skips_a_cheap_pool_with_many_terminations(world: World) -> None:
    sef = world.sef(spot_pools=",".join(OTHERS))
    world.primary(sef)
    world.past(10, 10, pool="m5.large.us-east-1c")  # the cheaper of the two
    world.signal(sef, REBALANCE)
    assert world.standby().pool_id == "m5.large.us-east-1b"


@ON_MARIADB
def test_it_avoids_the_primarys_pool_when_the_agent_has_no_pool_id(world: World) -> None:
    cheapest = "m5.large.us-east-1d"
    sef = world.sef()
    primary = world.launch(cheapest)
    sef.register_agent("a", {"instance_id": primary})
    world.signal(sef, REBALANCE, instance_id=primary)
    assert world.standby().pool_id != cheapest


@ON_MARIADB
def test_the_standby_has_the_settings_of_the_primary(world: World) -> None:
    sef = world.sef()
    client = world.client
    key = f"key-{world.clock().timestamp()}"
    client.create_key_pair(KeyName=key)
    group = client.create_security_group(GroupName=key, Description="of the story")["GroupId"]
    image = client.describe_images(Filters=[{"Name": "name", "Values": ["sef-simulated-linux"]}])
    user_data = "#!/bin/sh\necho 'grüezi' \x01\n"
    tags = [{"Key": "team", "Value": "web"}, {"Key": "Name", "Value": "by hand"}]
    primary = world.primary(
        sef,
        pool="c5.large.us-east-1a",
        LaunchTemplate={"LaunchTemplateName": "sef-default"},
        KeyName=key,
        SecurityGroupIds=[group],
        UserData=user_data,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    world.signal(sef, REBALANCE, instance_id=primary)

    standby = world.standby()
    like, made = world.described(primary), world.described(standby.instance_id)
    assert made["InstanceType"] == "c5.large"
    assert made["ImageId"] == like["ImageId"] == image["Images"][0]["ImageId"]
    assert made["KeyName"] == key
    assert [g["GroupId"] for g in made["SecurityGroups"]] == [group]
    assert made["VpcId"] == like["VpcId"]
    assert made["SubnetId"] != like["SubnetId"]
    assert made["InstanceLifecycle"] == "spot"
    attribute = client.describe_instance_attribute(
        InstanceId=standby.instance_id, Attribute="userData"
    )["UserData"]["Value"]
    assert base64.b64decode(attribute).decode() == user_data
    made_tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
    attempt = world.attempts()[0]
    assert made_tags["team"] == "web"
    assert made_tags["sef:agent"] == "a"
    assert made_tags["sef:replica"] == standby.id
    assert made_tags["sef:attempt"] == attempt.client_token == made["ClientToken"]
    assert made_tags["sef:managed"] == world.rows("deployment", None)[0].name
    options = attempt.parameters["InstanceMarketOptions"]
    assert options["MarketType"] == "spot"
    assert options["SpotOptions"]["SpotInstanceType"] == "one-time"
    world.check()


@ON_MARIADB
def test_it_launches_with_one_name_tag_if_the_primary_has_one(world: World) -> None:
    """EC2 refuses a launch with two tags of one key."""
    sef = world.sef()
    tags = [{"Key": "Name", "Value": "by hand"}]
    world.primary(sef, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
    world.signal(sef, REBALANCE)
    keys = [
        tag["Key"]
        for spec in world.attempts()[0].parameters["TagSpecifications"]
        for tag in spec["Tags"]
    ]
    assert len(keys) == len(set(keys))


def test_a_hundred_repeats_have_one_effect(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()
    answers = []
    for _ in range(100):
        world.clock.advance(0.01)
        answers.append(world.signal(sef, REBALANCE, at=announced, instance_id=primary))

    assert len({a["incident_id"] for a in answers}) == 1
    assert len({a["replica_id"] for a in answers}) == 1
    assert {a["action"] for a in answers} == {"standby_ready"}
    assert len(world.rows("incidents")) == 1
    assert len(world.replicas()) == 1
    assert len(world.tagged()) == 1
    assert [s.times_received for s in world.rows("spot_interruption_events")] == [100]
    assert len(world.events("rebalance_recommendation")) == 1
    world.check()


def test_a_recommendation_from_eight_threads_is_one_incident(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()

    def announce(_: int) -> dict[str, Any]:
        return world.signal(sef, REBALANCE, at=announced, instance_id=primary)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(announce, range(24)))
    world.settle(sef)
    assert len({a["incident_id"] for a in answers}) == 1
    assert len(world.rows("incidents")) == 1
    assert len(world.replicas()) == 1
    assert len(world.tagged()) == 1
    assert [s.times_received for s in world.rows("spot_interruption_events")] == [24]
    world.check()


@ON_MARIADB
def test_it_only_monitors_where_no_termination_follows_recommendations(world: World) -> None:
    sef = world.sef()
    world.primary(sef)
    world.past(40, 0)
    answer = world.signal(sef, REBALANCE)
    assert answer["action"] == "monitor"
    assert answer["risk_score"] < 0.30
    assert "below 0.30" in answer["message"]
    assert world.replicas() == []
    assert sef.get_agent_status("a")["incident"]["goal"] == "monitor"
    # It ends by itself.
    world.settle(sef, 7201)
    assert sef.get_agent_status("a")["incident"] is None
    world.check()


@ON_MARIADB
def test_the_risk_rises_with_every_termination_that_followed(world: World) -> None:
    sef = world.sef()
    scores = []
    for number, terminations in enumerate([0, 5, 10, 20]):
        pool = f"m5.large.us-east-1{'abcd'[number]}"
        world.past(20, terminations, pool=pool)
        world.primary(sef, f"agent-{number}", pool)
        scores.append(world.signal(sef, REBALANCE, f"agent-{number}")["risk_score"])
    assert scores == sorted(scores)
    assert scores[0] < 0.30 < scores[-1]


@ON_MARIADB
def test_recent_recommendations_do_not_change_the_risk(world: World) -> None:
    sef = world.sef()
    for number in range(6):
        world.primary(sef, f"agent-{number}")
        answer = world.signal(sef, REBALANCE, f"agent-{number}")
        assert answer["risk_score"] == 0.5


def test_auto_switch_promotes_the_standby_as_soon_as_it_is_ready(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    answer = world.signal(sef, REBALANCE, instance_id=primary)

    assert answer["action"] == "promoted"
    agent = world.agent()
    assert agent.instance_id == answer["new_instance_id"] != primary
    assert agent.pool_id == world.pool_of(agent.instance_id) != POOL
    assert agent.epoch == 2
    assert len(world.promotions()) == 1
    [signal] = world.rows("spot_interruption_events")
    assert signal.failover_completed
    assert signal.failover_time_ms == answer["failover_time_ms"]
    assert signal.replica_id == world.replicas()[0].id
    # Without auto-terminate, AWS or the operator terminates the old primary.
    for _ in range(3):
        world.settle(sef, 3600)
    assert world.state(primary) == "running"
    [retirement] = world.rows("retirements")
    assert retirement.terminate_after is retirement.terminated_at is None
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_a_promotion_waits_until_the_standby_runs(world: World) -> None:
    sef = world.sef(simulator_pending_seconds=60)
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    answer = world.signal(sef, REBALANCE, instance_id=primary)
    assert answer["action"] == "replica_launching"
    world.settle(sef, 5)
    assert world.agent().instance_id == primary
    world.simulation.set_options(pending_seconds=0)
    world.settle(sef, 5)
    assert world.agent().instance_id == world.tagged()[0].id
    [signal] = world.rows("spot_interruption_events")
    assert signal.failover_time_ms == 10_000
    world.check()


@ON_MARIADB
def test_auto_terminate_terminates_the_old_primary_after_the_drain(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    sef.set_auto_mode("a", "auto-terminate", enabled=True)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.settle(sef, 59)
    assert world.state(primary) == "running"
    world.check()
    world.settle(sef, 1)
    assert world.state(primary) == "terminated"
    assert len(world.events("primary_retired")) == 1
    world.settle(sef, 60)
    assert len(world.events("primary_retired")) == 1
    world.check()


@ON_MARIADB
def test_auto_terminate_without_auto_switch_terminates_nothing(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-terminate", enabled=True)
    assert world.signal(sef, REBALANCE, instance_id=primary)["action"] == "standby_ready"
    world.settle(sef, 600)
    assert world.state(primary) == "running"
    assert world.agent().instance_id == primary
    world.check()


def test_it_releases_the_standby_if_no_termination_follows(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()
    world.signal(sef, REBALANCE, at=announced, instance_id=primary)
    standby = world.standby()
    world.settle(sef, 7199)
    assert world.standby().id == standby.id
    world.settle(sef, 1)
    assert world.standby() is None
    assert world.replicas()[0].status == "terminated"
    assert world.state(standby.instance_id) == "terminated"
    [incident] = world.rows("incidents")
    assert incident.status == "released"
    world.check()

    # The metadata service shows a recommendation for as long as the instance lives.
    for _ in range(3):
        world.clock.advance(60)
        answer = world.signal(sef, REBALANCE, at=announced, instance_id=primary)
        assert answer["action"] == "released"
    world.settle(sef, 60)
    assert len(world.tagged()) == 1

    # A new recommendation opens another incident.
    again = world.signal(sef, REBALANCE, instance_id=primary)
    assert again["action"] == "standby_ready"
    assert again["incident_id"] != incident.id
    assert len(world.alive()) == 1
    world.check()


@ON_MARIADB
def test_a_new_recommendation_keeps_the_standby_longer_and_a_repeat_does_not(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    announced = world.clock()
    world.signal(sef, REBALANCE, at=announced, instance_id=primary)
    world.settle(sef, 7000)
    world.signal(sef, REBALANCE, at=announced + timedelta(seconds=6900), instance_id=primary)
    world.settle(sef, 7000)
    world.signal(sef, REBALANCE, at=announced, instance_id=primary)
    assert world.standby() is not None
    world.settle(sef, 201)
    assert world.standby() is None
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_it_uses_the_default_template_without_a_known_instance(
    world: World,
) -> None:
    sef = world.sef()
    sef.process_incoming_data(
        "a",
        "pricing",
        {"spot_price": 0.04, "pool_id": "c5.large.us-east-1a", "timestamp": at(world)},
    )
    answer = world.signal(sef, REBALANCE)
    assert answer["action"] == "standby_ready"
    assert world.standby().pool_id.startswith("c5.large.")
    assert world.standby().pool_id != "c5.large.us-east-1a"
    world.check()


@ON_MARIADB
def test_it_prefers_the_agents_template_to_its_instance(world: World) -> None:
    sef = world.sef()
    world.client.create_launch_template(
        LaunchTemplateName=(name := f"own-{world.clock().timestamp():.6f}"),
        LaunchTemplateData={"ImageId": "ami-12345678", "InstanceType": "r5.large"},
    )
    world.primary(sef)
    sef.register_agent("a", {"launch_template": name})
    world.signal(sef, REBALANCE)
    assert world.standby().pool_id.startswith("r5.large.")
    assert world.described(world.standby().instance_id)["ImageId"] == "ami-12345678"
    world.check()


@ON_MARIADB
def test_it_uses_the_primarys_type_if_the_template_has_none(world: World) -> None:
    sef = world.sef()
    world.client.create_launch_template(
        LaunchTemplateName=(name := f"open-{world.clock().timestamp():.6f}"),
        LaunchTemplateData={"ImageId": "ami-12345678"},
    )
    world.primary(sef, pool="c5.large.us-east-1a")
    sef.register_agent("a", {"launch_template": name})
    assert world.signal(sef, REBALANCE)["action"] == "standby_ready"
    assert world.standby().pool_id.startswith("c5.large.")
    world.check()


@ON_MARIADB
def test_it_reports_a_missing_launch_template_and_retries(
    world: World,
) -> None:
    sef = world.sef(launch_template="")
    sef.register_agent("a", {})
    answer = world.signal(sef, REBALANCE)
    assert answer["status"] == "success"
    assert answer["action"] == "waiting"
    assert "launch template" in answer["message"]
    [failed] = world.events("replica_failed")
    assert failed.severity == "error"
    assert "SEF_LAUNCH_TEMPLATE" in failed.message
    assert [r.status for r in world.replicas()] == ["failed"]
    assert world.attempts() == []
    assert world.tagged() == []

    # SEF does not retry in every pass, and succeeds once there is a template.
    for _ in range(4):
        world.settle(sef, 60)
    assert len(world.replicas()) == 1
    sef.register_agent("a", {"launch_template": "sef-default"})
    world.settle(sef, 61)
    assert world.standby().status == "ready"
    world.check()


@ON_MARIADB
def test_it_rejects_a_signal_for_an_unknown_agent(world: World) -> None:
    sef = world.sef()
    with pytest.raises(AgentNotFound) as caught:
        world.signal(sef, REBALANCE, "nobody")
    assert (caught.value.status, caught.value.reason) == (404, "agent_not_found")
    assert world.rows("incidents", None) == []
    assert world.rows("agents", None) == []


@ON_MARIADB
def test_enabling_auto_switch_promotes_a_waiting_standby(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    standby = world.standby()
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    assert world.agent().instance_id == standby.instance_id
    assert world.state(primary) == "running"
    world.check()


@ON_MARIADB
def test_it_replaces_a_lost_standby_during_a_recommendation(
    world: World,
) -> None:
    sef = world.sef()
    world.primary(sef)
    world.signal(sef, REBALANCE)
    first = world.standby()
    world.simulation.terminate(first.instance_id)
    world.settle(sef, 30)
    world.settle(sef, 30)
    assert world.replicas()[0].status == "failed"
    assert world.standby().status == "ready"
    assert world.standby().instance_id != first.instance_id
    world.check()


@ON_MARIADB
def test_registering_another_primary_closes_the_incident(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    world.signal(sef, REBALANCE, instance_id=primary)
    world.primary(sef, pool="m5.large.us-east-1e")
    world.settle(sef, 31)
    [incident] = world.rows("incidents")
    assert incident.status == "done"
    assert world.standby() is None
    assert world.alive() == []
    world.check()


@ON_MARIADB
def test_a_recommendation_during_a_promotion_by_another_worker_has_no_effect(world: World) -> None:
    sef, other = world.sef(), world.sef()
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    announced = world.clock()

    def promote() -> None:
        world.signal(other, REBALANCE, at=announced, instance_id=primary)

    with meanwhile("FROM retirements", promote):
        world.signal(sef, REBALANCE, at=announced, instance_id=primary)
    assert world.agent().epoch == 2
    assert len(world.tagged()) == 1
    world.check()


@ON_MARIADB
def test_it_replaces_a_promoted_standby_that_gets_a_recommendation(world: World) -> None:
    sef = world.sef()
    primary = world.primary(sef)
    sef.set_auto_mode("a", "auto-switch", enabled=True)
    first = world.signal(sef, REBALANCE, instance_id=primary)["new_instance_id"]
    world.clock.advance(60)
    second = world.signal(sef, REBALANCE, instance_id=first)["new_instance_id"]
    assert world.agent().instance_id == second != first
    assert world.agent().epoch == 3
    world.clock.advance(60)
    notice = world.signal(sef, TERMINATION, instance_id=primary)
    assert notice["new_instance_id"] == first
    assert world.agent().instance_id == second
    world.check()


def at(world: World) -> str:
    now: datetime = world.clock()
    return now.isoformat()
