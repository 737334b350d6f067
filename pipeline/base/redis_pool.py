"""Pools of connections to one database of a Redis server, by TCP, TLS or a socket file.

Every option of a connection is said here, none is left to what a URL may smuggle into redis-py. A command
is never sent twice: what goes wrong is for ``redis_link`` to tell apart, and for the caller to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.base import tls
from pipeline.base.addresses import Address
from pipeline.base.config import RedisPool, TlsSettings

HEALTH_CHECK_INTERVAL_S = 30


def connection_pool(
    address: Address,
    number: int,
    pool: RedisPool,
    certificates: TlsSettings | None = None,
    *,
    names: Sequence[str] = (),
) -> redis.BlockingConnectionPool:
    """A pool for database ``number``, known to the settings by ``names``; it never resends a command.

    Raises ``ConfigError`` when a certificate's file cannot be used.
    """
    where: dict[str, Any] = {"username": address.user or None, "password": address.password or None}
    kind: Any = redis.Connection
    if address.scheme == "unix":
        kind = redis.UnixDomainSocketConnection
        where["path"] = address.path
    else:
        where |= {"host": address.host, "port": address.port}
    if address.scheme == "rediss":
        kind = redis.SSLConnection
        where |= tls_options(tls_settings(address, certificates or TlsSettings()))
    options = pool_options(pool.model_copy(update=dict(address.pool)), names)
    return redis.BlockingConnectionPool(connection_class=kind, db=number, **where, **options)  # type: ignore[no-untyped-call]


def pool_options(pool: RedisPool, names: Sequence[str]) -> dict[str, Any]:
    """What holds for every connection, wherever it leads."""
    return {
        "max_connections": pool.max_connections,
        "timeout": pool.connection_timeout_ms / 1000,
        "socket_connect_timeout": pool.connection_timeout_ms / 1000,
        "socket_timeout": pool.socket_timeout_ms / 1000,
        "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
        # RESP2: same replies from every server since 2.0, no handshake, no maintenance push messages.
        "protocol": 2,
        "client_name": "metrics-pipeline",
        "redis_connect_func": partial(_greet, names=tuple(names)),
    }


def tls_settings(address: Address, certificates: TlsSettings) -> TlsSettings:
    """The certificates of the settings, but for what the URL says itself; checked.

    Raises ``ConfigError`` when a file cannot be used.
    """
    chosen = certificates.model_copy(update=dict(address.tls))
    tls.check_files(chosen, "redis.tls")
    return chosen


def tls_options(certificates: TlsSettings) -> dict[str, Any]:
    """The same as redis-py names them. It reads the files again for every connection."""
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": certificates.check_hostname,
        "ssl_ca_certs": certificates.ca_file or None,
        "ssl_certfile": certificates.cert_file or None,
        "ssl_keyfile": certificates.key_file or certificates.cert_file or None,
    }


def url_of(address: Address, number: int, certificates: TlsSettings) -> str:
    """The address of a database for other processes, with the password, when there is one."""
    login = ""
    if address.user or address.password:
        password = f":{quote(address.password, safe='')}" if address.password else ""
        login = f"{quote(address.user, safe='')}{password}@"
    if address.scheme == "unix":
        return f"unix://{login}{quote(address.path)}?db={number}"
    chosen = tls_options(certificates.model_copy(update=dict(address.tls))) if address.scheme == "rediss" else {}
    options = [
        f"{name}={quote(str(value).lower() if isinstance(value, bool) else value, safe='')}"
        for name, value in chosen.items()
        if value is not None
    ]
    return f"{address.scheme}://{login}{address}/{number}" + ("?" + "&".join(options) if options else "")


class WrongDatabase(redis.ResponseError):
    """The server does not have a database of this number; the sentence names setting and server."""


def _greet(connection: redis.Connection, *, names: tuple[str, ...]) -> None:
    """Log in and select the database."""
    try:
        connection.on_connect()  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        if "DB index is out of range" in str(error):
            raise WrongDatabase(_no_such_database(connection, names)) from None
        if "SELECT is not allowed in cluster mode" in str(error):
            raise WrongDatabase(
                "this Redis is a cluster, which has only database 0: set every redis.databases.* to 0"
            ) from None
        raise


def _databases_of(connection: redis.Connection) -> int:
    """How many databases the server has; 0 when it does not tell."""
    try:
        connection.send_command("CONFIG", "GET", "databases", check_health=False)  # type: ignore[no-untyped-call]
        return int(connection.read_response()[1])
    except (redis.RedisError, ValueError, IndexError):
        return 0


def _no_such_database(connection: redis.Connection, names: tuple[str, ...]) -> str:
    there = _databases_of(connection)
    what = " and ".join(f"redis.databases.{name}" for name in names) or "the database of the URL"
    verb = "are" if len(names) > 1 else "is"
    has = f"has {there} databases (0 to {there - 1})" if there else "does not have so many databases"
    what_to_do = "Choose another number or raise 'databases' in redis.conf."
    return f"{what} {verb} {connection.db}, but this Redis {has}. {what_to_do}"
