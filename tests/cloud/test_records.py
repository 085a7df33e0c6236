"""A listing answers for many names, and one change batch from which a bad record is left out."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sef.cloud.attachments import NotReady
from sef.cloud.errors import CloudError
from sef.cloud.records import MOST_CHANGES, RecordChange, RecordSets


class Route53:
    """Answers with the records of a zone, a page of `page` at most, and refuses bad batches.

    Args:
        message: the message of the refusal for the bad names of a batch.
    """

    def __init__(
        self,
        names: list[str],
        *,
        page: int = 300,
        bad: frozenset[str] = frozenset(),
        message: Callable[[list[str]], str] = ", ".join,
    ) -> None:
        self.route53 = self
        self._names = sorted(names, key=_order)
        self._page, self._bad, self._message = page, bad, message
        self.listings: list[str] = []
        self.batches: list[list[str]] = []

    def list_resource_record_sets(self, StartRecordName: str, **_: Any) -> Any:
        self.listings.append(StartRecordName)
        left = [name for name in self._names if _order(name) >= _order(StartRecordName)]
        shown = [{"Name": f"{n.replace('*', chr(92) + '052')}.", "Type": "A"} for n in left]
        answer = {"ResourceRecordSets": shown[: self._page], "IsTruncated": len(left) > self._page}
        if answer["IsTruncated"]:
            answer |= {"NextRecordName": shown[self._page]["Name"], "NextRecordType": "A"}
        return answer

    def change_resource_record_sets(self, ChangeBatch: Any, **_: Any) -> None:
        names = [change["ResourceRecordSet"]["Name"] for change in ChangeBatch["Changes"]]
        self.batches.append(names)
        bad = [name for name in names if name in self._bad]
        if bad:
            error = {"Code": "InvalidChangeBatch", "Message": self._message(bad)}
            raise ClientError({"Error": error}, "ChangeResourceRecordSets")  # type: ignore[misc, arg-type]


def _order(name: str) -> str:
    return "".join(f"{label}." for label in reversed(name.replace("*", "!").split(".")))


def records(route53: Route53) -> RecordSets:
    return RecordSets(lambda: route53)  # type: ignore[arg-type, return-value]


def change(name: str) -> RecordChange:
    return RecordChange(None, {"Name": name, "Type": "A", "ResourceRecords": [{"Value": "1"}]})


def test_one_listing_answers_for_all_names_of_a_page() -> None:
    names = [f"w{number:03d}.x.example" for number in range(200)]
    route53 = Route53(names)
    found = records(route53).at_names("Z1", names)
    assert {name: len(found[name]) for name in found} == dict.fromkeys(names, 1)
    assert len(route53.listings) == 1


def test_names_of_several_pages_take_as_many_listings() -> None:
    names = [f"w{number:03d}.x.example" for number in range(200)]
    route53 = Route53(names, page=60)
    found = records(route53).at_names("Z1", names)
    assert all(len(found[name]) == 1 for name in names)
    assert len(route53.listings) == 4


def test_names_without_records_are_answered_by_the_page_that_passes_them() -> None:
    route53 = Route53(["a.x.example", "z.x.example"])
    asked = ["a.x.example", "b.x.example", "c.x.example", "zz.x.example", "a-b.x.example"]
    found = records(route53).at_names("Z1", asked)
    assert {name for name in asked if found[name]} == {"a.x.example"}
    assert len(route53.listings) == 1


def test_wildcard_is_found_wherever_route_53_sorts_it() -> None:
    route53 = Route53(["*.x.example", "a.x.example"])
    found = records(route53).at_names("Z1", ["a.x.example", "*.x.example", "*.y.example"])
    assert [len(found[n]) for n in ("a.x.example", "*.x.example", "*.y.example")] == [1, 1, 0]


def named(bad: list[str]) -> str:
    reasons = [
        f"Tried to delete resource record set [name='{name}.', type='A'] but it was not found"
        for name in bad
    ]
    return f"[{', '.join(reasons)}]"


def mixed(bad: list[str]) -> str:
    first, *rest = bad
    text = f"RRSet of type A with DNS name {first}. is not permitted because a conflicting RRSet"
    return f"[{text} of type CNAME, {named(rest).strip('[]')}]"


@pytest.mark.parametrize(
    ("message", "bad", "calls"),
    [
        (named, {"w1", "w5"}, 2),
        (lambda bad: named(bad[:1]), {"w1", "w5"}, 3),
        (lambda _: "but it was not found", {"w3"}, 2 * 3 + 1),
        (named, {f"w{number}" for number in range(8)}, 1),
    ],
    ids=["all are named", "one is named", "none is named", "all are bad"],
)
def test_record_that_is_refused_is_left_out_of_the_batch(
    message: Callable[[list[str]], str], bad: set[str], calls: int
) -> None:
    names = [f"w{number}" for number in range(8)]
    route53 = Route53([], bad=frozenset(bad), message=message)
    errors = records(route53).change("Z1", [change(name) for name in names])
    assert {n for n, e in zip(names, errors, strict=True) if isinstance(e, NotReady)} == bad
    assert {n for n, e in zip(names, errors, strict=True) if e is None} == set(names) - bad
    assert len(route53.batches) == calls


def test_each_record_has_its_own_reason() -> None:
    route53 = Route53([], bad=frozenset({"w0", "w1"}), message=mixed)
    cname, raced, good = records(route53).change("Z1", [change(f"w{n}") for n in range(3)])
    assert isinstance(cname, CloudError)
    assert "not permitted" in str(cname)
    assert isinstance(raced, NotReady)
    assert good is None


def test_batch_keeps_the_limits_of_route_53() -> None:
    route53 = Route53([])
    names = [f"w{number}" for number in range(2 * MOST_CHANGES + 1)]
    assert set(records(route53).change("Z1", [change(name) for name in names])) == {None}
    assert [len(batch) for batch in route53.batches] == [MOST_CHANGES, MOST_CHANGES, 1]
