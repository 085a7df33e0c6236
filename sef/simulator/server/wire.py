"""Read requests to AWS services, and build answers: refusals, pages, answers without elements."""

import io
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from sef.simulator.server.faults import Error

DEFAULT_REGION = "us-east-1"
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
TOKEN_AFTER_EMPTY_PAGE = "simulated-after-empty-page"

_READ_PREFIXES = ("Describe", "Get", "List", "Search")
_FORM = "application/x-www-form-urlencoded"

ElementTree.register_namespace("", NAMESPACE)


@dataclass(frozen=True, slots=True)
class Call:
    """A request to an AWS service, with everything that is needed to repeat it."""

    method: str
    path: str
    query: str
    body: str
    service: str
    region: str
    headers: Mapping[str, str]
    """The content type; for services other than EC2 also the other headers, with WSGI's names."""

    @classmethod
    def read(cls, environ: Mapping[str, Any]) -> "Call":
        length = int(environ.get("CONTENT_LENGTH") or 0)
        region, service = _credential_scope(environ.get("HTTP_AUTHORIZATION", ""))
        headers = {"CONTENT_TYPE": environ.get("CONTENT_TYPE", "")}
        if service != "ec2":
            headers |= {k: v for k, v in environ.items() if k.startswith("HTTP_") or k == "RAW_URI"}
            headers.pop("HTTP_AUTHORIZATION", None)
            headers.pop("HTTP_X_AMZ_SECURITY_TOKEN", None)
        return cls(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", "/"),
            query=environ.get("QUERY_STRING", ""),
            # Latin-1 maps every byte to a character, so the body fits into a JSON journal.
            body=environ["wsgi.input"].read(length).decode("latin-1"),
            service=service,
            region=region,
            headers=headers,
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
        """The ids of all instances that the call names."""
        return frozenset(value for value in self.form.values() if value.startswith("i-"))

    @property
    def only_reads(self) -> bool:
        action = self.action
        return action.startswith(_READ_PREFIXES) if action else self.method in ("GET", "HEAD")

    def environ(self, form: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the request for WSGI, with another form as its body if one is given."""
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
    """An HTTP answer."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes


class Pages:
    """DescribeInstances in pages of `size` reservations; with 0, after an empty first page."""

    def __init__(self, call: Call, size: int | None) -> None:
        form = call.form
        self._empty = size == 0 and "NextToken" not in form
        self.call = call
        if form.get("NextToken") == TOKEN_AFTER_EMPTY_PAGE:
            del form["NextToken"]
            self.call = replace(call, body=urlencode(form))
        elif size and call.action == "DescribeInstances" and "InstanceId.1" not in form:
            self.call = replace(call, body=urlencode(form | {"MaxResults": str(size)}))

    def page_of(self, answer: Answer) -> Answer:
        """Return the page for the answer to `self.call`."""
        if not self._empty or self.call.action != "DescribeInstances":
            return answer
        emptied = ElementTree.fromstring(without(answer, {"item", "nextToken"}).body)
        ElementTree.SubElement(emptied, f"{{{NAMESPACE}}}nextToken").text = TOKEN_AFTER_EMPTY_PAGE
        return xml(ElementTree.tostring(emptied, encoding="unicode"))


def without(answer: Answer, names: Collection[str]) -> Answer:
    """Return the answer without the elements of these names."""
    if not names or not answer.status.startswith("200"):
        return answer
    root = ElementTree.fromstring(answer.body)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in names:
                parent.remove(child)
    return xml(ElementTree.tostring(root, encoding="unicode"))


def refusal(error: Error, service: str = "ec2") -> Answer:
    """Return an error in the XML of EC2 or, for another service, of the AWS query protocol."""
    details = (
        f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        "</Error>"
    )
    if service == "ec2":
        body = f"<Response><Errors>{details}</Errors><RequestID>simulated</RequestID></Response>"
    else:
        body = f"<ErrorResponse>{details}<RequestId>simulated</RequestId></ErrorResponse>"
    return xml(f'<?xml version="1.0" encoding="UTF-8"?>{body}', error.status)


def xml(text: str, status: int = 200) -> Answer:
    body = text.encode()
    headers = [("Content-Type", "text/xml;charset=UTF-8"), ("Content-Length", str(len(body)))]
    return Answer(f"{status} {'OK' if status == 200 else 'Refused'}", headers, body)


def _route53_action(method: str, path: str, body: str) -> str:
    """Return the action that Route 53 derives from method and path, or that a body names."""
    if method == "GET" and path.rstrip("/").endswith("/rrset"):
        return "ListResourceRecordSets"
    if method == "GET" and re.fullmatch(r"/[^/]+/hostedzone/[^/]+/?", path):
        return "GetHostedZone"
    request = re.search(r"<(\w+)Request[ >]", body)
    return request[1] if request else ""


def _credential_scope(authorization: str) -> tuple[str, str]:
    """Return region and service of a signature's scope. The signature itself is not checked."""
    scope = authorization.partition("Credential=")[2].partition(",")[0].split("/")
    return (scope[2], scope[3].lower()) if len(scope) == 5 else (DEFAULT_REGION, "ec2")
