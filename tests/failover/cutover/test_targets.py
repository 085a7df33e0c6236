"""Validation of cutover targets, and the messages for invalid ones."""

from typing import Any

import pytest

from sef.errors import Refused
from sef.failover.cutover.targets import parse_targets

ARN = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/web/0123456789abcdef"
DNS = {"zone_id": "Z0123456789ABC", "name": "web.example.com"}
WHOLE: dict[str, Any] = {
    "elastic_ip": "eipalloc-0abc1234",
    "target_groups": [{"arn": ARN, "port": 8080}, {"arn": ARN.replace("/web/", "/api/")}],
    "dns": {**DNS, "type": "A", "ttl": 30, "address": "private"},
    "private_ip": "10.0.0.9",
    "network_interface": {"id": "eni-0abc1234", "device_index": 1},
    "volumes": [{"id": "vol-0abc1234", "device": "/dev/sdf"}],
    "webhooks": {"before": "https://hooks.example/b", "after": "http://hooks.example:8080/a?x=1"},
}


def test_valid_targets_are_returned_unchanged() -> None:
    assert parse_targets(WHOLE) == WHOLE
    assert parse_targets(parse_targets(WHOLE)) == WHOLE


def test_valid_routes_are_returned_unchanged() -> None:
    routes = [ROUTE, {**ROUTE, "destination_cidr": "::/0"}]
    assert parse_targets({"routes": routes}) == {"routes": routes}


def test_missing_fields_get_their_defaults() -> None:
    targets = parse_targets(
        {"dns": {**DNS, "name": "Web.Example.com."}, "network_interface": {"id": "eni-0abc1234"}}
    )
    assert targets == {
        "dns": {**DNS, "type": "A", "address": "private"},
        "network_interface": {"id": "eni-0abc1234", "device_index": 1},
    }


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"zone_id": "/hostedzone/Z1"}, {"zone_id": "Z1"}),
        ({"zone_id": "hostedzone/Z1"}, {"zone_id": "Z1"}),
        ({"name": "*.Example.com."}, {"name": "*.example.com"}),
        ({"name": "\\052.example.com"}, {"name": "*.example.com"}),
        ({"name": "db"}, {"name": "db"}),
        ({"name": "_db._tcp.example"}, {"name": "_db._tcp.example"}),
    ],
)
def test_names_of_route_53_are_taken_in_each_of_their_forms(given: Any, stored: Any) -> None:
    dns = parse_targets({"dns": {**DNS, **given}})["dns"]
    assert dns == {**DNS, "type": "A", "address": "private", **stored}
    assert parse_targets({"dns": dns})["dns"] == dns


def test_null_fields_are_treated_as_missing() -> None:
    targets = parse_targets({"elastic_ip": "eipalloc-0abc1234", "dns": None, "volumes": None})
    assert targets == {"elastic_ip": "eipalloc-0abc1234"}


ROUTE = {"route_table_id": "rtb-0abc1234", "destination_cidr": "0.0.0.0/0"}
VOLUME = {"id": "vol-0abc1234", "device": "/dev/sdf"}


@pytest.mark.parametrize(
    ("given", "beginning"),
    [
        ([], "cutover must"),
        ("eipalloc-0abc1234", "cutover must"),
        ({}, "cutover must name a target"),
        ({"dns": None}, "cutover must name a target"),
        (
            {"elastic_ips": "eipalloc-0abc1234"},
            "cutover has an unknown field elastic_ips; allowed: elastic_ip, target_groups, dns",
        ),
        ({"elastic_ip": "1.2.3.4"}, "cutover.elastic_ip"),
        ({"elastic_ip": "eipalloc-0ABC1234"}, "cutover.elastic_ip"),
        ({"elastic_ip": 7}, "cutover.elastic_ip"),
        ({"target_groups": {}}, "cutover.target_groups must"),
        ({"target_groups": []}, "cutover.target_groups must"),
        ({"target_groups": [{"arn": ARN}] * 11}, "cutover.target_groups must"),
        ({"target_groups": [{"arn": ARN}, {"arn": ARN, "port": 1}]}, "cutover.target_groups must"),
        ({"target_groups": [ARN]}, "cutover.target_groups[0] must be an object"),
        ({"target_groups": [{"port": 80}]}, "cutover.target_groups[0].arn is required"),
        ({"target_groups": [{"arn": "web"}]}, "cutover.target_groups[0].arn must"),
        ({"target_groups": [{"arn": ARN, "port": 0}]}, "cutover.target_groups[0].port must"),
        ({"target_groups": [{"arn": ARN, "port": True}]}, "cutover.target_groups[0].port must"),
        (
            {"target_groups": [{"arn": ARN, "prt": 80}]},
            "cutover.target_groups[0] has an unknown field prt; allowed: arn, port",
        ),
        ({"dns": "web.example.com"}, "cutover.dns must be an object"),
        ({"dns": {"name": "web.example.com"}}, "cutover.dns.zone_id is required"),
        ({"dns": {"zone_id": "Z1"}}, "cutover.dns.name is required"),
        ({"dns": {**DNS, "zone_id": "/hostedzone/"}}, "cutover.dns.zone_id must"),
        ({"dns": {**DNS, "zone_id": "/zone/Z1"}}, "cutover.dns.zone_id must"),
        ({"dns": {**DNS, "zone_id": "z1"}}, "cutover.dns.zone_id must"),
        ({"dns": {**DNS, "name": ""}}, "cutover.dns.name must"),
        ({"dns": {**DNS, "name": "*"}}, "cutover.dns.name must"),
        ({"dns": {**DNS, "name": "a*.example.com"}}, "cutover.dns.name must"),
        ({"dns": {**DNS, "name": "a.*.example.com"}}, "cutover.dns.name must"),
        ({"dns": {**DNS, "name": "a" * 64 + ".example.com"}}, "cutover.dns.name must"),
        ({"dns": {**DNS, "name": ("a" * 50 + ".") * 6 + "com"}}, "cutover.dns.name must"),
        ({"dns": {**DNS, "type": "CNAME"}}, "cutover.dns.type must be A"),
        ({"dns": {**DNS, "ttl": -1}}, "cutover.dns.ttl must"),
        ({"dns": {**DNS, "address": "elastic"}}, "cutover.dns.address must be private or public"),
        (
            {"dns": {**DNS, "address": "public"}, "elastic_ip": "eipalloc-0abc1234"},
            "cutover.dns.address must be private if there is an elastic_ip",
        ),
        ({"private_ip": "10.0.0"}, "cutover.private_ip must"),
        ({"private_ip": "::1"}, "cutover.private_ip must"),
        ({"private_ip": 167772169}, "cutover.private_ip must"),
        ({"network_interface": {"id": "eni-1"}}, "cutover.network_interface.id must"),
        (
            {"network_interface": {"id": "eni-0abc1234", "device_index": 0}},
            "cutover.network_interface.device_index must",
        ),
        ({"volumes": [{"id": "vol-0abc1234"}]}, "cutover.volumes[0].device is required"),
        ({"volumes": [{**VOLUME, "device": "/dev/sda"}]}, "cutover.volumes[0].device must"),
        ({"volumes": [{**VOLUME, "device": "sdf"}]}, "cutover.volumes[0].device must"),
        (
            {"volumes": [VOLUME, {"id": "vol-0abc1235", "device": "/dev/xvdf"}]},
            "cutover.volumes must not have the same device twice: /dev/sdf and /dev/xvdf are one",
        ),
        ({"volumes": [VOLUME, {**VOLUME, "device": "/dev/sdg"}]}, "cutover.volumes must not"),
        ({"volumes": [VOLUME, {**VOLUME, "id": "vol-0abc1235"}]}, "cutover.volumes must not"),
        ({"routes": [{"route_table_id": "rtb-0abc1234"}]}, "cutover.routes[0].destination_cidr is"),
        ({"routes": [{**ROUTE, "route_table_id": "web"}]}, "cutover.routes[0].route_table_id must"),
        ({"routes": [{**ROUTE, "destination_cidr": 7}]}, "cutover.routes[0].destination_cidr must"),
        (
            {"routes": [{**ROUTE, "destination_cidr": "10.0.0.9/8"}]},
            "cutover.routes[0].destination",
        ),
        ({"routes": [ROUTE, ROUTE]}, "cutover.routes must not have the same route twice"),
        ({"webhooks": {}}, "cutover.webhooks must have before or after"),
        (
            {"webhooks": {"during": "https://x.example"}},
            "cutover.webhooks has an unknown field during; allowed: before, after",
        ),
        ({"webhooks": {"after": "ftp://x.example"}}, "cutover.webhooks.after must"),
        ({"webhooks": {"after": "https:///path"}}, "cutover.webhooks.after must"),
        ({"webhooks": {"after": "https://x.example:99999/"}}, "cutover.webhooks.after must"),
        ({"webhooks": {"after": "https://x.example/a b"}}, "cutover.webhooks.after must"),
        ({"webhooks": {"after": "https://x.example/" + "a" * 2048}}, "cutover.webhooks.after must"),
        (
            {"webhooks": {"after": "https://u:p@x.example/"}},
            "cutover.webhooks.after must not contain a user name or password",
        ),
    ],
)
def test_invalid_target_is_rejected_with_its_field(given: Any, beginning: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_targets(given)
    assert refused.value.reason == "invalid_cutover"
    assert refused.value.message.startswith(beginning)
    assert refused.value.message.endswith(".")
