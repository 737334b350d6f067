"""Counts messages of the platform's channels, by pattern of channel and type.

A channel forgets: what is published while this process is not subscribed is not counted, and every loss of the
connection counts as one gap (``collect_gaps``), however long it lasts. Messages that this product publishes carry
``source`` and are not counted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import redis

from pipeline.base import log
from pipeline.base.backoff import Backoff
from pipeline.base.keys import SOURCE
from pipeline.base.redis_link import classify
from pipeline.collect.catalogue import Entry
from pipeline.collect.derive import MAX_GROUPS, Labels, by_message, item, message_fields
from pipeline.collect.told import CHANNELS

_log = log.get(__name__)

POLL_S = 0.5
IDLE_S = 60.0
"""Without a call of ``take`` for this long another process collects: the subscription ends."""
MAX_MESSAGE_BYTES = 65_536


class Taken(NamedTuple):
    """What came since the last look: as metrics, connections lost, and by entry how many messages and metrics."""

    items: tuple[bytes, ...]
    gaps: int
    messages: dict[str, tuple[int, int]]


class ChannelCounter:
    """Subscribes while ``take`` is called, in a thread of its own."""

    def __init__(
        self, connect: Callable[[], redis.Redis], entries: Sequence[Entry], stop: threading.Event | None = None
    ) -> None:
        self._connect = connect
        self._entries = entries
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, Labels]] = Counter()
        self._gaps = 0
        self._taken_s = time.monotonic()
        self._stop = stop or threading.Event()
        self._thread: threading.Thread | None = None
        self._is_subscribed = False
        self.trouble = ""

    def take(self, now_ms: int) -> Taken:
        """What came since the last call; the first call subscribes."""
        self._taken_s = time.monotonic()
        if not self._stop.is_set() and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="collect-channels", daemon=True)
            self._thread.start()
        with self._lock:
            counts, self._counts = self._counts, Counter()
            gaps, self._gaps = self._gaps, 0
        found, messages = [], dict[str, tuple[int, int]]()
        for (name, metric_type, labels), count in sorted(counts.items()):
            found.append(item(metric_type, count, labels, now_ms))
            before = messages.get(name, (0, 0))
            messages[name] = before[0] + count, before[1] + 1
        if gaps:
            found.append(item("collect_gaps", gaps, (("tags.key", CHANNELS),), now_ms))
        return Taken(tuple(found), gaps, messages)

    def close(self) -> None:
        """End the subscription."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)

    def count(self, channel: str, data: bytes) -> None:
        """Count one message."""
        fields = message_fields(data) if len(data) <= MAX_MESSAGE_BYTES else {}
        if fields.get("source") == SOURCE:
            return
        for entry in self._entries:
            if entry.regex.fullmatch(channel):
                for derived in entry.metrics:
                    labels = tuple(sorted((*by_message(fields, derived), ("tags.channel", entry.pattern))))
                    with self._lock:
                        key = (entry.name, derived.metric_type, labels)
                        if len(self._counts) < MAX_GROUPS or key in self._counts:
                            self._counts[key] += 1
                return

    def _run(self) -> None:
        backoff, failures = Backoff(first_s=0.5, max_s=15.0), 0
        self._is_subscribed = False
        while not self._stop.is_set():
            try:
                with self._connect().pubsub() as subscription:  # type: ignore[no-untyped-call]
                    subscription.psubscribe(*sorted({entry.glob for entry in self._entries}))
                    if self._listen(subscription):
                        return
            except Exception as error:
                # At the end of the service its connections are closed, this one while it waits too.
                if self._stop.is_set():
                    return
                with self._lock:
                    self._gaps += self._is_subscribed
                if self._is_subscribed:
                    failures = 0
                self._is_subscribed = False
                if not isinstance(error, redis.RedisError):
                    raise
                self.trouble = str(classify(error) or error)
                _log.info("channels not subscribed", trouble=self.trouble)
            failures += 1
            if self._stop.wait(backoff.pause_s(failures)):
                return

    def _listen(self, subscription: redis.client.PubSub) -> bool:
        """Count until told to stop, or until the counts are not taken any more; True then."""
        while not self._stop.is_set():
            if time.monotonic() - self._taken_s > IDLE_S:
                return True
            message = subscription.get_message(timeout=POLL_S)
            if message is not None and message["type"] == "psubscribe":
                # Until Redis has said yes nothing is heard, and nothing can be lost.
                self._is_subscribed, self.trouble = True, ""
            elif message is not None and message["type"] == "pmessage":
                self.count(message["channel"].decode("utf-8", "replace"), message["data"])
        return True
