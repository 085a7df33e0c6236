"""A new instance is like the one that DescribeInstances describes."""

import json
from typing import Any

import pytest

from sef.cloud.launch_parameters import launch_parameters
from sef.cloud.likeness import LaunchConfiguration, Network, Subnet, like
from sef.terms import Pool

HERE, THERE = Pool("t3.large", "us-east-1a"), Pool("m5.large", "us-east-1b")
PRIVATE = Subnet("s-1", "us-east-1a", "10.0.0.0/24", 5, gives_public=False)
PUBLIC = Subnet("s-2", "us-east-1b", "10.0.1.0/24", 5, gives_public=True, has_ipv6=True)
NETWORK = Network("vpc-1", "s-1", (PRIVATE, PUBLIC))


def described(**fields: Any) -> dict[str, Any]:
    return {
        "InstanceId": "i-1",
        "ImageId": "ami-1",
        "InstanceType": "t3.large",
        "State": {"Name": "running"},
        "Placement": {"AvailabilityZone": "us-east-1a", "Tenancy": "default", "GroupName": ""},
        "SecurityGroups": [{"GroupId": "sg-1"}],
    } | fields


def parameters(pool: Pool = HERE, **fields: Any) -> dict[str, Any]:
    return launch_parameters(like(described(**fields), NETWORK), pool, spot=False, tags={})


def interface(**fields: Any) -> list[dict[str, Any]]:
    return [{"Attachment": {"DeviceIndex": 0}, "SubnetId": "s-1"} | fields]


PLACED = {"AvailabilityZone": "us-east-1a"}


@pytest.mark.parametrize(
    ("fields", "copied"),
    [
        ({"Monitoring": {"State": "enabled"}}, {"Monitoring": {"Enabled": True}}),
        (
            {"MetadataOptions": {"State": "applied", "HttpTokens": "required"}},
            {"MetadataOptions": {"HttpTokens": "required"}},
        ),
        ({"Placement": PLACED | {"Tenancy": "dedicated"}}, {"Placement": {"Tenancy": "dedicated"}}),
        ({"Placement": PLACED | {"GroupName": "near"}}, {"Placement": {"GroupName": "near"}}),
        ({"EnclaveOptions": {"Enabled": True}}, {"EnclaveOptions": {"Enabled": True}}),
        (
            {"MaintenanceOptions": {"AutoRecovery": "disabled"}},
            {"MaintenanceOptions": {"AutoRecovery": "disabled"}},
        ),
        (
            {"Licenses": [{"LicenseConfigurationArn": "arn:1"}]},
            {"LicenseSpecifications": [{"LicenseConfigurationArn": "arn:1"}]},
        ),
        (
            {"PrivateDnsNameOptions": {"HostnameType": "resource-name"}},
            {"PrivateDnsNameOptions": {"HostnameType": "resource-name"}},
        ),
    ],
)
def test_options_that_are_not_default_are_copied(fields, copied):
    plain = parameters()
    assert plain["SubnetId"] == "s-1"
    assert parameters(**fields) == plain | copied


@pytest.mark.parametrize(
    "fields",
    [
        {"Monitoring": {"State": "disabled"}},
        {"Placement": PLACED | {"Tenancy": "host"}},
        {"EnclaveOptions": {"Enabled": False}},
        {"MaintenanceOptions": {"AutoRecovery": "default"}},
        {"PrivateDnsNameOptions": {"HostnameType": "ip-name"}},
        {"NetworkInterfaces": interface(Association={"IpOwnerId": "123456789012"})},
    ],
)
def test_defaults_and_what_cannot_be_copied_are_left_out(fields):
    assert parameters(**fields) == parameters()


def test_placement_group_is_left_out_in_another_zone():
    near = {"Placement": PLACED | {"GroupName": "near", "Tenancy": "dedicated"}}
    assert parameters(THERE, **near)["Placement"] == {"Tenancy": "dedicated"}


def test_zone_is_kept_beside_the_tenancy_without_a_known_network():
    source = like(described(Placement=PLACED | {"Tenancy": "dedicated"}), None)
    made = launch_parameters(source, THERE, spot=False, tags={})
    assert made["Placement"] == {"AvailabilityZone": "us-east-1b", "Tenancy": "dedicated"}


def test_credit_option_is_copied_to_a_burstable_type_only():
    source = like(described(), NETWORK, credits="unlimited")
    credit = [
        launch_parameters(source, pool, spot=False, tags={}).get("CreditSpecification")
        for pool in (HERE, THERE)
    ]
    assert credit == [{"CpuCredits": "unlimited"}, None]


def test_public_address_is_asked_for_where_the_subnet_gives_none():
    given = {"NetworkInterfaces": interface(Association={"IpOwnerId": "amazon"})}
    here, there = parameters(HERE, **given), parameters(THERE, **given)
    [asked] = here["NetworkInterfaces"]
    assert asked == {
        "DeviceIndex": 0,
        "SubnetId": "s-1",
        "AssociatePublicIpAddress": True,
        "Groups": ["sg-1"],
    }
    assert not {"SubnetId", "SecurityGroupIds"} & here.keys(), "EC2 refuses both at once"
    assert there["SubnetId"] == "s-2"
    assert "NetworkInterfaces" not in there


def test_ipv6_address_is_asked_for_where_the_subnet_has_some():
    given = {"NetworkInterfaces": interface(Ipv6Addresses=[{"Ipv6Address": "::1"}])}
    assert "Ipv6AddressCount" not in parameters(HERE, **given)
    assert parameters(THERE, **given)["Ipv6AddressCount"] == 1


def test_interfaces_of_a_template_get_the_subnet():
    template = {"NetworkInterfaces": [{"DeviceIndex": 0, "Groups": ["sg-9"], "SubnetId": "s-9"}]}
    source = LaunchConfiguration("a template", template, "m5.large", {"us-east-1b": "s-2"})
    made = launch_parameters(source, THERE, spot=False, tags={})
    assert made["NetworkInterfaces"] == [{"DeviceIndex": 0, "Groups": ["sg-9"], "SubnetId": "s-2"}]
    assert "SubnetId" not in made
    assert template["NetworkInterfaces"][0]["SubnetId"] == "s-9"


@pytest.mark.parametrize(
    ("value", "after"), [(False, {"SourceDestCheck": False}), (True, {}), (None, {})]
)
def test_source_destination_check_that_is_off_is_set_after_the_launch(value, after):
    assert like(described(SourceDestCheck=value), NETWORK).after_launch == after


def test_configuration_is_stored_and_read():
    source = like(
        described(
            SourceDestCheck=False,
            Architecture="arm64",
            NetworkInterfaces=interface(PrivateIpAddresses=[{"PrivateIpAddress": "10.0.0.9"}]),
        ),
        NETWORK,
        "dXNlcg==",
        gaps=["a gap"],
    )
    assert source.addresses == {"10.0.0.9": "s-1"}
    stored = json.loads(json.dumps(source.to_json()))
    assert LaunchConfiguration.from_json(stored) == source
    assert LaunchConfiguration.from_json(stored | {"later": 1}) == source
