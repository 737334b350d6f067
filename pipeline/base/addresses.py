"""Where Redis and ClickHouse are: their URLs, read strictly and by this module alone.

The readers of redis-py and clickhouse-connect accept what they do not understand, and their errors
repeat parts of it. Here everything that is not understood is refused with a sentence that says what
to do and never shows a part of the URL, since any part may belong to a password.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import parse_qsl, unquote

from pipeline.base.nearest import nearest

REDIS_SCHEMES = ("redis", "rediss", "unix")
CLICKHOUSE_SCHEMES = ("http", "https", "chdb")

_HOST = re.compile(r"[\w.-]+")
MAX_TIMEOUT_MS = 3_600_000
"""An hour."""
MAX_CONNECTIONS = 10_000
"""As many as a Redis server takes by default. A pool makes room for all of them when it is opened."""

_DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "http": 8123, "https": 8443}
_TLS_OPTIONS = {
    "ssl_ca_certs": "ca_file",
    "ssl_certfile": "cert_file",
    "ssl_keyfile": "key_file",
    "ssl_check_hostname": "check_hostname",
    "ssl_cert_reqs": "",
}
"""Options of a Redis URL, as redis-py names them, and the setting of redis.tls that each stands for."""

_POOL_OPTIONS = {
    "max_connections": ("max_connections", 1, MAX_CONNECTIONS),
    "socket_timeout": ("socket_timeout_ms", 1000, MAX_TIMEOUT_MS),
    "socket_connect_timeout": ("connection_timeout_ms", 1000, MAX_TIMEOUT_MS),
}
"""The same for redis.pool, the factor from redis-py's unit to the setting's, and the setting's limit."""


@dataclass(frozen=True)
class Address:
    """One server, or one file."""

    scheme: str
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    path: str = ""
    """The socket of ``unix``, the directory of ``chdb``."""
    database: int | None = None
    """Redis only: the database that the URL names."""
    tls: Mapping[str, Any] = field(default_factory=dict)
    """Redis only: settings of ``redis.tls`` that the URL's options give."""
    pool: Mapping[str, int] = field(default_factory=dict)
    """Redis only: settings of ``redis.pool`` that the URL's options give."""

    @property
    def is_encrypted(self) -> bool:
        """Whether the server is spoken to by TLS."""
        return self.scheme in ("rediss", "https")

    @property
    def is_local(self) -> bool:
        """Whether what is sent stays on this machine."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """For people, without user and password."""
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def redis_address(url: str) -> Address:
    """Read ``redis://``, ``rediss://`` or ``unix://``. Raises ``ValueError`` without any part of the URL."""
    scheme, rest = _scheme_and_rest(url, REDIS_SCHEMES)
    login, server, path, options = _parts(rest)
    user, password = _user_and_password(login)
    tls, pool = _redis_options(scheme, options)
    if scheme == "unix":
        if server or not path.startswith("/"):
            raise ValueError("must name the socket by an absolute path, as unix:///run/redis/redis.sock")
        number = _database(options.get("db", ""))
        return Address(scheme, user=user, password=password, path=unquote(path), database=number, tls=tls, pool=pool)
    if "db" in options:
        raise ValueError("has the option 'db'; write the database behind the host, as redis://host:6379/3")
    host, port = _host_and_port(server, _DEFAULT_PORTS[scheme])
    number = _database(path.removeprefix("/"))
    return Address(scheme, host or "localhost", port, user, password, database=number, tls=tls, pool=pool)


def clickhouse_address(dsn: str) -> Address:
    """Read ``http://``, ``https://`` or ``chdb://``. Raises ``ValueError`` without any part of the DSN."""
    scheme, rest = _scheme_and_rest(dsn, CLICKHOUSE_SCHEMES)
    if scheme == "chdb":
        if not rest.startswith("/") or "?" in rest:
            raise ValueError("must name a directory by an absolute path and nothing else, as chdb:///var/lib/pipeline")
        return Address(scheme, path=rest)
    login, server, path, options = _parts(rest)
    if path not in ("", "/"):
        raise ValueError("has a path; the database is a setting of its own: set 'clickhouse.database'")
    if options:
        raise ValueError(
            f"has the option {_name(next(iter(options)))}, but takes none; certificates are settings in "
            "'clickhouse.tls', timeouts are 'clickhouse.connect_timeout_s' and 'clickhouse.request_timeout_s'"
        )
    user, password = _user_and_password(login)
    host, port = _host_and_port(server, _DEFAULT_PORTS[scheme])
    if not host:
        raise ValueError("names no host")
    return Address(scheme, host, port, user, password)


def passwords_in(url: str) -> list[str]:
    """All texts in a URL, readable or not, that may be a secret, to be hidden wherever they turn up.

    What a known option says of certificates and connections is none: a sentence about a file has to name it.
    """
    _, separator, rest = url.partition("://")
    if not separator:
        return [url]
    before, at, _ = rest.rpartition("@")
    _, _, query = rest.partition("?")
    found = [value for name, value in parse_qsl(query) if name not in _TLS_OPTIONS and name not in _POOL_OPTIONS]
    if at:
        user, colon, password = before.partition(":")
        found.append(password if colon else user)
    return [text for text in found if text]


def _scheme_and_rest(url: str, known: Collection[str]) -> tuple[str, str]:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in known:
        raise ValueError(f"must be 'embedded' or start with {' or '.join(f'{one}://' for one in known)}")
    if not rest.isprintable() or re.search(r"\s", rest):
        raise ValueError("holds a blank or a control character; in a password write it percent-encoded, a blank as %20")
    if "#" in rest:
        raise ValueError("holds a '#', which would end the URL there; in a password write it as %23")
    return scheme, rest


def _parts(rest: str) -> tuple[str | None, str, str, dict[str, str]]:
    """User and password, host and port, path, options."""
    login, at, behind = rest.rpartition("@")
    if any(character in login for character in "/?"):
        raise ValueError(
            "holds a '/' or '?' in front of an at sign; in a password write / as %2F, ? as %3F, the at sign as %40"
        )
    before_query, _, query = behind.partition("?")
    server, slash, path = before_query.partition("/")
    return (login if at else None), server, slash + path, _options(query)


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("has options that are not written as ?name=value&name=value") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError("has an option that is given twice")
    return options


def _user_and_password(login: str | None) -> tuple[str, str]:
    user, _, password = (login or "").partition(":")
    try:
        return unquote(user, errors="strict"), unquote(password, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has a user or password with a % that does not stand for UTF-8; write % as %25") from None


def _host_and_port(server: str, default_port: int) -> tuple[str, int]:
    if "," in server:
        raise ValueError("names several servers, but only one can be given")
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", server)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        try:
            IPv6Address(host)
        except ValueError:
            raise ValueError("has no IPv6 address between [ and ]") from None
    elif "[" in server or "]" in server:
        raise ValueError("has an IPv6 address that is not closed; write it as [::1]:6379")
    else:
        host, colon, rest = server.partition(":")
        port = rest if colon else None
        if host and not _HOST.fullmatch(host):
            raise ValueError("has a host name with a character that no host name has")
    if port is None or port == "":
        return host, default_port
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("has a port that is not a number from 1 to 65535; a password ends with an at sign")
    return host, int(port)


def _database(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise ValueError("has a path that is not a database number; write it as redis://host:6379/3")
    return int(text)


def _redis_options(scheme: str, options: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, int]]:
    """The settings of redis.tls and of redis.pool that stand in a URL."""
    known = [*_TLS_OPTIONS, *_POOL_OPTIONS, "db"]
    tls: dict[str, Any] = {}
    pool: dict[str, int] = {}
    for name, value in options.items():
        if name in ("password", "username"):
            raise ValueError(f"has the option {name!r}; write it before the host, as redis://user:password@host:6379")
        if name not in known:
            raise ValueError(f"has the unknown option {_name(name)}; {nearest(name, known)}")
        if name in _POOL_OPTIONS:
            setting, factor, most = _POOL_OPTIONS[name]
            pool[setting] = _positive(name, value, factor, most)
        elif name in _TLS_OPTIONS:
            if scheme != "rediss":
                raise ValueError(f"has the option {name!r}, which needs rediss://")
            tls |= _tls_option(name, value)
    return tls, pool


def _tls_option(name: str, value: str) -> dict[str, Any]:
    if name == "ssl_cert_reqs":
        if value != "required":
            raise ValueError(
                "turns certificate checks off by 'ssl_cert_reqs'; they are always made: "
                "name the CA of the server in 'redis.tls.ca_file'"
            )
        return {}
    if name == "ssl_check_hostname":
        if value.lower() not in ("true", "false"):
            raise ValueError("has the option 'ssl_check_hostname', which must be true or false")
        return {"check_hostname": value.lower() == "true"}
    return {_TLS_OPTIONS[name]: value}


def _positive(name: str, value: str, factor: int, most: int) -> int:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        number = int(float(value) * factor)
        if 0 < number <= most:
            return number
    raise ValueError(f"has the option {name!r}, which must be a number above 0 and at most {most // factor}")


def _name(text: str) -> str:
    """The name of an unknown option, where it looks like one."""
    return repr(text) if re.fullmatch(r"[a-z][a-z_]{0,30}", text) else "(hidden)"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
