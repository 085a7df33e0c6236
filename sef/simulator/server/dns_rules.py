r"""Change DNS records only as Route 53 does, and show their names as it does.

moto creates a record that exists, deletes one that had the given values at any earlier time, and
lets an A record stand beside a CNAME. Route 53 compares each change of a batch with the records
that the changes before it leave, and refuses the whole batch with `InvalidChangeBatch` and all
reasons in one message, in brackets. The texts are those of public reports, such as
https://github.com/RJPearson94/terraform-aws-open-next/issues/24 (an A record beside a CNAME),
https://github.com/ansible-collections/amazon.aws/issues/2694 (a CNAME beside another record) and
https://repost.aws/knowledge-center/troubleshoot-route53-resource-record.

Route 53 takes `*` or its escape code in a name and returns `\052`, as for every character other
than a to z, 0 to 9, hyphen and underscore
(https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/DomainNameFormat.html).
"""

import re
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from typing import Any

from moto.route53 import models
from moto.route53.exceptions import Route53ClientError
from moto.route53.models import ChangeList, RecordSet, Route53Backend

Key = tuple[str, str, str | None]
"""Name, type and set identifier of a record."""

Content = tuple[str, list[str]]
"""TTL and values of a record."""


def check_records() -> None:
    """Add the rules to moto's Route 53, once in a process."""
    change = Route53Backend.change_resource_record_sets
    listing = Route53Backend.list_resource_record_sets

    def checked_change(self: Any, zoneid: str, change_list: list[dict[str, Any]]) -> None:
        zone = self.get_hosted_zone(zoneid)
        for entry in change_list:
            record = entry["ResourceRecordSet"]
            record["Name"] = unescaped(record["Name"]).lower()
        present = {
            (r.name.strip("."), str(r.type), r.set_identifier): _content(r.ttl, r.records or [])
            for r in zone.rrsets
        }
        problems = problems_of(present, change_list, zone.name.strip("."))
        if problems:
            raise Route53ClientError("InvalidChangeBatch", f"[{', '.join(problems)}]")
        # moto's own checks compare with all earlier changes, so it gets only the present ones.
        zone.rr_changes = ChangeList()
        for entry in change_list:
            if entry["Action"] == "DELETE":
                zone.rr_changes.append({**deepcopy(entry), "Action": "UPSERT"})
        change(self, zoneid, change_list)

    def escaped_listing(
        self: Any, zone_id: str, start_type: str, start_name: str, max_items: int
    ) -> tuple[list[RecordSet], str | None, str | None, bool]:
        start = unescaped(start_name).lower() if start_name else start_name
        found, next_name, next_type, is_cut = listing(self, zone_id, start_type, start, max_items)
        records = [copy(record) for record in found]
        for record in records:
            record.name = escaped(record.name)
        return records, next_name and escaped(next_name), next_type, is_cut

    reversed_name = models.reverse_domain_name
    # Route 53 sorts with the dot at the end of the name, moto without it.
    models.reverse_domain_name = lambda domain_name: f"{reversed_name(domain_name)}."
    Route53Backend.change_resource_record_sets = checked_change  # type: ignore[method-assign]
    Route53Backend.list_resource_record_sets = escaped_listing  # type: ignore[method-assign]


def problems_of(
    present: Mapping[Key, Content], changes: Sequence[Mapping[str, Any]], zone: str
) -> list[str]:
    """Return the reasons for which Route 53 refuses a batch; none if it makes all changes."""
    records, problems = dict(present), []
    for change in changes:
        record = change["ResourceRecordSet"]
        key = (record["Name"].strip("."), record["Type"], record.get("SetIdentifier"))
        values = [r["Value"] for r in record.get("ResourceRecords") or []]
        wanted = _content(record.get("TTL"), values)
        problem = _problem(records, change["Action"], key, wanted, zone)
        if problem is not None:
            problems.append(problem)
        elif change["Action"] == "DELETE":
            del records[key]
        else:
            records[key] = wanted
    return problems


def _problem(
    records: Mapping[Key, Content], action: str, key: Key, wanted: Content, zone: str
) -> str | None:
    name, kind, _ = key
    described = f"resource record set [name='{escaped(name)}.', type='{kind}']"
    if action == "DELETE":
        if key not in records:
            return f"Tried to delete {described} but it was not found"
        if records[key] != wanted:
            return (
                f"Tried to delete {described} but the values provided do not match the current "
                "values"
            )
        return None
    if action == "CREATE" and key in records:
        return f"Tried to create {described} but it already exists"
    others = {other for same, other, _ in records if same == name and other != kind}
    if kind != "CNAME" and "CNAME" in others:
        return (
            f"RRSet of type {kind} with DNS name {escaped(name)}. is not permitted because a "
            f"conflicting RRSet of type CNAME with the same DNS name already exists in zone {zone}."
        )
    if kind == "CNAME" and others:
        return (
            f"RRSet of type CNAME with DNS name {escaped(name)}. is not permitted as it conflicts "
            f"with other records with the same DNS name in zone {zone}."
        )
    return None


def escaped(name: str) -> str:
    """Return a name with the escape codes that Route 53 answers with."""
    return re.sub(r"[^a-z0-9_.-]", lambda found: f"\\{ord(found[0]):03o}", name)


def unescaped(name: str) -> str:
    """Return a name with its characters instead of their escape codes."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), name)


def _content(ttl: Any, values: Sequence[str]) -> Content:
    return str(ttl), sorted(values)
