"""The channels that people are told on: Apprise's services, with their sockets checked.

Slack, e-mail, PagerDuty, SNS and whatever else Apprise reaches over HTTP; each is a URL in the
setting. A URL is mostly a secret: what is shown, logged and stored is the name of a channel.
"""

import logging
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import urllib3.util.connection
from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType
from apprise.plugins import NotifyBase
from apprise.plugins.custom_form import NotifyForm
from apprise.plugins.custom_json import NotifyJSON
from apprise.plugins.custom_xml import NotifyXML
from apprise.plugins.email.base import NotifyEmail
from apprise.plugins.google_chat import NotifyGoogleChat
from apprise.plugins.jira import NotifyJira
from apprise.plugins.opsgenie import NotifyOpsgenie
from apprise.plugins.splunk import NotifySplunk
from apprise.utils.parse import parse_urls

from sef import failpoints
from sef.config import Settings
from sef.errors import ConfigurationError
from sef.notifications.outbound import CheckedPolicy, Network, PermanentHttpError
from sef.terms import NotificationKind, NotificationSeverity

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
NAME_LENGTH = 140
_TYPES = {
    NotificationSeverity.INFO: NotifyType.INFO,
    NotificationSeverity.WARNING: NotifyType.WARNING,
    NotificationSeverity.ERROR: NotifyType.FAILURE,
}


class DeliveryFailed(Exception):
    """A message did not go, or is not known to have gone; the reason is without secrets."""


class DeliveryRejected(DeliveryFailed):
    """It will not go later either: the channel is at an address that SEF does not call."""


@dataclass(frozen=True, slots=True)
class Channel:
    name: str
    """The service and its host as Apprise shows them without secrets; unique, and stable."""
    _url: str = field(repr=False)
    _networks: Sequence[Network] = ()

    def send(
        self,
        thread: str,
        kind: NotificationKind,
        severity: NotificationSeverity,
        title: str,
        body: str,
    ) -> None:
        """Send one message now.

        Raises:
            NotSent: it did not go, or nobody knows.
            NeverSent: it will not go later either.
        """
        plugin = _plugin(self._url)
        assert plugin is not None
        _join_thread(plugin, thread, self._url)
        notify_type = _TYPES[severity]
        if kind is NotificationKind.OUTCOME and severity is NotificationSeverity.INFO:
            notify_type = NotifyType.SUCCESS
        with failpoints.failpoint("Message"), _checked(self._networks), _listening() as said:
            try:
                went = plugin.notify(
                    body=body, title=title, notify_type=notify_type, body_format=NotifyFormat.TEXT
                )
            except PermanentHttpError as error:
                raise DeliveryRejected(str(error)) from None
            except Exception as error:
                # Whatever a plugin trips over stops this message on this channel, and no other.
                raise DeliveryFailed(f"{type(error).__name__}: {self._clean(str(error))}") from None
        if not went:
            raise DeliveryFailed(self._clean("; ".join(said)) or "the service did not take it")

    def _clean(self, text: str) -> str:
        """Without the parts of the URL that Apprise would not show."""
        plugin = _plugin(self._url)
        shown = plugin.url(privacy=True) if plugin else ""
        if isinstance(plugin, NotifyJSON | NotifyXML | NotifyForm):
            shown = self.name  # Apprise shows their paths
        for part in re.split(r"[/@:?&=]+", unquote(self._url)):
            if len(part) > 3 and part not in shown:
                text = text.replace(part, "...")
        return text[:500]


def channels(settings: Settings) -> tuple[Channel, ...]:
    """The channels of `SEF_NOTIFICATION_URLS`, in its order.

    Raises:
        ConfigurationError: one that Apprise does not know or SEF does not use, by its place and
            service, for the rest of it is a secret.
    """
    if settings.notification_urls.strip() and not re.match(
        r"\s*[\w.+-]+://", settings.notification_urls
    ):
        raise ConfigurationError(
            "SEF_NOTIFICATION_URLS: it does not begin with a URL such as slack://..."
        )
    found: list[Channel] = []
    for place, url in enumerate(parse_urls(settings.notification_urls), 1):
        name = _name(url, place)
        alike = sum(channel.name.partition("#")[0] == name for channel in found)
        unique = f"{name}#{alike + 1}" if alike else name
        found.append(Channel(unique, url, settings.webhook_network_list))
    return tuple(found)


def _name(url: str, place: int) -> str:
    scheme = url.partition("://")[0]
    plugin = _plugin(url)
    if plugin is None:
        raise ConfigurationError(
            f"SEF_NOTIFICATION_URLS: URL {place}, {scheme}://..., is none that Apprise can use"
        )
    if not _is_checkable(plugin):
        raise ConfigurationError(
            f"SEF_NOTIFICATION_URLS: URL {place}, {scheme}://...: SEF sends over HTTP and SMTP only"
        )
    host = urlsplit(plugin.url(privacy=True)).netloc.rpartition("@")[2]
    return f"{scheme}://{host}"[:NAME_LENGTH]


def _is_checkable(plugin: NotifyBase) -> bool:
    """Whether it speaks HTTP by requests, whose sockets SEF checks, or SMTP.

    What is left out shows messages on a desktop, writes to a log of this host, or opens sockets in
    a way of its own.
    """
    modules = [sys.modules[kind.__module__] for kind in type(plugin).__mro__]
    return isinstance(plugin, NotifyEmail) or any(
        module.__name__.startswith("apprise.plugins.") and hasattr(module, "requests")
        for module in modules
    )


def _plugin(url: str) -> NotifyBase | None:
    """A plugin of its own for each message, since a thread is set in it."""
    with _listening():
        plugin = Apprise.instantiate(url, asset=AppriseAsset(http_redirects=False))
    if plugin is not None:
        plugin.redirects = False
        plugin.socket_connect_timeout = min(plugin.socket_connect_timeout, CONNECT_SECONDS)
        plugin.socket_read_timeout = min(plugin.socket_read_timeout, READ_SECONDS)
    return plugin


def _join_thread(plugin: Any, thread: str, url: str) -> None:
    """Set the key by which the service puts messages together, where there is one.

    What the URL sets itself stands. Services without a key get the same title for all messages of
    an incident, and no more.
    """
    has_action = "action" in parse_qs(urlsplit(url).query)
    for key in ("dedup", "external_id"):  # PagerDuty and its like; SIGNL4
        if getattr(plugin, key, "") is None:
            setattr(plugin, key, thread)
            if getattr(plugin, "action", None) == "trigger" and not has_action:
                plugin.action = "map"  # an outcome resolves what the detection triggered
    match plugin:
        case NotifySplunk() if plugin.entity_id == f"{plugin.app_id}/{plugin.routing_key}":
            plugin.entity_id = thread
        case NotifyOpsgenie() | NotifyJira() if not has_action:
            # Their map remembers in this process what to close, and drops what it cannot find.
            plugin.action = "new"
        case NotifyGoogleChat(thread_key=None):
            plugin.thread_key = thread
        case NotifyEmail():
            # Mail programs thread by References; that the first message is none they have is
            # allowed (RFC 5322, 3.6.4).
            plugin.headers.setdefault("References", f"<{thread}@sef.invalid>")


# Apprise's sockets. Its plugins call requests.post, which leaves no room for an adapter; so the one
# function that opens urllib3's sockets asks whether this thread is sending. Every other user of
# urllib3 in the process, such as boto3, is served as before.

_networks_here: ContextVar[Sequence[Network] | None] = ContextVar("sef_networks", default=None)
_said_here: ContextVar[list[str] | None] = ContextVar("sef_said", default=None)
_create_connection = urllib3.util.connection.create_connection


def _create_checked_connection(address: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
    networks = _networks_here.get()
    if networks is None:
        return _create_connection(address, *rest, **more)
    host, port = address
    policy = CheckedPolicy(networks, CONNECT_SECONDS)
    opened: socket.socket = policy.create_connection(  # type: ignore[no-untyped-call]
        host.strip("[]"), port, *rest, **more
    )
    return opened


urllib3.util.connection.create_connection = _create_checked_connection


@contextmanager
def _checked(networks: Sequence[Network]) -> Iterator[None]:
    token = _networks_here.set(networks)
    try:
        yield
    finally:
        _networks_here.reset(token)


# What Apprise logs while SEF sends is the reason of a failure, and may hold secrets: it is taken
# out of the log. What another user of Apprise in this process logs is left alone.


@contextmanager
def _listening() -> Iterator[list[str]]:
    said: list[str] = []
    token = _said_here.set(said)
    try:
        yield said
    finally:
        _said_here.reset(token)


def _take_from_log(record: logging.LogRecord) -> bool:
    said = _said_here.get()
    if said is None:
        return True
    if record.levelno >= logging.WARNING:
        said.append(record.getMessage())
    return False


logging.getLogger("apprise").addFilter(_take_from_log)
