"""The channels of SEF_NOTIFICATION_URLS: accepted URLs, addresses, log output and threads."""

import logging
import socketserver
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message

import boto3
import pytest
import requests
from apprise import Apprise

from sef.config import Settings
from sef.errors import ConfigurationError
from sef.notifications.channels import Channel, DeliveryFailed, DeliveryRejected, channels
from sef.terms import NotificationKind, NotificationSeverity
from tests.private_server import free_port
from tests.webhook_receiver import Receiver

SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/"
PAGERDUTY = "pagerduty://" + "a" * 20 + "@" + "b" * 32


def channels_of(urls: str, networks: str = "127.0.0.0/8") -> tuple[Channel, ...]:
    return channels(Settings(notification_urls=urls, allowed_private_networks=networks))


def send(
    channel: Channel,
    kind: NotificationKind = NotificationKind.DETECTION,
    severity: str = "warning",
) -> None:
    channel.send(
        "incident-1",
        kind,
        NotificationSeverity(severity),
        "[SEF] web-1: incident-1",
        "It happened.",
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver("a-secret-path")
    yield receiver
    receiver.stop()


def json_url(receiver: Receiver) -> str:
    return receiver.url.replace("http", "json")


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n"])
def test_several_urls_are_separated_by_white_space_or_commas(between: str) -> None:
    result = channels_of(between.join([SLACK, "json://10.0.0.1/a", "json://10.0.0.1/b", PAGERDUTY]))
    assert [channel.name for channel in result] == [
        "slack://T...2",
        "json://10.0.0.1",
        "json://10.0.0.1#2",
        "pagerduty://****",
    ]


def test_an_empty_setting_has_no_channels() -> None:
    assert channels_of("") == channels_of("  ") == ()


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("secret", "must begin with a URL such as slack://..."),
        ("secret json://10.0.0.1", "must begin with a URL such as slack://..."),
        ("nope://secret", "URL 1, nope://...: Apprise does not support it"),
        (f"{SLACK} slack://secret", "URL 2, slack://...: Apprise does not support it"),
        ("json://", "URL 1, json://...: Apprise does not support it"),
        ("file:///secret", "URL 1, file://...: Apprise does not support it"),
        ("syslog://", "URL 1, syslog://...: SEF sends over HTTP and SMTP only"),
        ("dbus://", "URL 1, dbus://"),
        ("rsyslog://secret", "URL 1, rsyslog://...: SEF sends over HTTP and SMTP only"),
        ("ircs://secret/x", "URL 1, ircs://"),
    ],
)
def test_an_unsupported_url_is_reported_by_its_position_without_secrets(
    urls: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        channels_of(urls)
    assert str(caught.value).startswith("SEF_NOTIFICATION_URLS: ")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_message_is_sent_with_title_text_and_type(receiver: Receiver) -> None:
    (channel,) = channels_of(json_url(receiver))
    send(channel)
    ((path, _, body),) = receiver.got
    assert path == "/a-secret-path"
    assert (body["title"], body["message"], body["type"]) == (
        "[SEF] web-1: incident-1",
        "It happened.",
        "warning",
    )


@pytest.mark.parametrize(
    ("kind", "severity", "notify_type"),
    [
        (NotificationKind.RECOMMENDATION, "info", "info"),
        (NotificationKind.DETECTION, "warning", "warning"),
        (NotificationKind.OPERATOR, "error", "failure"),
        (NotificationKind.OUTCOME, "info", "success"),
        (NotificationKind.OUTCOME, "error", "failure"),
    ],
)
def test_the_type_of_a_message_follows_from_its_kind_and_severity(
    receiver: Receiver, kind: NotificationKind, severity: str, notify_type: str
) -> None:
    (channel,) = channels_of(json_url(receiver))
    send(channel, kind, severity)
    assert receiver.got[0][2]["type"] == notify_type


@pytest.mark.parametrize("scheme", ["json", "xml", "form", "gotify", "mmost", "apprise"])
def test_no_service_reaches_a_private_network(receiver: Receiver, scheme: str) -> None:
    token = "" if scheme in ("json", "xml", "form") else "a" * 26
    (channel,) = channels_of(f"{scheme}://127.0.0.1:{receiver.port}/{token}", networks="10.0.0.0/8")
    with pytest.raises(DeliveryRejected, match="SEF_ALLOWED_PRIVATE_NETWORKS"):
        send(channel)
    assert receiver.got == []


def test_no_redirect_is_followed(receiver: Receiver) -> None:
    receiver.status, receiver.location = 307, f"http://127.0.0.1:{receiver.port}/elsewhere"
    (channel,) = channels_of(f"{json_url(receiver)}?redirect=yes")
    with pytest.raises(DeliveryFailed):
        send(channel)
    assert [path for path, _, _ in receiver.got] == ["/a-secret-path"]


def test_other_code_in_the_process_reaches_loopback_addresses(receiver: Receiver) -> None:
    """The simulated EC2 has a loopback address."""
    assert requests.post(receiver.url, json={}, timeout=5).ok
    client = boto3.client(
        "sns",
        endpoint_url=receiver.url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    assert client._endpoint.host == receiver.url
    assert Apprise(json_url(receiver)).notify(body="of another user of Apprise's")
    assert len(receiver.got) == 2


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_failure_gives_the_reason_without_the_secret(
    receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = status
    (channel,) = channels_of(json_url(receiver))
    with caplog.at_level(logging.INFO), pytest.raises(DeliveryFailed, match=str(status)) as caught:
        send(channel)
    assert "a-secret-path" not in f"{caught.value} {caplog.text} {channel!r}"


def test_a_refused_connection_may_be_retried() -> None:
    (channel,) = channels_of(f"json://127.0.0.1:{free_port()}/a-secret-path")
    with pytest.raises(DeliveryFailed) as caught:
        send(channel)
    assert not isinstance(caught.value, DeliveryRejected)
    assert "a-secret-path" not in str(caught.value)


class Mail(socketserver.StreamRequestHandler):
    """The part of SMTP that one message needs."""

    got: list[Message]

    def handle(self) -> None:
        self._say("220 mail.example ESMTP")
        while line := self.rfile.readline().decode().strip().upper():
            if line.startswith("EHLO"):
                self._say("250 mail.example")
            elif line == "DATA":
                self._say("354 continue")
                lines = iter(self.rfile.readline, b".\r\n")
                self.got.append(message_from_bytes(b"".join(lines)))
                self._say("250 accepted")
            elif line == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 yes")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


def test_mails_of_an_incident_are_one_thread() -> None:
    """The mail server may have a private address: most of them have one."""
    got: list[Message] = []
    handler = type("Handler", (Mail,), {"got": got})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_address[1]
        (channel,) = channels_of(
            f"mailto://127.0.0.1:{port}?from=sef@example.com&to=ops@example.com", networks=""
        )
        send(channel)
        send(channel, NotificationKind.OUTCOME, "info")
        server.shutdown()
    assert [mail["Subject"] for mail in got] == ["[SEF] web-1: incident-1"] * 2
    assert [mail["References"] for mail in got] == ["<incident-1@sef.invalid>"] * 2
    assert len({mail["Message-ID"] for mail in got}) == 2
    assert [mail["To"] for mail in got] == ["ops@example.com"] * 2


def sent_as(
    monkeypatch: pytest.MonkeyPatch, urls: str, kind: NotificationKind, severity: str
) -> tuple[str, str]:
    """Return the URL and the body that a service receives."""
    calls: list[tuple[str, str]] = []

    def post(url: str, data: object = None, **more: object) -> requests.Response:
        calls.append((url, str(more.get("params") or "") + str(data)))
        response = requests.Response()
        response.status_code = 202 if "pagerduty" in url or "opsgenie" in url else 200
        response._content = b'{"requestId": "1"}'
        return response

    monkeypatch.setattr(requests, "post", post)
    (channel,) = channels_of(urls)
    send(channel, kind, severity)
    return calls[0]


@pytest.mark.parametrize(
    ("urls", "kind", "severity", "part"),
    [
        (PAGERDUTY, NotificationKind.DETECTION, "warning", '"event_action": "trigger"'),
        (PAGERDUTY, NotificationKind.DETECTION, "warning", '"dedup_key": "incident-1"'),
        (PAGERDUTY, NotificationKind.OUTCOME, "info", '"event_action": "resolve"'),
        (PAGERDUTY, NotificationKind.OUTCOME, "info", '"dedup_key": "incident-1"'),
        (PAGERDUTY, NotificationKind.OUTCOME, "error", '"event_action": "trigger"'),
        (f"{PAGERDUTY}?dedup=mine", NotificationKind.DETECTION, "warning", '"dedup_key": "mine"'),
        ("gchat://space/key/token", NotificationKind.DETECTION, "warning", "incident-1"),
        ("gchat://space/key/token/mine", NotificationKind.DETECTION, "warning", "mine"),
        (
            f"{PAGERDUTY}?action=trigger",
            NotificationKind.OUTCOME,
            "info",
            '"event_action": "trigger"',
        ),
        ("splunk://" + "a" * 10 + "@" + "b" * 36, NotificationKind.OUTCOME, "info", '"incident-1"'),
        ("squadcast://" + "a" * 20, NotificationKind.OUTCOME, "info", '"event_id": "incident-1"'),
        ("opsgenie://a-a-a-a", NotificationKind.OUTCOME, "info", "[SEF] web-1: incident-1"),
    ],
)
def test_messages_of_an_incident_share_the_grouping_key_of_the_service(
    monkeypatch: pytest.MonkeyPatch, urls: str, kind: NotificationKind, severity: str, part: str
) -> None:
    url, body = sent_as(monkeypatch, urls, kind, severity)
    assert part in body, (url, body)


def test_the_repr_of_a_channel_has_no_secret() -> None:
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in repr(channels_of(SLACK))
