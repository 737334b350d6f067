"""Channels: where notifications go besides Redis, and how each kind is spoken to.

``webhook`` posts the notification as JSON, ``slack`` posts it as Slack and its kin read it, ``email``
sends a mail; ``apprise`` hands it to any of the services that library knows. Each carries the
notification's key, which stays the same when it is sent again: ``Idempotency-Key`` over HTTP,
``Message-ID`` in mails.
"""

from __future__ import annotations

import importlib
import json
import re
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
from pipeline.alerts.notify import wording
from pipeline.alerts.notify.deadline import Deadline, Smtp, SmtpOverTls, http_opener, in_thread
from pipeline.alerts.notify.dispatch import Policy
from pipeline.alerts.notify.payloads import dumps
from pipeline.alerts.notify.wording import Body
from pipeline.alerts.rules.matchers import Matcher
from pipeline.base import durations
from pipeline.base.errors import ConfigError, PipelineError
from pipeline.base.nearest import nearest
from pipeline.base.text import masked, printable, remember_secret

_COLOURS = {"critical": "#c62828", "warning": "#ef6c00", "info": "#1565c0", "resolved": "#2e7d32"}
_ANSWER_SHOWN_BYTES = 200
_MOST_DETAILS = 100_000
"""Characters of the evidence in a mail."""


_NAME = re.compile(r"[A-Za-z0-9_-]+")


class Undelivered(PipelineError):
    """A channel did not accept a notification; it will be sent again, after a growing pause, under the same key."""


Duration = Annotated[int, BeforeValidator(durations.read_ms)]


class Channel(BaseModel):
    """One entry of ``alerts.channels``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=rf"^{_NAME.pattern}$")
    kind: Literal["webhook", "slack", "email", "apprise"]
    url: str = Field("", description="where to post; smtp://host:port or smtps://host:port for email")
    headers: dict[str, str] = Field(default_factory=dict, description="further HTTP headers, as Authorization")
    sender: str = Field("", description="email: From")
    to: list[str] = Field(default_factory=list, description="email: To")
    user: str = Field("", description="email: login, when the server wants one")
    password: str = Field("", description="email: password of that login", repr=False)
    timeout: Duration = Field(10_000, description="for a whole request, from the connect to the answer")
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
            raise ValueError(f"the scheme of url must be {' or '.join(expected or ('that of a service',))}")
        if self.kind == "email" and not (self.sender and self.to):
            raise ValueError("an email channel needs 'sender' and 'to'")
        for name in ("group_interval", "timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be longer than 0")
        for text in (self.url, self.sender, *self.to, *self.headers, *self.headers.values()):
            if not text.isprintable():
                raise ValueError("url, headers, sender and to must be printable characters on one line")
        try:
            urlsplit(self.url).port  # noqa: B018  asking for it is the check
        except ValueError:
            raise ValueError("the port in url is not a number up to 65535") from None
        if expected and not urlsplit(self.url).hostname:
            raise ValueError("url names no host")
        for text in self.only:
            Matcher.parse(text)
        for text in self.mute:
            MuteTime.parse(text)
        return self

    @property
    def is_for_people(self) -> bool:
        """Whether people read it, rather than a program."""
        return self.kind != "webhook"

    @property
    def secrets(self) -> list[str]:
        """What of it must not be shown anywhere: passwords, tokens in headers and in the URL."""
        url = urlsplit(self.url)
        hidden = [self.password, url.password or "", url.path.strip("/"), url.query, *self.headers.values()]
        if self.kind == "apprise":
            hidden.append(self.url.partition("://")[2])
        return [secret for secret in hidden if secret]

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
        name = given.get("name", number)
        place = f"alerts.channels.{name if isinstance(name, str) and _NAME.fullmatch(name) else number}"
        for key in given:
            if key not in Channel.model_fields:
                hint = nearest(str(key), Channel.model_fields)
                raise ConfigError(f"unknown setting '{place}.{printable(str(key))}'; {hint}")
        try:
            channel = Channel(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join([place, *map(str, first["loc"])])
            raise ConfigError(f"setting '{key}': {first['msg'].removeprefix('Value error, ')}") from None
        for secret in channel.secrets:
            remember_secret(secret)
        if channel.kind == "apprise":
            _apprise()
        if any(other.name == channel.name for other in channels):
            raise ConfigError(f"setting 'alerts.channels': two channels are named {channel.name!r}")
        channels.append(channel)
    return channels


def send(channel: Channel, body: Body, key: str) -> None:
    """Hand a notification over within ``channel.timeout``. Raises ``Undelivered`` unless the channel accepted it."""
    with Deadline(channel.timeout / 1000) as deadline:
        try:
            _SENDERS[channel.kind](channel, body, key, deadline)
            return
        except Undelivered as error:
            said = str(error)
        except urllib.error.HTTPError as error:
            said = _refusal(error)
        except Exception as error:  # whatever a server answers, it concerns this notification alone
            said = str(error) or type(error).__name__
        if deadline.is_over or deadline.left_s < 0.05:  # the last wait may end a moment before the whole
            said = f"no complete answer within {deadline.timeout_s:g} s"
    raise Undelivered(f"{channel.name}: {masked(printable(said))}")


def _refusal(error: urllib.error.HTTPError) -> str:
    """The status, and the beginning of what the server says about it."""
    with error:
        try:
            answer = error.read(_ANSWER_SHOWN_BYTES)
        except Exception:  # the status says enough
            answer = b""
    words = " ".join(answer.decode(errors="replace").split())
    return f"HTTP status {error.code}{f': {words}' if words else ''}"


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


def _webhook(channel: Channel, body: Body, key: str, deadline: Deadline) -> None:
    _post(channel, {"key": key, **body}, key, deadline)


def _slack(channel: Channel, body: Body, key: str, deadline: Deadline) -> None:
    attachments = []
    for alert in body["alerts"][: wording.SHOWN_AT_ONCE]:
        colour = _COLOURS["resolved" if alert["state"] == "resolved" else alert.get("severity", "info")]
        text = wording.for_slack(alert["message"])
        attachment = {"color": colour, "text": text, "fallback": text, "mrkdwn_in": []}
        if link := wording.link(alert):
            attachment |= {"title": alert["rule"], "title_link": link}
        attachments.append(attachment)
    text = wording.for_slack(" ".join([wording.title(body), *wording.rest(body)]))
    _post(channel, {"text": text, "mrkdwn": False, "attachments": attachments}, key, deadline)


def _post(channel: Channel, payload: Mapping[str, Any], key: str, deadline: Deadline) -> None:
    request = urllib.request.Request(
        channel.url,
        data=dumps(dict(payload)).encode("utf-8", "backslashreplace"),  # half a character as JSON has it
        method="POST",
        headers={
            "Content-Type": "application/json",
            "User-Agent": f"metrics-pipeline/{__version__}",
            **channel.headers,
            "Idempotency-Key": key,
        },
    )
    with http_opener(deadline).open(request, timeout=deadline.left_s):
        pass


def _email(channel: Channel, body: Body, key: str, deadline: Deadline) -> None:
    server = urlsplit(channel.url)
    message = EmailMessage()
    message["Subject"] = wording.for_header(wording.title(body))
    message["From"], message["To"] = channel.sender, ", ".join(channel.to)
    message["Message-ID"] = f"<{key}@{channel.sender.rpartition('@')[2].strip('<> ') or 'pipeline'}>"
    message["X-Idempotency-Key"] = key
    written_out = {**body, "alerts": body["alerts"][: wording.SHOWN_AT_ONCE]}
    details = printable(json.dumps(written_out, ensure_ascii=False, indent=2), keep_lines=True)
    details = wording.shortened(details, _MOST_DETAILS)
    message.set_content("\n\n".join(wording.lines(body)) + "\n\n" + details + "\n")
    host = server.hostname or "localhost"
    if server.scheme == "smtps":
        with SmtpOverTls(deadline, host, server.port or 465) as smtp:
            _hand_over(smtp, channel, message)
        return
    with Smtp(deadline, host, server.port or 25) as smtp:
        if smtp.has_extn("starttls") or (smtp.ehlo() and smtp.has_extn("starttls")):
            smtp.starttls(context=ssl.create_default_context())
        elif channel.password:
            raise Undelivered("the mail server offers no encryption; the password is not sent")
        _hand_over(smtp, channel, message)


def _hand_over(smtp: smtplib.SMTP, channel: Channel, message: EmailMessage) -> None:
    if channel.user:
        smtp.login(channel.user, channel.password)
    smtp.send_message(message)


def _send_apprise(channel: Channel, body: Body, key: str, deadline: Deadline) -> None:  # noqa: ARG001  no place for a key
    service = _apprise().Apprise()
    if not service.add(channel.url):
        raise Undelivered("apprise does not know this kind of url")
    told = {
        "title": wording.without_mentions(wording.for_header(wording.title(body))),
        "body": wording.without_mentions("\n".join(wording.lines(body))),
        "body_format": "text",
    }
    delivered: list[bool] = []
    in_thread(
        lambda: delivered.append(bool(service.notify(**told))), deadline.timeout_s, name=f"apprise-{channel.name}"
    )
    if not all(delivered):
        raise Undelivered("apprise could not deliver it")


def _apprise() -> Any:
    try:
        return importlib.import_module("apprise")
    except ImportError:
        raise ConfigError(
            "a channel of kind 'apprise' needs that library: pip install 'metrics-pipeline[notify]'"
        ) from None


_SENDERS: dict[str, Callable[[Channel, Body, str, Deadline], None]] = {
    "webhook": _webhook,
    "slack": _slack,
    "email": _email,
    "apprise": _send_apprise,
}


def names(channels: Iterable[Channel]) -> list[str]:
    """The channels' names."""
    return [channel.name for channel in channels]
