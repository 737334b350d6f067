"""The producers' side of the buffer: a client that batches metrics in the background and LPUSHes them.

Promises: ``push`` returns in microseconds and never raises because Redis is away; nothing is pushed
twice. Each batch is pushed by a script that first looks at a marker of this client in Redis and then
moves it on, so a batch whose reply was lost is simply sent again: if the lost attempt was executed after
all, even later than the new one, it changes nothing.

While Redis is away or full, metrics wait in a bounded queue and are retried with growing pauses; what
does not fit is dropped and counted. At every moment
pushed + queued + dropped + in_doubt = what was offered. ``in_doubt`` stays 0 unless the client is closed
while a reply is missing. What can still be lost is what Redis itself loses (power cut before its fsync).
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import random
import secrets
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import util
from types import TracebackType
from typing import Any

import msgspec
import redis

from pipeline.base import config, log
from pipeline.base.addresses import passwords_in, redis_address
from pipeline.base.backoff import Backoff
from pipeline.base.config import BufferSettings, RedisDatabases, RedisPool, Settings
from pipeline.base.errors import ConfigError, PipelineError
from pipeline.base.redis_link import RedisLink, classify
from pipeline.base.redis_pool import connection_pool
from pipeline.base.text import masked_url, remember_secret
from pipeline.client.run_context import RunContext, session
from pipeline.client.timing import Timing

_log = log.get(__name__)

BATCH_ITEMS = 1_000
"""Items per command: larger ones only keep the server from its other clients (1,000 cost it 0.9 ms)."""

BATCH_BYTES = 4 * 2**20
"""Bytes per command, for the same reason."""

MARKER_TTL_S = 7 * 86_400
"""The marker of a client that vanished goes after this long; a longer outage could double one batch."""

_BACKOFF = Backoff(first_s=0.05, max_s=5.0)
_PER_ITEM_BYTES = 64
_YIELD_ITEMS = 100
_EXACT_INTEGER = 2**53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# KEYS: buffer, marker. ARGV: number of this batch, life of the marker in seconds, items.
# The copies to and from Lua make a push of 1,000 cost the server 0.9 instead of 0.4 ms.
_PUSH_ONCE = b"""
if tonumber(redis.call('GET', KEYS[2]) or '0') >= tonumber(ARGV[1]) then return 0 end
local waiting = redis.call('LPUSH', KEYS[1], unpack(ARGV, 3))
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return waiting
"""


class _Known(msgspec.Struct, omit_defaults=True, gc=False):
    """What most metrics are, in the order that ``push`` fills in."""

    metric_type: Any
    value: Any
    timestamp: Any
    test_id: Any = None
    test_name: Any = None
    test_suite: Any = None
    environment: Any = None
    browser: Any = None
    page: Any = None
    endpoint: Any = None
    node: Any = None
    status: Any = None
    run_id: Any = None
    job: Any = None
    commit: Any = None
    branch: Any = None
    attempt: Any = None
    error_type: Any = None


@dataclass(frozen=True)
class ClientStats:
    """What became of the metrics offered to a client since it was opened (in this process)."""

    pushed: int
    """Redis has them."""
    queued: int
    """Waiting in this process, the batch under way included."""
    dropped: int
    """Thrown away: the queue was full, or the client was closed before Redis could be reached."""
    in_doubt: int
    """The client was closed before it could learn whether Redis took them."""
    retried: int
    """Attempts beyond the first, counted in batches."""
    refused: int
    """Never accepted: ``push`` raised ValueError. Not part of what was offered."""


class MetricsClient:
    """Pushes metrics to the buffer; safe to share between threads, and to fork.

    A forked child starts with an empty queue and connections of its own; what was queued belongs to the
    parent. At exit (of the interpreter or of a multiprocessing child) the queue is flushed for at most
    ``close_timeout_s``.

    ::

        with MetricsClient("redis://localhost:6379") as client:
            client.push("duration", 2500, test_id="auth-001", status="passed", browser="chromium")
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        key: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        run: RunContext | bool = False,
        flush_interval_s: float = 0.1,
        max_queued_bytes: int = 64 * 2**20,
        room_timeout_s: float = 0.0,
        close_timeout_s: float = 5.0,
        quiet: bool = False,
    ) -> None:
        """Open a client; Redis need not be there yet.

        ``url`` may name a database, otherwise it is the schema's (3). Without a URL the settings say
        where (and the embedded server is started if it is not running). ``key``: the list, by default
        the settings' buffer, one at random where there are several. ``defaults``: fields of every
        metric that does not carry them. ``run``: True finds run, job, commit and branch in the environment (a CI
        system's, git's, ``PIPELINE_RUN_ID`` and its like) and sends them with each metric; or a ``RunContext``
        of your own. ``room_timeout_s``: how long a push waits for room in a full queue
        before it drops; 0 suits tests and services, an importer waits. ``quiet``: no log lines, only ``stats``
        and ``trouble``.
        """
        if url is None:
            settings = settings or config.load()
        self._connect = _connector_of_url(url) if url else _connector_of_settings(settings or Settings())
        self._key = key or random.choice((settings.buffer if settings else BufferSettings()).keys)
        self._defaults = {name: one for name, one in _with_run(run, defaults or {}).items() if one not in (None, {})}
        # Of a key that stands twice the last one counts, so a metric's own fields win.
        self._head = _encode(self._defaults)[:-1] + b"," if self._defaults else b"{"
        self._flush_interval_s = flush_interval_s
        self._max_queued_bytes = max_queued_bytes
        self._room_timeout_s = room_timeout_s
        self._close_timeout_s = close_timeout_s
        self._quiet = quiet
        self._deadline: float | None = None
        self._begin()
        self._pool: redis.BlockingConnectionPool | None = self._connect()
        _clients.add(self)
        # Children of multiprocessing leave by os._exit: atexit never runs there, these finalizers do.
        util.register_after_fork(self, MetricsClient._begin)

    def push(
        self,
        metric_type: str,
        value: float,
        *,
        timestamp: datetime | float | str | None = None,
        tags: Mapping[str, Any] | None = None,
        test_id: Any = None,
        test_name: Any = None,
        test_suite: Any = None,
        environment: Any = None,
        browser: Any = None,
        page: Any = None,
        endpoint: Any = None,
        node: Any = None,
        status: Any = None,
        run_id: Any = None,
        job: Any = None,
        commit: Any = None,
        branch: Any = None,
        attempt: Any = None,
        error_type: Any = None,
        **fields: Any,
    ) -> bool:
        """Queue one metric; True unless it had to be dropped.

        ``timestamp``: None is now; a number is epoch seconds or milliseconds; a datetime needs its zone.
        ``fields``: any others; they end up in the tags. None means absent. Raises ``ValueError`` for a value that is
        no finite number and for a datetime without a zone.
        """
        # Named parameters and a structure of them cost a caller half of what dictionaries cost.
        known = _Known(
            metric_type, value, time.time_ns() // 1_000_000, test_id, test_name, test_suite, environment, browser, page,
            endpoint, node, status, run_id, job, commit, branch, attempt, error_type,
        )  # fmt: skip
        if (
            (timestamp is None and tags is None and not fields)
            and (type(value) is float or type(value) is int)
            and -_EXACT_INTEGER < value < _EXACT_INTEGER
        ):
            return self.push_raw(self._head + _encode(known)[1:])
        given = {name: field for name, field in msgspec.structs.asdict(known).items() if field is not None}
        return self._offer_metric(given | {"value": value, "timestamp": timestamp}, fields, tags)

    def timed(self, metric_type: str = "duration", **fields: Any) -> Timing:
        """Time a block (``with``, ``async with``) or every call of a function, also of an async one (``@``).

        Its milliseconds are pushed with these fields and the status ``passed``, or ``failed`` with the exception's
        name as ``error_type``, or ``interrupted``; the exception goes on. ``as timing`` gives ``timing.fields``, to
        which a block adds what it learns.
        """
        return Timing(self.push, metric_type, fields)

    def push_many(self, metrics: Iterable[Mapping[str, Any]]) -> int:
        """Queue metrics given as mappings, each as ``push`` takes its arguments; returns how many were not dropped.

        A metric that raises ``ValueError`` ends it; those before it are queued.
        """
        return sum(self._offer_metric(metric, {}, metric.get("tags")) for metric in metrics)

    def push_raw(self, item: bytes) -> bool:
        """Queue one list item as it is, valid or not; True unless it had to be dropped."""
        size = len(item) + _PER_ITEM_BYTES
        with self._lock:
            is_full = self._queued_bytes + size > self._max_queued_bytes
            if (is_full or self._deadline is not None) and not self._has_room(size):
                self._drop_one()
                return False
            self._queue.append(item)
            self._queued_bytes += size
            # The sender sleeps until there is a first item, and then until there are enough for a full batch.
            waiting = len(self._queue)
            if waiting == 1 or waiting == BATCH_ITEMS:
                if not self._thread_started:
                    self._start_thread()
                self._changed.notify_all()
        if waiting > BATCH_ITEMS and not waiting % _YIELD_ITEMS:
            # The interpreter leaves a caller that never waits 5 ms at a time; the sender needs it twice a batch.
            time.sleep(0)
        return True

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything queued is in Redis; False when that took longer than ``timeout_s``."""
        with self._changed:
            return self._wait_in_a_hurry(lambda: not self._queue and not self._under_way, timeout_s)

    def stats(self) -> ClientStats:
        """The counts so far; they add up at any moment."""
        with self._changed:
            return ClientStats(
                pushed=self._pushed,
                queued=len(self._queue) + self._under_way,
                dropped=self._dropped,
                in_doubt=self._in_doubt,
                retried=self._retried,
                refused=self._refused,
            )

    @property
    def trouble(self) -> str:
        """Why Redis did not take the batch under way, in its own words; empty when nothing is wrong."""
        return self._trouble

    def close(self, timeout_s: float | None = None) -> None:
        """Flush for at most ``timeout_s`` (default ``close_timeout_s``), then give up on the rest and say so."""
        timeout_s = self._close_timeout_s if timeout_s is None else timeout_s
        with self._changed:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + timeout_s
            self._changed.notify_all()
        if self._thread_started:
            self._thread.join(timeout_s)
        else:
            self._send_all()
        with self._changed:
            self._give_up()
        stats = self.stats()
        if stats.dropped or stats.in_doubt:
            self._say("metrics lost", dropped=stats.dropped, in_doubt=stats.in_doubt)
        if self._pool is not None:
            if stats.pushed and not stats.in_doubt and not stats.retried:
                # No attempt of this client can still be on its way, so the marker has nothing left to prevent.
                with contextlib.suppress(redis.RedisError, PipelineError):
                    redis.Redis(connection_pool=self._pool).delete(self._marker)
            self._pool.disconnect()

    def __enter__(self) -> MetricsClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Start with nothing: at construction, and in a forked child, whose locks and sockets are the parent's."""
        # A caller takes the lock itself, which costs a third of what it costs by way of the condition. Reentrant: a
        # signal's handler may close the client in the middle of a push.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._under_way = 0
        self._may_be_executed = False
        self._hurry = 0
        self._trouble = ""
        self._pushed = self._dropped = self._in_doubt = self._retried = self._refused = 0
        self._batch_number = 0
        self._marker = _marker_key(self._key, secrets.token_hex(8))
        self._pool = None
        self._thread_started = False
        self._thread = threading.Thread(target=self._send_all, name="metrics-client", daemon=True)
        _flush_on_sigterm()
        util.Finalize(self, _close_if_alive, args=(weakref.ref(self),), exitpriority=0)

    def _offer_metric(
        self, metric: Mapping[str, Any], fields: Mapping[str, Any], tags: Mapping[str, Any] | None
    ) -> bool:
        item = self._defaults.copy()
        for part in (metric, fields):
            for name, field in part.items():
                if field is not None:
                    item[name] = field
        if tags:
            item["tags"] = {**self._defaults.get("tags", {}), **tags}
        try:
            item["timestamp"] = _timestamp(metric.get("timestamp"))
            item["value"] = _finite(metric.get("value"))
        except ValueError:
            with self._changed:
                self._refused += 1
            raise
        return self.push_raw(_encode(item))

    def _has_room(self, size: int) -> bool:
        """Whether the queue takes ``size`` more bytes, perhaps after a wait; a closed client takes nothing."""
        most = self._max_queued_bytes - size
        if self._queued_bytes > most and self._room_timeout_s:
            self._wait_in_a_hurry(
                lambda: self._queued_bytes <= most or self._deadline is not None, self._room_timeout_s
            )
        return self._deadline is None and self._queued_bytes <= most

    def _wait_in_a_hurry(self, until: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait while batches leave at once, full or not."""
        self._hurry += 1
        self._changed.notify_all()
        try:
            return self._changed.wait_for(until, timeout_s)
        finally:
            self._hurry -= 1

    def _drop_one(self) -> None:
        if not self._dropped:
            reason = "queue full" if self._deadline is None else "client closed"
            self._say("metrics dropped", reason=reason, max_queued_bytes=self._max_queued_bytes)
        self._dropped += 1

    def _start_thread(self) -> None:
        # Refused while the interpreter ends; close() then sends by itself.
        with contextlib.suppress(RuntimeError):
            self._thread.start()
            self._thread_started = True

    def _send_all(self) -> None:
        while batch := self._next_batch():
            self._send(batch)

    def _next_batch(self) -> list[bytes]:
        """Wait for items; an empty batch means that the client is closed and everything sent or given up."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._deadline is not None)
            self._changed.wait_for(
                lambda: len(self._queue) >= BATCH_ITEMS or self._hurry or self._deadline is not None,
                self._flush_interval_s,
            )
            take = self._queue.popleft
            batch = [take() for _ in range(min(BATCH_ITEMS, len(self._queue)))]
            size = sum(map(len, batch))
            while size > BATCH_BYTES and len(batch) > 1:
                size -= len(batch[-1])
                self._queue.appendleft(batch.pop())
            self._under_way = len(batch)
            self._may_be_executed = False
            self._queued_bytes -= size + _PER_ITEM_BYTES * len(batch)
            self._changed.notify_all()
            return batch

    def _send(self, batch: list[bytes]) -> None:
        """Offer one batch to Redis until it takes it, or until the client's closing runs out of time."""
        self._batch_number += 1
        failures = 0
        while True:
            try:
                self._attempt(batch)
            except Exception as error:  # whatever it is: a sender that died would keep everything for itself, silently
                meaning = error if isinstance(error, PipelineError) else classify(error) or error
                if str(meaning) != self._trouble:
                    self._trouble = str(meaning)
                    self._say("metrics wait for redis", reason=self._trouble)
            else:
                with self._changed:
                    # After a close that gave up nothing is under way any more, and nothing is counted twice.
                    self._pushed += self._under_way
                    self._under_way = 0
                    self._changed.notify_all()
                self._trouble = ""
                return
            failures += 1
            with self._changed:
                self._retried += 1
                self._changed.wait_for(self._is_overdue, self._pause_s(failures))
                if self._is_overdue():
                    self._give_up()
                    return

    def _attempt(self, batch: list[bytes]) -> None:
        if self._pool is None:
            self._pool = self._connect()
        connection = self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            connection.send_command(
                "EVAL", _PUSH_ONCE, 2, self._key, self._marker, self._batch_number, MARKER_TTL_S, *batch
            )
            # Only a command that left as a whole can be executed; from here on its reply is what tells.
            was_in_doubt, self._may_be_executed = self._may_be_executed, True
            try:
                connection.read_response()
            except (redis.ResponseError, redis.BusyLoadingError):
                self._may_be_executed = was_in_doubt
                raise
        finally:
            self._pool.release(connection)  # type: ignore[no-untyped-call]

    def _say(self, event: str, **facts: Any) -> None:
        if not self._quiet:
            _log.warning(event, buffer=self._key, **facts)

    def _pause_s(self, failures: int) -> float:
        pause_s = _BACKOFF.pause_s(failures)
        return pause_s if self._deadline is None else max(0.0, min(pause_s, self._deadline - time.monotonic()))

    def _is_overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _give_up(self) -> None:
        """Account for what did not make it; what the sender still achieves after this is not counted."""
        if self._may_be_executed:
            self._in_doubt += self._under_way
        else:
            self._dropped += self._under_way
        self._dropped += len(self._queue)
        self._under_way = 0
        self._queued_bytes = 0
        self._queue.clear()
        self._changed.notify_all()


def _with_run(run: RunContext | bool, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, after what is known of the run."""
    if run is False:
        return dict(defaults)
    context = session() if run is True else run
    return {**context.fields(), **defaults, "tags": {**context.tags(), **(defaults.get("tags") or {})}}


def _connector_of_url(url: str) -> Callable[[], redis.BlockingConnectionPool]:
    """Raises ``ConfigError`` at once for a URL that cannot be used."""
    for secret in passwords_in(url):
        remember_secret(secret)
    try:
        address = redis_address(url)
    except ValueError as error:
        raise ConfigError(f"the URL of the metrics client, '{masked_url(url)}', {error}") from None
    number = RedisDatabases().metrics if address.database is None else address.database
    return lambda: connection_pool(address, number, RedisPool())


def _connector_of_settings(settings: Settings) -> Callable[[], redis.BlockingConnectionPool]:
    return lambda: RedisLink.open(settings).pool("metrics")


def _marker_key(buffer: str, client: str) -> str:
    """String with a TTL, in the buffer's slot: the last batch of one client that was pushed."""
    tag = buffer if "{" in buffer else "{" + buffer + "}"
    return f"{tag}:producer:{client}"


def _finite(value: Any) -> float:
    """The number as JSON may carry it. Raises ``ValueError``."""
    if type(value) is int and abs(value) < _EXACT_INTEGER:
        return value
    if not isinstance(value, bool | str | bytes):
        try:
            number = float(value)
        except (TypeError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ValueError(f"the value of a metric must be a finite number, not {value!r}")


def _timestamp(timestamp: Any) -> Any:
    """Epoch milliseconds for None and datetimes, anything else as it is. Raises ``ValueError``."""
    if timestamp is None:
        return time.time_ns() // 1_000_000
    if not isinstance(timestamp, datetime):
        return timestamp
    if timestamp.tzinfo is None:
        raise ValueError(f"the timestamp of a metric needs its zone: {timestamp!r}")
    # Not by timestamp(): its float lands below the millisecond it means.
    return (timestamp - _EPOCH) // timedelta(milliseconds=1)


_encode = msgspec.json.Encoder(enc_hook=str).encode

_clients: weakref.WeakSet[MetricsClient] = weakref.WeakSet()


def _close_if_alive(client: weakref.ref[MetricsClient]) -> None:
    alive = client()
    if alive is not None:
        alive.close()


def _flush_on_sigterm() -> None:
    """In a child of multiprocessing, whose pool ends it by SIGTERM, unless the program handles that signal itself."""
    if (
        multiprocessing.parent_process() is not None
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _flush_and_end)


def _flush_and_end(number: int, _frame: object) -> None:
    for client in list(_clients):
        client.close()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _begin_in_forked_child() -> None:
    for client in list(_clients):
        client._begin()


os.register_at_fork(after_in_child=_begin_in_forked_child)
