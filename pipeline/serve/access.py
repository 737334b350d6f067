"""Who may ask: own names only, no pages of other origins, and credentials where there are any.

A browser that was led to this machine by a foreign name (DNS rebinding) says that name in ``Host``; a
foreign page that sends requests here says itself in ``Origin`` or ``Sec-Fetch-Site``. Both are refused
before anything is read. Credentials are a token (bearer), or a user with a password (basic, and
ClickHouse's headers and URL parameters); commands of this machine show a secret that only the same
user can read. All of them are compared in constant time. Without configured credentials every client that
reaches the port may ask, which is why ``require_credentials`` refuses to listen beyond loopback then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipeline.base.addresses import is_loopback
from pipeline.base.config import WebSettings
from pipeline.base.errors import ConfigError
from pipeline.base.measures import HTTP_REFUSED

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "pipeline_login"

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORT = 80


@dataclass(frozen=True)
class AccessRefusal:
    """Why a request is not answered, as its sender reads it."""

    kind: Literal["malformed", "host", "origin", "unknown", "wrong"]
    why: str

    @property
    def status(self) -> int:
        """400, 401 (nothing was shown) or 403."""
        return {"malformed": 400, "unknown": 401}.get(self.kind, 403)


@dataclass(frozen=True)
class Names:
    """The names under which a port may be asked for."""

    host: str
    port: int
    extra: Sequence[str] = ()

    def knows(self, host_header: str) -> bool:
        """Whether ``Host`` names this port; ``web.names`` may stand before a proxy and so have any port or none."""
        name, port = _split(host_header)
        if name in self.extra or host_header.lower() in self.extra:
            return True
        if port not in (self.port, None):
            return False
        if name in _LOOPBACK_NAMES or name == self.host.lower():
            return name not in ("0.0.0.0", "::", "")
        if is_loopback(self.host):
            return False
        # Beyond loopback: a numeric address cannot be rebound by DNS, and the machine has a name.
        return _is_address(name) or name in (socket.gethostname().lower(), socket.getfqdn().lower())


@dataclass(frozen=True)
class Credentials:
    """What is accepted; empty means not configured."""

    token: str = ""
    user: str = ""
    password: str = ""
    local_secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, web: WebSettings, local_secret: str = "") -> Credentials:
        """The configured ones, and the secret of this machine's commands."""
        return cls(web.token, web.user, web.password, local_secret)

    @property
    def are_required(self) -> bool:
        """Whether there are any."""
        return bool(self.token or self.password)

    @property
    def cookie(self) -> str:
        """What the page's login cookie holds: proves that credentials were shown without being them."""
        secret = "\0".join((self.token, self.user, self.password)) if self.are_required else self.local_secret
        return hmac.new(secret.encode(), b"pipeline page login", hashlib.sha256).hexdigest() if secret else ""

    def accept(self, shown: ShownCredentials) -> bool:
        """Whether one of the ways holds. Takes the same time whatever was shown."""
        ways = [
            same_text(shown.bearer, self.token),
            same_text(shown.bearer, self.local_secret),
            same_text(shown.user, self.user) & same_text(shown.password, self.password),
            same_text(shown.cookie, self.cookie),
        ]
        return any(ways)


@dataclass(frozen=True)
class ShownCredentials:
    """What a request shows of itself."""

    bearer: str = ""
    user: str = ""
    password: str = ""
    cookie: str = ""

    @classmethod
    def by(cls, request: Request, *, parameters: bool) -> ShownCredentials:
        """Read from the headers, and from the address where ``parameters`` are a way to show a password."""
        headers = request.headers
        kind, _, value = headers.get("authorization", "").partition(" ")
        user, password = headers.get("x-clickhouse-user", ""), headers.get("x-clickhouse-key", "")
        if kind.lower() == "basic":
            user, password = _basic(value)
        elif parameters and not user and not password:
            user, password = request.query_params.get("user", ""), request.query_params.get("password", "")
        bearer = value.strip() if kind.lower() == "bearer" else ""
        return cls(bearer, user or ("default" if password else ""), password, request.cookies.get(COOKIE, ""))

    @property
    def is_nothing(self) -> bool:
        """Whether no way was tried."""
        return not (self.bearer or self.password or self.cookie)


def two_lengths(headers: Mapping[str, str]) -> AccessRefusal | None:
    """Refuses a body whose end a proxy before this server may see elsewhere: what follows would be a second request."""
    if "content-length" in headers and "transfer-encoding" in headers:
        return AccessRefusal("malformed", "A request has either a Content-Length or a Transfer-Encoding, not both.")
    return None


def judge(
    request: Request, names: Names, credentials: Credentials, *, is_open: bool, parameters: bool
) -> AccessRefusal | None:
    """Why this request is refused; None if it is not."""
    headers = request.headers
    host = headers.get("host", "")
    if not names.knows(host):
        return AccessRefusal("host", "The Host header is not a name of this server; see the setting web.names.")
    if not is_same_origin(headers):
        return AccessRefusal("origin", "Pages of other origins may not ask here.")
    if is_open or not credentials.are_required:
        return None
    shown = ShownCredentials.by(request, parameters=parameters)
    if credentials.accept(shown):
        return None
    if shown.is_nothing:
        return AccessRefusal(
            "unknown", "Credentials are required: the token, or user and password, of the settings web.*."
        )
    return AccessRefusal("wrong", "The credentials are wrong.")


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether the request comes from no page of another origin; following a link from one is allowed."""
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        return False
    site = headers.get("sec-fetch-site", "none")
    follows_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return site in ("none", "same-origin") or (follows_link and origin is None)


def require_credentials(web: WebSettings) -> None:
    """Raise ``ConfigError`` for half of a pair, and where the network could ask without credentials."""
    if bool(web.user) != bool(web.password):
        there, lacking = ("user", "password") if web.user else ("password", "user")
        raise ConfigError(f"setting 'web.{there}' goes with 'web.{lacking}', which is empty: set both or neither")
    if not is_loopback(web.host) and not Credentials.of(web).are_required:
        raise ConfigError(
            f"setting 'web.host' has the value {web.host!r}, which other machines can reach, and there are no "
            "credentials: set 'web.token', or 'web.user' and 'web.password', or listen on 127.0.0.1"
        )


class Access:
    """ASGI: lets through what ``judge`` does not refuse; ``explain`` says a refusal as the port's clients expect it."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: str,
        credentials: Credentials,
        explain: Callable[[AccessRefusal], Response],
        names: Callable[[], Names],
        open_paths: frozenset[str] = frozenset(),
        open_prefixes: tuple[str, ...] = (),
        exempt_paths: frozenset[str] = frozenset(),
        parameters: bool = False,
    ) -> None:
        self._app = app
        self._port = port
        self._credentials = credentials
        self._explain = explain
        self._names = names
        self._open = open_paths
        self._open_prefixes = open_prefixes
        self._exempt = exempt_paths
        self._parameters = parameters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request."""
        if scope["type"] == "http":
            from starlette.requests import Request  # ``pipeline validate`` checks credentials without a server

            request = Request(scope, receive)
            refusal = two_lengths(request.headers)
            if refusal is None and scope["path"] not in self._exempt:
                refusal = judge(
                    request,
                    self._names(),
                    self._credentials,
                    is_open=scope["path"] in self._open or scope["path"].startswith(self._open_prefixes),
                    parameters=self._parameters,
                )
            if refusal is not None:
                HTTP_REFUSED.labels(self._port, refusal.kind).inc()
                response = self._explain(refusal)
                # What it may still be sending is not read.
                response.headers["Connection"] = "close"
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def same_text(shown: str, expected: str) -> bool:
    """Whether both are equal and not empty, in a time that tells nothing of either."""
    digests = [hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in (shown, expected)]
    return hmac.compare_digest(*digests) & bool(expected)


def _basic(value: str) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _split(host_header: str) -> tuple[str, int | None]:
    """Name and port of a Host header; the port is None where it is left out, -1 where it is none."""
    text = host_header.strip().lower()
    if text.startswith("["):
        name, closing, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if closing else "?"
    else:
        name, _, port = text.partition(":")
    if not port:
        return name.rstrip("."), None
    return name.rstrip("."), int(port) if port.isascii() and port.isdigit() else -1


def _is_address(name: str) -> bool:
    try:
        return not ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False
