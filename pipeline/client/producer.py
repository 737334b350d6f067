"""The producers' side of the buffer: a client that batches metrics in the background and LPUSHes them.

Promises: ``push`` returns in a microsecond or two and never raises because Redis is away; nothing is pushed twice. A
caller checks what it offers and appends it to a queue, without a lock; a thread encodes and sends. Each batch moves in
a transaction together with a marker of this client (``batches.py``), so one whose reply was lost is simply offered
again: if the lost attempt was executed after all, even later than the new one, nothing changes.

While Redis is away or full, metrics wait in a bounded queue and are retried with growing pauses; what
does not fit is dropped and counted. At every moment
pushed + queued + dropped + in_doubt = what was offered. ``in_doubt`` stays 0 unless the client is closed
while a reply is missing. What can still be lost is what Redis itself loses (power cut before its fsync).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat, starmap
from multiprocessing import util
from types import TracebackType
from typing import Any, TypeVar

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
from pipeline.client.batches import Handover
from pipeline.client.metric_item import (
    ABSENT,
    EXACT_INTEGER,
    Item,
    Known,
    encoded,
    encoded_items,
    encoded_mappings,
    finite,
    is_plain,
    name_of_type,
    timestamp_ms,
)
from pipeline.client.run_context import RunContext, session
from pipeline.client.sigterm import before_sigterm, forget_after_fork
from pipeline.client.timing import Timing

_log = log.get(__name__)

Checked = TypeVar("Checked")

BATCH_ITEMS = 2_000
"""Items per command: larger ones only keep the server from its other clients (2,000 cost it 0.5 to 0.8 ms)."""

BATCH_BYTES = 4 * 2**20
"""Bytes per command, for the same reason."""

MANY_ITEMS = 1_000
"""Metrics of a list that are checked and encoded together."""

CATCH_UP_ITEMS = 2 * BATCH_ITEMS
CATCH_UP_S = 0.05
"""A caller that may wait for room waits for the sender, this long at most, when so much is queued, or when a batch is
there and the sender sleeps. The interpreter leaves a caller that never waits 5 ms at a time, which is longer than a
batch takes, and neither the sender nor Redis would have anything to do."""

ITEM_BYTES = 512
"""What every item in the queue is charged with, so that a push need not count; a larger one also with the rest."""

_BACKOFF = Backoff(first_s=0.05, max_s=5.0)
_OBJECT_BYTES = 64
_PLAIN_CHARACTERS = 256
"""Of all its texts, so that a plain metric with its number and its time takes no more than ``ITEM_BYTES``."""
_NEVER = sys.maxsize
_LOWEST = -EXACT_INTEGER  # to negate it takes as long as to compare it

_join = "".join
_now_ns = time.time_ns


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

    _handover: Handover
    _thread: threading.Thread
    _thread_started: bool
    _is_over: bool
    _closing_thread: int

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
        max_item_bytes: int | None = None,
        quiet: bool = False,
    ) -> None:
        """Open a client; Redis need not be there yet.

        ``url`` may name a database, otherwise it is the schema's (3). Without a URL the settings say
        where (and the embedded server is started if it is not running). ``key``: the list, by default
        the settings' buffer, one at random where there are several. ``defaults``: fields of every
        metric that does not carry them. ``run``: True finds run, job, commit and branch in the environment (a CI
        system's, git's, ``PIPELINE_RUN_ID`` and its like) and sends them with each metric; or a ``RunContext``
        of your own. ``room_timeout_s``: how long a push waits for room in a full queue
        before it drops; 0 suits tests and services, an importer waits. ``max_item_bytes``: what the pipeline accepts,
        by default as the settings say, or theirs by default. ``quiet``: no log lines, only ``stats``
        and ``trouble``.
        """
        if url is None:
            settings = settings or config.load()
        buffer = settings.buffer if settings else BufferSettings()
        self._connect = _connector_of_url(url) if url else _connector_of_settings(settings or Settings())
        self._key = key or secrets.choice(buffer.keys)
        self._max_item_bytes = buffer.max_item_bytes if max_item_bytes is None else max_item_bytes
        self._defaults = {name: one for name, one in _with_run(run, defaults or {}).items() if one not in (None, {})}
        # Of a key that stands twice the last one counts, so a metric's own fields win.
        self._head = encoded(self._defaults)[:-1] + b"," if self._defaults else b"{"
        self._default_tags: Mapping[str, Any] = self._defaults.get("tags", {})
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
        /,
        metric_type: str,
        value: float,
        *,
        timestamp: datetime | float | str | None = None,
        tags: Mapping[str, Any] | None = None,
        test_id: Any = ABSENT,
        test_name: Any = ABSENT,
        test_suite: Any = ABSENT,
        environment: Any = ABSENT,
        browser: Any = ABSENT,
        page: Any = ABSENT,
        endpoint: Any = ABSENT,
        node: Any = ABSENT,
        status: Any = ABSENT,
        run_id: Any = ABSENT,
        job: Any = ABSENT,
        commit: Any = ABSENT,
        branch: Any = ABSENT,
        error_type: Any = ABSENT,
        attempt: int | None = None,
        **fields: Any,
    ) -> bool:
        """Queue one metric; True unless it had to be dropped.

        ``timestamp``: None is now; a number is epoch seconds or milliseconds; text is ISO-8601; text and datetime need
        their zone. ``fields``: any others; they end up in the tags. None means absent. Raises ``ValueError`` for what
        would become a dead letter: a value that is not a finite number, a type that is not text, a timestamp that is
        not a time or before 1970, tags that are no mapping, an item larger than ``max_item_bytes``.
        """
        # Every line here is paid by the caller for each metric. Named parameters cost half of what a dictionary does,
        # a lock as much as all checks together.
        if type(value) is float:
            if value - value != 0.0:  # infinity, or no number
                self._checked(finite, value)
        elif type(value) is not int or not _LOWEST < value < EXACT_INTEGER:
            value = self._checked(finite, value)
        packed = self._packed_tags(tags) if tags else None
        known = Known(
            metric_type,
            value,
            _now_ns() // 1_000_000 if timestamp is None else self._checked(timestamp_ms, timestamp),
            test_id, test_name, test_suite, environment, browser, page, endpoint, node, status, run_id, job, commit,
            branch, error_type, attempt, packed,
        )  # fmt: skip
        try:
            text = _join((
                metric_type, test_id, test_name, test_suite, environment, browser, page, endpoint, node, status, run_id,
                job, commit, branch, error_type,
            ))  # fmt: skip
        except TypeError:
            return self._push_encoded(known, fields)
        if (
            (fields or not metric_type or len(text) > _PLAIN_CHARACTERS)
            or (packed is not None and len(memoryview(packed)) > _PLAIN_CHARACTERS)
            or (attempt is not None and type(attempt) is not int)
            or not (text.isascii() or is_plain(text))
        ):
            return self._push_encoded(known, fields)
        queue = self._queue
        waiting = len(queue)
        if waiting >= self._most_items:
            return self._push_locked(known, 0)
        queue.append(known)
        # Read after the append: a sender that goes to sleep says so first and looks at the queue then.
        if waiting >= self._attention_at:
            self._attend()
        return True

    def timed(self, metric_type: str = "duration", **fields: Any) -> Timing:
        """Time a block (``with``, ``async with``) or every call of a function, also of an async one (``@``).

        Its milliseconds are pushed with these fields and the status ``passed``, or ``failed`` with the exception's
        name as ``error_type``, or ``interrupted``; the exception goes on. ``as timing`` gives ``timing.fields``, to
        which a block adds what it learns.
        """
        return Timing(self.push, metric_type, fields)

    def push_many(self, metrics: Iterable[Mapping[str, Any]]) -> int:
        """Queue metrics given as mappings, each as ``push`` takes its arguments; returns how many were not dropped.

        A metric that raises ``ValueError`` ends it; those before it are queued. A list or tuple is checked and encoded
        a thousand at a time, which costs a third less than single pushes; what else can be iterated over is queued
        metric by metric, as it comes.
        """
        if not isinstance(metrics, list | tuple):
            return sum(map(self._push_mapping, metrics))
        return sum(self._push_few(metrics[at : at + MANY_ITEMS]) for at in range(0, len(metrics), MANY_ITEMS))

    def _push_mapping(self, metric: Mapping[str, Any]) -> bool:
        try:
            given = {"metric_type": None, "value": None, **metric}
        except TypeError:
            raise TypeError(f"push_many takes metrics, each a mapping, not {metric!r:.60}") from None
        return self.push(**given)

    def _push_few(self, metrics: Sequence[Mapping[str, Any]]) -> int:
        """All at once where each is plain and there is room, else one by one."""
        items = encoded_mappings(metrics, self._head, merges_tags=bool(self._default_tags))
        longest = max(map(len, items or ()), default=0)
        if items is not None and longest <= self._max_item_bytes:
            extra_bytes = sum(map(_extra_bytes, items)) if longest + _OBJECT_BYTES > ITEM_BYTES else 0
            with self._lock:
                if self._deadline is None and self._fits(len(items), extra_bytes):
                    self._queue.extend(items)
                    self._extra_bytes += extra_bytes
                    self._set_most_items()
                    if len(self._queue) > self._attention_at:
                        self._attend()
                    return len(items)
        return sum(map(self._push_mapping, metrics))

    def push_raw(self, item: bytes) -> bool:
        """Queue one list item as it is, valid or not; True unless it had to be dropped. Raises ``TypeError``."""
        if not isinstance(item, bytes):  # it would hold up all that stands behind it
            raise TypeError(f"a raw item must be bytes, not {type(item).__name__}")
        return self._push_locked(item, _extra_bytes(item))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything queued is in Redis; False when that took longer than ``timeout_s``."""
        with self._changed:
            return self._wait_in_a_hurry(lambda: not self._queued_items(), timeout_s)

    def stats(self) -> ClientStats:
        """The counts so far; they add up at any moment."""
        with self._changed:
            if self._is_over:
                self._give_up()  # on what another thread was about to queue while the client was closed
            return ClientStats(
                pushed=self._pushed,
                queued=self._queued_items(),
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
        """Flush for at most ``timeout_s`` (default ``close_timeout_s``), then give up on the rest and say so.

        A client that another thread is closing is waited for.
        """
        timeout_s = self._close_timeout_s if timeout_s is None else timeout_s
        with self._changed:
            if self._deadline is not None:
                if self._closing_thread != threading.get_ident():  # else a signal's handler interrupted the closing
                    self._changed.wait_for(lambda: self._is_over, self._deadline - time.monotonic())
                return
            self._closing_thread = threading.get_ident()
            self._deadline = time.monotonic() + timeout_s
            self._most_items = 0
            self._changed.notify_all()
        if self._thread_started:
            self._thread.join(timeout_s)
        else:
            self._send_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        stats = self.stats()
        if stats.dropped or stats.in_doubt:
            self._say("metrics lost", dropped=stats.dropped, in_doubt=stats.in_doubt)
        if self._pool is not None:
            if stats.pushed and not stats.in_doubt and not stats.retried:
                # No attempt of this client can still be on its way, so the marker has nothing left to prevent.
                with contextlib.suppress(redis.RedisError, PipelineError):
                    redis.Redis(connection_pool=self._pool).delete(self._handover.marker)
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
        self._queue: deque[Item] = deque()
        self._extra_bytes = 0
        self._most_items = self._max_queued_bytes // ITEM_BYTES
        self._attention_at = 0
        self._busy_attention_at = CATCH_UP_ITEMS if self._room_timeout_s else _NEVER
        self._sender_sleeps = True
        self._is_over = False
        self._closing_thread = 0
        self._under_way: Sequence[Item] = ()
        self._under_way_extra_bytes = 0
        self._hurry = 0
        self._trouble = ""
        self._pushed = self._dropped = self._in_doubt = self._retried = self._refused = 0
        self._handover = Handover(self._key, secrets.token_hex(8))
        self._pool = None
        self._connection: redis.Connection | None = None
        self._thread_started = False
        self._thread = threading.Thread(target=self._send_all, name="metrics-client", daemon=True)
        before_sigterm(_close_all)
        util.Finalize(self, _close_if_alive, args=(weakref.ref(self),), exitpriority=0)

    def _checked(self, check: Callable[[Any], Checked], given: Any) -> Checked:
        try:
            return check(given)
        except ValueError as error:
            raise self._refusal(str(error)) from None

    def _packed_tags(self, tags: Mapping[str, Any]) -> msgspec.Raw:
        """Encoded at once: what the caller does to the mapping afterwards is its own business."""
        try:
            return msgspec.Raw(encoded({**self._default_tags, **tags}))
        except TypeError:
            raise self._refusal(f"the tags of a metric must be a mapping from names to values, not {tags!r}") from None

    def _push_encoded(self, known: Known, fields: Mapping[str, Any]) -> bool:
        """Queue a metric with fields that are no plain texts."""
        self._checked(name_of_type, known.metric_type)
        given = {**msgspec.structs.asdict(known), **fields}
        item = encoded({name: one for name, one in given.items() if one is not None and one is not ABSENT})
        item = self._head + item[1:]
        if len(item) > self._max_item_bytes:
            raise self._refusal(f"a metric of {len(item)} bytes is larger than the {self._max_item_bytes} accepted")
        return self.push_raw(item)

    def _refusal(self, reason: str) -> ValueError:
        with self._lock:
            self._refused += 1
        return ValueError(reason)

    def _push_locked(self, item: Item, extra_bytes: int) -> bool:
        """Queue an item that is large, or that finds the queue full or the client closed."""
        with self._lock:
            if not self._has_room(extra_bytes):
                self._drop_one()
                return False
            self._queue.append(item)
            self._extra_bytes += extra_bytes
            self._set_most_items()
            if len(self._queue) > self._attention_at:
                self._attend()
        return True

    def _set_most_items(self) -> None:
        """How long the queue may become; under way is what the sender took from it."""
        if self._deadline is None:
            self._most_items = (self._max_queued_bytes - self._extra_bytes) // ITEM_BYTES - len(self._under_way)

    def _has_room(self, extra_bytes: int) -> bool:
        """Whether the queue takes an item, perhaps after a wait; a closed client takes nothing."""

        def fits() -> bool:
            return self._fits(1, extra_bytes)

        if not fits() and self._room_timeout_s:
            self._wait_in_a_hurry(lambda: fits() or self._deadline is not None, self._room_timeout_s)
        return self._deadline is None and fits()

    def _fits(self, items: int, extra_bytes: int) -> bool:
        used = self._queued_items() * ITEM_BYTES + self._extra_bytes
        return used + items * ITEM_BYTES + extra_bytes <= self._max_queued_bytes

    def _attend(self) -> None:
        """The queue is longer than the sender, or a caller that may wait, wanted it to become."""
        with self._lock:
            if not self._thread_started:
                self._start_thread()
            if self._sender_sleeps:
                self._attention_at = self._busy_attention_at
                self._changed.notify_all()
            if self._room_timeout_s and self._thread_started and not self._trouble:
                self._changed.wait_for(self._has_caught_up, CATCH_UP_S)

    def _has_caught_up(self) -> bool:
        """The sender took a batch, or has none to take: the caller fills the next one while Redis takes that one."""
        return len(self._queue) < (BATCH_ITEMS if self._sender_sleeps else CATCH_UP_ITEMS - BATCH_ITEMS // 2)

    def _queued_items(self) -> int:
        """Waiting in this process, the batch under way included."""
        return len(self._queue) + len(self._under_way)

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
        # Again: a spawned child imports the module that made this client before it knows that it is a child.
        before_sigterm(_close_all)
        # Refused while the interpreter ends; close() then sends by itself.
        with contextlib.suppress(RuntimeError):
            self._thread.start()
            self._thread_started = True

    def _send_all(self) -> None:
        while items := self._take():
            self._send(items)

    def _take(self) -> list[Item]:
        """Wait for items and take a batch under way; none when the client is closed and nothing is left."""
        with self._changed:
            self._wait_for_items(1, None)
            self._wait_for_items(BATCH_ITEMS, self._flush_interval_s)
            items = list(starmap(self._queue.popleft, repeat((), min(BATCH_ITEMS, len(self._queue)))))
            if self._extra_bytes:
                sizes = [_extra_bytes(item) for item in items]
                while sum(sizes) > BATCH_BYTES and len(items) > 1:
                    sizes.pop()
                    self._queue.appendleft(items.pop())
                self._under_way_extra_bytes = sum(sizes)
            self._under_way = items
            self._set_most_items()
            self._changed.notify_all()
            return items

    def _wait_for_items(self, enough: int, timeout_s: float | None) -> None:
        def is_time() -> bool:
            self._attention_at = enough - 1
            is_wanted = bool(self._hurry and self._queue) or self._deadline is not None
            return is_wanted or len(self._queue) >= enough

        self._sender_sleeps = True
        self._changed.wait_for(is_time, timeout_s)
        self._sender_sleeps = False
        self._attention_at = self._busy_attention_at

    def _send(self, items: Sequence[Item]) -> None:
        """Offer what is under way to Redis until it takes it, or until the client's closing runs out of time."""
        encoded_once: Sequence[bytes] = ()
        failures = 0
        while True:
            try:
                encoded_once = encoded_once or encoded_items(items, self._head)
                self._attempt(encoded_once)
            except Exception as error:  # whatever it is: a sender that died would keep everything for itself, silently
                meaning = error if isinstance(error, PipelineError) else classify(error) or error
                if str(meaning) != self._trouble:
                    self._trouble = str(meaning)
                    self._say("metrics wait for redis", reason=self._trouble)
            else:
                with self._changed:
                    # After a close that gave up nothing is under way any more, and nothing is counted twice.
                    self._pushed += len(self._under_way)
                    self._clear_under_way()
                    self._set_most_items()
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

    def _attempt(self, items: Sequence[bytes]) -> None:
        if self._pool is None:
            self._pool = self._connect()
        connection = self._connection or self._pool.get_connection()  # type: ignore[no-untyped-call]
        self._connection = None
        try:
            self._handover.push(connection, items, more=len(self._queue) >= BATCH_ITEMS)
        finally:
            if self._handover.is_open:
                self._connection = connection
            else:
                self._pool.release(connection)  # type: ignore[no-untyped-call]

    def _clear_under_way(self) -> None:
        self._under_way = ()
        self._extra_bytes -= self._under_way_extra_bytes
        self._under_way_extra_bytes = 0

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
        if self._handover.may_be_executed:
            self._in_doubt += len(self._under_way)
        else:
            self._dropped += len(self._under_way)
        self._dropped += len(self._queue)
        self._clear_under_way()
        self._queue.clear()
        self._extra_bytes = 0
        self._changed.notify_all()


def _extra_bytes(item: Item) -> int:
    """What an item is larger than others."""
    return max(0, len(item) + _OBJECT_BYTES - ITEM_BYTES) if isinstance(item, bytes) else 0


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


_clients: weakref.WeakSet[MetricsClient] = weakref.WeakSet()


def _close_if_alive(client: weakref.ref[MetricsClient]) -> None:
    alive = client()
    if alive is not None:
        alive.close()


def _close_all() -> None:
    for client in list(_clients):
        client.close()


def _begin_in_forked_child() -> None:
    forget_after_fork()
    for client in list(_clients):
        client._begin()


os.register_at_fork(after_in_child=_begin_in_forked_child)
