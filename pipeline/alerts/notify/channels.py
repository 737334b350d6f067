"""Channels: where notifications go besides Redis, and how each kind is spoken to.

``webhook`` posts the notification as JSON, ``slack`` posts it as Slack and its kin read it, ``email``
sends a mail; ``apprise`` hands it to any of the services that library knows. Each carries the
notification's key, which stays the same when it is sent again: ``Idempotency-Key`` over HTTP,
``Message-ID`` in mails.
"""

from __future__ import annotations

import importlib
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.message import EmailMessage
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline import __version__
from pipeline.alerts.journal.silences import MuteTime
from pipeline.alerts.notify.dispatch import Policy
from pipeline.alerts.notify.payloads import dumps
from pipeline.alerts.rules.matchers import Matcher
from pipeline.base import durations
from pipeline.base.errors import ConfigError, PipelineError
from pipeline.base.nearest import nearest

Body = Mapping[str, Any]

_COLOURS = {"critical": "#c62828", "warning": "#ef6c00", "info": "#1565c0", "resolved": "#2e7d32"}
_SHOWN_AT_ONCE = 20
"""Alerts written out in one message for people; the rest is counted."""


class Undelivered(PipelineError):
    """A channel did not accept a notification; it will be sent again, after a growing pause, under the same key."""


def _as_duration_ms(raw: Any) -> int:
    return 0 if raw == 0 else durations.parse_ms(str(raw))


Duration = Annotated[int, BeforeValidator(_as_duration_ms)]


class Channel(BaseModel):
    """One entry of ``alerts.channels``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    kind: Literal["webhook", "slack", "email", "apprise"]
    url: str = Field("", description="where to post; smtp://host:port or smtps://host:port for email")
    headers: dict[str, str] = Field(default_factory=dict, description="further HTTP headers, as Authorization")
    sender: str = Field("", description="email: From")
    to: list[str] = Field(default_factory=list, description="email: To")
    user: str = Field("", description="email: login, when the server wants one")
    password: str = Field("", description="email: password of that login", repr=False)
    timeout: Duration = Field(10_000, description="a channel that answers no sooner has not accepted")
    group_by: list[str] = Field(default_factory=lambda: ["rule"], description="what is told in one notification")
    group_wait: Duration = Field(30_000, description="how long a new group waits for more")
    group_interval: Duration = Field(300_000, description="how often a group may be told of changes")
    repeat_interval: Duration = Field(4 * 3_600_000, description="how often it is told again while it fires")
    send_resolved: bool = Field(True, description="tell when it is over")
    only: list[str] = Field(default_factory=list, description="matchers; other alerts do not concern this channel")
    mute: list[str] = Field(default_factory=list, description="weekly mute times in UTC, as Sat-Sun or 22:00-06:00")

    @model_validator(mode="after")
    def _makes_sense(self) -> Channel:
        schemes = {"email": ("smtp", "smtps"), "webhook": ("http", "https"), "slack": ("http", "https")}
        expected = schemes.get(self.kind)
        if not self.url or (expected and urlsplit(self.url).scheme not in expected):
            raise ValueError(f"url must begin with {' or '.join(f'{one}://' for one in expected or ('a service',))}")
        if self.kind == "email" and not (self.sender and self.to):
            raise ValueError("an email channel needs 'sender' and 'to'")
        if self.group_interval <= 0:
            raise ValueError("group_interval must be longer than 0")
        for text in self.only:
            Matcher.parse(text)
        for text in self.mute:
            MuteTime.parse(text)
        return self

    @property
    def policy(self) -> Policy:
        """How it wants to be told."""
        return Policy(
            tuple(self.group_by), self.group_wait, self.group_interval, self.repeat_interval, self.send_resolved
        )

    @property
    def matchers(self) -> list[Matcher]:
        """Which alerts concern it."""
        return [Matcher.parse(text) for text in self.only]

    @property
    def mute_times(self) -> list[MuteTime]:
        """When it is not told anything."""
        return [MuteTime.parse(text) for text in self.mute]


def parse_channels(configured: Sequence[Mapping[str, Any]]) -> list[Channel]:
    """Read ``alerts.channels``. Raises ``ConfigError`` naming the channel, the key and the nearest valid name."""
    channels: list[Channel] = []
    for number, given in enumerate(configured):
        place = f"alerts.channels.{given.get('name', number)}"
        for key in given:
            if key not in Channel.model_fields:
                raise ConfigError(f"unknown setting '{place}.{key}'; {nearest(str(key), Channel.model_fields)}")
        try:
            channel = Channel(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join([place, *map(str, first["loc"])])
            raise ConfigError(f"setting '{key}': {first['msg'].removeprefix('Value error, ')}") from None
        if channel.kind == "apprise":
            _apprise()
        if any(other.name == channel.name for other in channels):
            raise ConfigError(f"setting 'alerts.channels': two channels are named {channel.name!r}")
        channels.append(channel)
    return channels


def send(channel: Channel, body: Body, key: str) -> None:
    """Hand a notification over. Raises ``Undelivered`` unless the channel accepted it."""
    try:
        _SENDERS[channel.kind](channel, body, key)
    except Undelivered:
        raise
    except urllib.error.HTTPError as error:
        with error:
            raise Undelivered(f"{channel.name}: HTTP status {error.code}") from None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise Undelivered(f"{channel.name}: {error or type(error).__name__}") from error


def trial(channel: Channel) -> Body:
    """The notification of ``alerts test``: recognisably no alert."""
    alert = {
        "type": "test_notification",
        "test": "pipeline alerts test",
        "state": "firing",
        "severity": "info",
        "rule": "test_notification",
        "message": f"This is a test of the channel {channel.name!r}; nothing is wrong.",
        "labels": {},
    }
    return {
        "channel": channel.name,
        "state": "firing",
        "group": {"rule": "test_notification"},
        "firing": 1,
        "resolved": 0,
        "alerts": [alert],
    }


def title(body: Body) -> str:
    """One line: how many, of what."""
    group = ", ".join(str(value) for value in body["group"].values() if value) or "alerts"
    counts = [f"{body[state]} {state}" for state in ("firing", "resolved") if body[state]]
    return f"[{body['state'].upper()}] {group}: {', '.join(counts)}"


def lines(body: Body) -> list[str]:
    """One line per alert, for people; links where there are any."""
    shown = []
    for alert in body["alerts"][:_SHOWN_AT_ONCE]:
        link = f" {alert['link']}" if alert.get("link") else ""
        shown.append(f"{alert['message']}{link}")
    if len(body["alerts"]) > _SHOWN_AT_ONCE:
        shown.append(f"… and {len(body['alerts']) - _SHOWN_AT_ONCE} more")
    return shown


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A followed redirect becomes a GET without the body, and would look delivered."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _webhook(channel: Channel, body: Body, key: str) -> None:
    _post(channel, {"key": key, **body}, key)


def _slack(channel: Channel, body: Body, key: str) -> None:
    attachments = []
    for alert in body["alerts"][:_SHOWN_AT_ONCE]:
        colour = _COLOURS["resolved" if alert["state"] == "resolved" else alert.get("severity", "info")]
        attachment = {"color": colour, "text": _slack_text(alert["message"]), "fallback": alert["message"]}
        if alert.get("link"):
            attachment |= {"title": alert["rule"], "title_link": alert["link"]}
        attachments.append(attachment)
    more = lines(body)[_SHOWN_AT_ONCE:]
    _post(channel, {"text": _slack_text(" ".join([title(body), *more])), "attachments": attachments}, key)


def _slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _post(channel: Channel, payload: Mapping[str, Any], key: str) -> None:
    request = urllib.request.Request(
        channel.url,
        data=dumps(dict(payload)).encode(),
        method="POST",
        headers={
            "Content-Type": "application/json",
            "User-Agent": f"metrics-pipeline/{__version__}",
            **channel.headers,
            "Idempotency-Key": key,
        },
    )
    with _OPENER.open(request, timeout=channel.timeout / 1000):
        pass


def _email(channel: Channel, body: Body, key: str) -> None:
    server = urlsplit(channel.url)
    message = EmailMessage()
    message["Subject"] = title(body)
    message["From"], message["To"] = channel.sender, ", ".join(channel.to)
    message["Message-ID"] = f"<{key}@{channel.sender.rpartition('@')[2] or 'pipeline'}>"
    message["X-Idempotency-Key"] = key
    message.set_content("\n\n".join(lines(body)) + "\n\n" + json.dumps(body, ensure_ascii=False, indent=2) + "\n")
    timeout_s = channel.timeout / 1000
    host = server.hostname or "localhost"
    if server.scheme == "smtps":
        with smtplib.SMTP_SSL(
            host, server.port or 465, timeout=timeout_s, context=ssl.create_default_context()
        ) as smtp:
            _hand_over(smtp, channel, message)
        return
    with smtplib.SMTP(host, server.port or 25, timeout=timeout_s) as smtp:
        if smtp.has_extn("starttls") or (smtp.ehlo() and smtp.has_extn("starttls")):
            smtp.starttls(context=ssl.create_default_context())
        elif channel.password:
            raise Undelivered(f"{channel.name}: the mail server offers no encryption; the password is not sent")
        _hand_over(smtp, channel, message)


def _hand_over(smtp: smtplib.SMTP, channel: Channel, message: EmailMessage) -> None:
    if channel.user:
        smtp.login(channel.user, channel.password)
    smtp.send_message(message)


def _send_apprise(channel: Channel, body: Body, key: str) -> None:  # noqa: ARG001  apprise has no place for a key
    service = _apprise().Apprise()
    try:
        is_known = service.add(channel.url)
        is_delivered = is_known and service.notify(title=title(body), body="\n".join(lines(body)))
    except Exception as error:  # a hundred services behind one call, each with failures of its own
        raise Undelivered(f"{channel.name}: {error or type(error).__name__}") from error
    if not is_known:
        raise Undelivered(f"{channel.name}: apprise does not know this kind of url")
    if not is_delivered:
        raise Undelivered(f"{channel.name}: apprise could not deliver it")


def _apprise() -> Any:
    try:
        return importlib.import_module("apprise")
    except ImportError:
        raise ConfigError(
            "a channel of kind 'apprise' needs that library: pip install 'metrics-pipeline[notify]'"
        ) from None


_SENDERS: dict[str, Callable[[Channel, Body, str], None]] = {
    "webhook": _webhook,
    "slack": _slack,
    "email": _email,
    "apprise": _send_apprise,
}


def names(channels: Iterable[Channel]) -> list[str]:
    """The channels' names."""
    return [channel.name for channel in channels]
