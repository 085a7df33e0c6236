"""The simulated EC2's answers: refusals, pages, and answers that lack something."""

from collections.abc import Collection
from dataclasses import replace
from urllib.parse import urlencode
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from sef.simulator.server.faults import Error
from sef.simulator.server.moto import Answer, Call

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
AFTER_EMPTY_PAGE = "simulated-after-empty-page"

ElementTree.register_namespace("", NAMESPACE)


class Pages:
    """DescribeInstances in pages of another size than was asked for, maybe of none at first."""

    def __init__(self, call: Call, size: int | None) -> None:
        form = call.form
        self._empty = size == 0 and "NextToken" not in form
        self.call = call
        if form.get("NextToken") == AFTER_EMPTY_PAGE:
            del form["NextToken"]
            self.call = replace(call, body=urlencode(form))
        elif size and call.action == "DescribeInstances" and "InstanceId.1" not in form:
            self.call = replace(call, body=urlencode(form | {"MaxResults": str(size)}))

    def fold(self, answer: Answer) -> Answer:
        if not self._empty or self.call.action != "DescribeInstances":
            return answer
        emptied = ElementTree.fromstring(without(answer, {"item", "nextToken"}).body)
        ElementTree.SubElement(emptied, f"{{{NAMESPACE}}}nextToken").text = AFTER_EMPTY_PAGE
        return xml(ElementTree.tostring(emptied, encoding="unicode"))


def without(answer: Answer, names: Collection[str]) -> Answer:
    """The answer, lacking every element of these names."""
    if not names or not answer.status.startswith("200"):
        return answer
    root = ElementTree.fromstring(answer.body)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in names:
                parent.remove(child)
    return xml(ElementTree.tostring(root, encoding="unicode"))


def refusal(error: Error, service: str = "ec2") -> Answer:
    told = (
        f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        "</Error>"
    )
    if service == "ec2":
        body = f"<Response><Errors>{told}</Errors><RequestID>simulated</RequestID></Response>"
    else:
        body = f"<ErrorResponse>{told}<RequestId>simulated</RequestId></ErrorResponse>"
    return xml(f'<?xml version="1.0" encoding="UTF-8"?>{body}', error.status)


def xml(text: str, status: int = 200) -> Answer:
    body = text.encode()
    headers = [("Content-Type", "text/xml;charset=UTF-8"), ("Content-Length", str(len(body)))]
    return Answer(f"{status} {'OK' if status == 200 else 'Refused'}", headers, body)
