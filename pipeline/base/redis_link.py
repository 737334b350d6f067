"""The one way to Redis, an external server or the embedded one.

Promises: commands that write are sent once, never again behind the caller's back (redis-py 8
resends up to ten times by default, which would double an LPUSH whose reply was lost); what goes
wrong is told apart into outages (``RedisOutage``; ``RedisFull`` and ``RedisDenied`` are two of them) and mistakes.
What is not known as a mistake is an outage.

While an embedded server is dead, the next connection starts it again (``embedded_redis``).
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from pipeline.base import tls
from pipeline.base.addresses import redis_address
from pipeline.base.config import Settings
from pipeline.base.errors import ConfigError, PipelineError, RedisDenied, RedisOutage
from pipeline.base.redis_pool import WrongDatabase, connection_pool, pool_options, tls_settings, url_of
from pipeline.base.text import without_wrapping
from pipeline.embedded.redis_server import EmbeddedRedis

# Commands that change nothing and are therefore safe to send again when the reply was lost.
_READ_ONLY = frozenset(
    {
        *("CONFIG GET", "EXISTS", "GET", "HGET", "HGETALL", "HLEN", "HMGET", "INFO", "LINDEX", "LLEN", "LRANGE"),
        *("MEMORY USAGE", "MGET", "PING", "PTTL", "SCAN", "SLOWLOG GET", "STRLEN", "TIME", "TTL", "TYPE"),
        *("ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE"),
    }
)

# What a reply may say about the command or the data: the same again would fail again. Every other reply speaks of
# the server's state (loading, moved, read-only, locked out, overloaded, something newer than this list), which an
# operator mends while we wait.
_FINAL_CODES = frozenset({"WRONGTYPE", "CROSSSLOT", "NOSCRIPT", "EXECABORT", "BUSYGROUP", "BUSYKEY", "INVALIDOBJ"})
_FINAL_TEXTS = re.compile(
    r"wrong number of arguments|syntax error|value is (not|out of range)|index out of range|"
    r"no such key|is not an integer|is not a (valid )?float|compiling script|user_script:\s?\d+: |Number of keys|"
    r"segment name is taken",
    re.IGNORECASE,
)
_DENIED_CODES = frozenset({"NOAUTH", "NOPERM", "WRONGPASS"})
# In a script Redis drops the code of a refused command, and 6.2 wraps every other one.
_DENIED_TEXT = "The user executing the script can't"
_READ_ONLY_TEXT = "You can't write against a read only replica"
IS_REPLICA = "this Redis is a read-only replica, so that nothing can be written; let redis.url name the master"
# Its arguments, which it says back, may be a password.
_UNKNOWN = re.compile(r"unknown (?:sub)?command[^,]*(?=,|$)", re.IGNORECASE)
_END_OF_TIME_S = 10**11
"""Beyond the year 5000 no calendar of the libraries goes on."""
_CODE = re.compile(r"-?([A-Z]{2,})(?= |$)")
_IN_SCRIPT = re.compile(r"Error running script \(call to \w+\): (?:@user_script:\s?\d+: ){1,2}(.*)", re.DOTALL)


class RedisFull(RedisOutage):
    """Redis is at maxmemory and refuses writes until something is drained or its limit is raised."""


def classify(error: Exception) -> PipelineError | None:
    """Say what an exception of redis-py means: ``RedisFull``, ``RedisDenied``, ``RedisOutage``, ``UsageError``.

    None for a mistake in the command or the data, which would fail again: a bug, or a key of the wrong type.
    """
    text = str(error)
    if isinstance(error, WrongDatabase):
        return ConfigError(text)
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return _denied(text)
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.InvalidResponse):
        handshake = tls.trouble(error, "redis.tls")
        return RedisOutage(f"Redis cannot be used: {handshake}" if handshake else without_wrapping(text))
    return _reply(error, text) if isinstance(error, redis.ResponseError) else None


def is_replica(info: Mapping[str, Any]) -> bool:
    """Whether INFO speaks of a server that takes no writes, because it follows another."""
    return info.get("role") == "slave" and bool(info.get("slave_read_only", 1))


def _reply(error: redis.ResponseError, text: str) -> PipelineError | None:
    """What an error reply of the server means."""
    code = getattr(error, "status_code", None) or ""  # redis-py takes the codes it knows off the text
    if inner := _IN_SCRIPT.match(text):
        text, code = inner[1], ""
    if not code and (found := _CODE.match(text)):
        code = found[1]
    if code in _DENIED_CODES or _DENIED_TEXT in text:
        return _denied(text)
    if code == "OOM":
        return RedisFull(text)
    if code == "READONLY" or _READ_ONLY_TEXT in text:
        return RedisOutage(IS_REPLICA)
    if code in ("MOVED", "ASK"):
        return RedisOutage(f"redis.url names a node of a cluster that does not hold the key ({code} {text})")
    if code in ("", "ERR") and (unknown := _UNKNOWN.match(text)):
        return RedisDenied(
            f"this Redis, or a proxy in front of it, lacks a command that the pipeline needs ({unknown[0].strip()}); "
            "let redis.url name a Redis 6.2 or newer whose commands are not renamed"
        )
    if code in _FINAL_CODES or (code in ("", "ERR") and _FINAL_TEXTS.search(text)):
        return None
    return RedisOutage(text)


def _denied(text: str) -> RedisDenied:
    return RedisDenied(f"Redis refuses the user, the password or the command; check redis.url and the ACL: {text}")


@contextlib.contextmanager
def outages() -> Iterator[None]:
    """Raise what ``classify`` makes of redis-py's exceptions inside the block; let bugs through as they are."""
    try:
        yield
    except redis.RedisError as error:
        meaning = classify(error)
        if meaning is None:
            raise
        raise meaning from error


class RedisLink:
    """Connections to the databases of one Redis; safe to share between threads.

    ``database`` never connects by itself, so a service may start while Redis is away.
    """

    def __init__(self, settings: Settings, embedded: EmbeddedRedis | None) -> None:
        self._settings = settings.redis
        self._embedded = embedded
        self._lock = threading.Lock()
        self._clients: dict[int, redis.Redis] = {}

    @classmethod
    def open(cls, settings: Settings, *, start: bool = True) -> RedisLink:
        """Open the Redis of ``settings.redis.url``; the embedded one is started or re-joined, and loaded.

        With ``start=False`` an embedded server that does not run is neither started nor created: a command that only
        looks changes nothing. It is then an outage like any other.
        Raises ``UsageError`` when no redis-server is installed or a certificate cannot be read,
        ``EmbeddedRedisFailed`` when the server does not start.
        """
        if settings.redis.url != "embedded":
            address = redis_address(settings.redis.url)
            if address.is_encrypted:
                tls_settings(address, settings.redis.tls)
            return cls(settings, None)
        embedded = EmbeddedRedis(settings.data_dir / "redis", may_start=start)
        if start:
            embedded.ensure()
        return cls(settings, embedded)

    @property
    def is_embedded(self) -> bool:
        """Whether the server is the one in ``data_dir``."""
        return self._embedded is not None

    @property
    def embedded_dir(self) -> Path | None:
        """Where the embedded server keeps its append-only file; None for an external server."""
        return self._embedded.directory if self._embedded else None

    def database(self, name: str) -> redis.Redis:
        """A client of one database by its name in ``settings.redis.databases``; bytes in, bytes out.

        Read-only commands are resent ``pool.retry_attempts`` times, everything else never.
        Waits up to ``pool.connection_timeout_ms`` for a free connection.
        """
        number: int = getattr(self._settings.databases, name)
        with self._lock:
            if number not in self._clients:
                pool = self._pool(number)
                self._clients[number] = _Client(pool, self._settings.pool.retry_attempts)
            return self._clients[number]

    def pool(self, name: str) -> redis.BlockingConnectionPool:
        """The connections behind ``database(name)``."""
        pool = self.database(name).connection_pool
        assert isinstance(pool, redis.BlockingConnectionPool)
        return pool

    def url(self, name: str = "metrics") -> str:
        """Address of one database for other processes (with the password, when there is one)."""
        number: int = getattr(self._settings.databases, name)
        if self._embedded:
            return f"redis://127.0.0.1:{self._embedded.port}/{number}"
        return url_of(redis_address(self._settings.url), number, self._settings.tls)

    def server_info(self) -> dict[str, Any]:
        """What INFO says. Raises ``RedisOutage``."""
        with outages():
            info: dict[str, Any] = self.database("metrics").info()
            return info

    def version(self) -> tuple[int, ...]:
        """The server's Redis version, as (7, 0, 15). Raises ``RedisOutage``."""
        return tuple(int(part) for part in str(self.server_info()["redis_version"]).split("."))

    def close(self, *, stop_embedded: bool = False) -> None:
        """Close the connections; with ``stop_embedded`` also end the embedded server, its file written to disk."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.connection_pool.disconnect()
        if stop_embedded and self._embedded:
            self._embedded.stop()

    def _pool(self, number: int) -> redis.BlockingConnectionPool:
        chosen = self._settings.databases.model_dump()
        names = [name for name, its_number in chosen.items() if its_number == number]
        if self._embedded is None:
            address = redis_address(self._settings.url)
            return connection_pool(address, number, self._settings.pool, self._settings.tls, names=names)
        return redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            connection_class=_EmbeddedConnection,
            embedded=self._embedded,
            db=number,
            **pool_options(self._settings.pool, names),
        )


class _Client(redis.Redis):
    """Sends a read-only command again when its reply was lost, and nothing else."""

    def __init__(self, pool: redis.BlockingConnectionPool, read_retries: int) -> None:
        super().__init__(connection_pool=pool)
        self._read_retries = read_retries

    def execute_command(self, *args: Any, **options: Any) -> Any:
        retries = self._read_retries if args[0] in _READ_ONLY else 0
        while True:
            try:
                return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except (redis.ConnectionError, redis.TimeoutError):
                if retries == 0:
                    raise
                retries -= 1

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        """As redis-py, but a reply that it can make nothing of is no bug: something else than Redis gave it."""
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise redis.InvalidResponse(f"the answer to {command_name} is not one of Redis's") from error

    def time(self, **options: Any) -> tuple[int, int]:
        """Redis's clock; raises ``redis.InvalidResponse`` for what is no time."""
        seconds, microseconds = super().time(**options)
        if not 0 <= seconds < _END_OF_TIME_S:
            raise redis.InvalidResponse(f"the clock of Redis says {str(seconds)[:30]} s, which is no time")
        return seconds, microseconds


class _EmbeddedConnection(redis.Connection):
    """A connection that starts the embedded server again when it finds it dead.

    Every new connection asks the server for its directory: after a crash its port may belong to another server.
    """

    def __init__(self, *, embedded: EmbeddedRedis, **options: Any) -> None:
        super().__init__(host="127.0.0.1", port=embedded.port, **{"socket_keepalive": True, **options})  # type: ignore[no-untyped-call]
        self._embedded = embedded

    def connect(self) -> None:
        if self._sock:
            return  # type: ignore[unreachable]  # redis-py declares the socket as None
        try:
            self._connect_to_ours()
        except (redis.ConnectionError, redis.TimeoutError):
            self._embedded.revive()
            self._connect_to_ours()

    def _connect_to_ours(self) -> None:
        self.port = self._embedded.port
        super().connect()  # type: ignore[no-untyped-call]

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Greet the server and ask whose it is, before anything is subscribed: messages would come in between."""
        super().on_connect_check_health(check_health=check_health)
        self.send_command("CONFIG", "GET", "dir", check_health=False)  # type: ignore[no-untyped-call]
        _, directory = self.read_response()
        if not self._embedded.owns(os.fsdecode(directory)):
            raise redis.ConnectionError(f"port {self.port} belongs to another server now")
