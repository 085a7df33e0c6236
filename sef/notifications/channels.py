"""The channels of notifications: services of Apprise, with their sockets checked.

Slack, e-mail, PagerDuty, SNS and every other service that Apprise reaches over HTTP; each is a URL
in the setting. A URL is normally a secret, so SEF shows, logs and stores only the channel's name.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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
from sef.notifications.apprise_guard import CONNECT_SECONDS, captured_log, checked_sockets
from sef.notifications.outbound import Network, PermanentHttpError
from sef.terms import NotificationKind, NotificationSeverity

READ_SECONDS = 10.0
"""Time limit for the answer of a channel."""
NAME_LENGTH = 140
"""Maximum length of the name of a channel."""
_TYPES = {
    NotificationSeverity.INFO: NotifyType.INFO,
    NotificationSeverity.WARNING: NotifyType.WARNING,
    NotificationSeverity.ERROR: NotifyType.FAILURE,
}


class DeliveryFailed(Exception):
    """A message was not sent, or may not have been; the text contains no secrets."""


class DeliveryRejected(DeliveryFailed):
    """A retry would fail too: the channel is at an address that is not allowed."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A destination of notifications.

    Attributes:
        name: the service and its host, as Apprise shows them without secrets; unique and stable.
    """

    name: str
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

        Args:
            thread: the key that groups messages, if the service has such a key.

        Raises:
            DeliveryFailed: the message was not sent, or may not have been.
            DeliveryRejected: a retry would fail too.
        """
        plugin = _plugin(self._url)
        assert plugin is not None
        _join_thread(plugin, thread, self._url)
        notify_type = _TYPES[severity]
        if kind is NotificationKind.OUTCOME and severity is NotificationSeverity.INFO:
            notify_type = NotifyType.SUCCESS
        with (
            failpoints.failpoint("Message"),
            checked_sockets(self._networks),
            captured_log() as warnings,
        ):
            try:
                is_sent = plugin.notify(
                    body=body, title=title, notify_type=notify_type, body_format=NotifyFormat.TEXT
                )
            except PermanentHttpError as error:
                raise DeliveryRejected(str(error)) from None
            except Exception as error:
                # A defect of a plugin must fail this message only, so its errors are not passed on.
                raise DeliveryFailed(
                    f"{type(error).__name__}: {self._without_secrets(str(error))}"
                ) from None
        if not is_sent:
            reason = self._without_secrets("; ".join(warnings))
            raise DeliveryFailed(reason or "the service did not accept the message")

    def _without_secrets(self, text: str) -> str:
        """Return the text without the parts of the URL that Apprise would not show."""
        plugin = _plugin(self._url)
        shown = plugin.url(privacy=True) if plugin else ""
        if isinstance(plugin, NotifyJSON | NotifyXML | NotifyForm):
            shown = self.name  # Apprise shows their paths
        for part in re.split(r"[/@:?&=]+", unquote(self._url)):
            if len(part) > 3 and part not in shown:
                text = text.replace(part, "...")
        return text[:500]


def channels(settings: Settings) -> tuple[Channel, ...]:
    """Return the channels of `SEF_NOTIFICATION_URLS`, in order.

    Raises:
        ConfigurationError: Apprise or SEF does not support a URL. The message gives its position
            and service only, because the rest of it is a secret.
    """
    if settings.notification_urls.strip() and not re.match(
        r"\s*[\w.+-]+://", settings.notification_urls
    ):
        raise ConfigurationError("SEF_NOTIFICATION_URLS: must begin with a URL such as slack://...")
    result: list[Channel] = []
    for position, url in enumerate(parse_urls(settings.notification_urls), 1):
        name = _name(url, position)
        namesakes = sum(channel.name.partition("#")[0] == name for channel in result)
        unique_name = f"{name}#{namesakes + 1}" if namesakes else name
        result.append(Channel(unique_name, url, settings.webhook_network_list))
    return tuple(result)


def _name(url: str, position: int) -> str:
    scheme = url.partition("://")[0]
    plugin = _plugin(url)
    if plugin is None:
        raise ConfigurationError(
            f"SEF_NOTIFICATION_URLS: URL {position}, {scheme}://...: Apprise does not support it"
        )
    if not _is_checkable(plugin):
        raise ConfigurationError(
            f"SEF_NOTIFICATION_URLS: URL {position}, {scheme}://...: "
            "SEF sends over HTTP and SMTP only"
        )
    host = urlsplit(plugin.url(privacy=True)).netloc.rpartition("@")[2]
    return f"{scheme}://{host}"[:NAME_LENGTH]


def _is_checkable(plugin: NotifyBase) -> bool:
    """Return True if the plugin sends by SMTP, or by HTTP through requests with checked sockets.

    Other plugins show messages on a desktop, write to a log of this host, or open sockets without
    requests, so SEF cannot check the addresses.
    """
    modules = [sys.modules[kind.__module__] for kind in type(plugin).__mro__]
    return isinstance(plugin, NotifyEmail) or any(
        module.__name__.startswith("apprise.plugins.") and hasattr(module, "requests")
        for module in modules
    )


def _plugin(url: str) -> NotifyBase | None:
    """Create the plugin of a URL; every message gets its own, because its thread is set in it."""
    with captured_log():
        plugin = Apprise.instantiate(url, asset=AppriseAsset(http_redirects=False))
    if plugin is not None:
        plugin.redirects = False
        plugin.socket_connect_timeout = min(plugin.socket_connect_timeout, CONNECT_SECONDS)
        plugin.socket_read_timeout = min(plugin.socket_read_timeout, READ_SECONDS)
    return plugin


def _join_thread(plugin: Any, thread: str, url: str) -> None:
    """Set the key by which the service groups messages, if it has one.

    A key or an action that the URL sets is kept. A service without a key only gets the same title
    for all messages of an incident.
    """
    has_action = "action" in parse_qs(urlsplit(url).query)
    for key in ("dedup", "external_id"):  # PagerDuty and its like; SIGNL4
        if getattr(plugin, key, "") is None:
            setattr(plugin, key, thread)
            if getattr(plugin, "action", None) == "trigger" and not has_action:
                plugin.action = "map"  # the outcome resolves the alert of the detection
    match plugin:
        case NotifySplunk() if plugin.entity_id == f"{plugin.app_id}/{plugin.routing_key}":
            plugin.entity_id = thread
        case NotifyOpsgenie() | NotifyJira() if not has_action:
            # Their "map" remembers in this process which alert to close, and drops a message whose
            # alert it does not find.
            plugin.action = "new"
        case NotifyGoogleChat(thread_key=None):
            plugin.thread_key = thread
        case NotifyEmail():
            # Mail programs thread by References, which may name a message that was never sent (RFC
            # 5322, 3.6.4).
            plugin.headers.setdefault("References", f"<{thread}@sef.invalid>")
