"""Telling channels: one thread for each, so that a slow or dead one delays no other.

What has to be told waits in Redis, not in memory: the evaluator never waits for a channel, and a
process that dies takes nothing along. Each thread decides what is due (``dispatch``), freezes it,
sends it, and writes down that it arrived. What did not arrive is sent again, for ever, after pauses
that grow from one second to five minutes.

When Redis is away a thread waits for it; when the process is told to end, it finishes what it sends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.alerts.journal.silences import QuietTimes, Silences, is_quiet
from pipeline.alerts.notify import channels as channels_
from pipeline.alerts.notify import wording
from pipeline.alerts.notify.channels import Channel, Undelivered
from pipeline.alerts.notify.deliveries import Deliveries
from pipeline.alerts.notify.dispatch import Labels, Note, Update, arrived, plan
from pipeline.alerts.notify.wording import Body
from pipeline.alerts.rules.matchers import all_match
from pipeline.base import log
from pipeline.base.backoff import Backoff
from pipeline.base.clock import Clock
from pipeline.base.errors import RedisOutage
from pipeline.base.failpoints import hit

_log = log.get(__name__)

BACKOFF = Backoff(first_s=1.0, max_s=300.0, jitter=0.3)
"""Pauses before a notification is sent again; each group has its own."""
LOOK_AT_LEAST_EVERY_S = 5.0
"""Silences end, and another process may have judged alerts, without a signal to this thread."""

Send = Callable[[Channel, Body, str], None]


@dataclass
class _Retry:
    failures: int = 0
    next_ms: int = 0

    def is_due(self, now_ms: int) -> bool:
        # A time further away than the longest pause comes from a clock that was ahead.
        return not now_ms < self.next_ms <= now_ms + BACKOFF.max_s * 1000

    def postpone(self, now_ms: int) -> int:
        """Count a failure; how long to wait (milliseconds)."""
        self.failures += 1
        pause_ms = int(BACKOFF.pause_s(self.failures) * 1000)
        self.next_ms = now_ms + pause_ms
        return pause_ms


@dataclass
class ChannelFigures:
    """What a channel did since the start."""

    sent: int = 0
    failed: int = 0
    last_error: str = ""


@dataclass
class ChannelWorker:
    """Tells one channel what it has to be told. ``turn`` does what is due; ``run`` does turns until stopped."""

    channel: Channel
    deliveries: Deliveries
    silences: Silences | QuietTimes
    clock: Clock
    send: Send = channels_.send
    figures: ChannelFigures = field(default_factory=ChannelFigures)
    _retries: dict[str, _Retry] = field(default_factory=dict)
    _wake: threading.Event = field(default_factory=threading.Event)
    _stopped: bool = False

    def turn(self, now_ms: int) -> int:
        """Send what is due at ``now_ms``; when to look again (epoch milliseconds). Raises ``RedisOutage``."""
        in_flight = self.deliveries.in_flight()
        for update in in_flight.values():
            self._try(update, now_ms)
        still = {group: update for group, update in in_flight.items() if group in self._retries}
        updates, wake_ms = self._plan(now_ms, still)
        for update in updates:
            if self._stopped:
                break
            if update.body is None:
                self.deliveries.settle(update, update.after)
            elif self.deliveries.freeze(update):
                hit("notify.after_freeze")
                self._try(update, now_ms)
        retries = [retry.next_ms for retry in self._retries.values()]
        return min([wake_ms, *retries])

    def run(self) -> None:
        """Do turns until ``stop``; outages of Redis are waited out."""
        while not self._stopped:
            pause_s = LOOK_AT_LEAST_EVERY_S
            try:
                now_ms = self.clock.now_ms()
                pause_s = min(pause_s, max(0.05, (self.turn(now_ms) - now_ms) / 1000))
            except RedisOutage as error:
                _log.warning("notification channel waiting for redis", channel=self.channel.name, error=str(error))
            except Exception:
                # A bug must be loud, and must not silence the channel: everything is still pending.
                _log.exception("notification channel failed", channel=self.channel.name)
            self._wake.wait(pause_s)
            self._wake.clear()

    def wake(self) -> None:
        """Look now: something new is pending."""
        self._wake.set()

    def stop(self) -> None:
        """End ``run`` after what it is sending."""
        self._stopped = True
        self._wake.set()

    def _plan(self, now_ms: int, busy: Mapping[str, Update]) -> tuple[Sequence[Update], int]:
        silences = self.silences.active(now_ms)
        mute_times = self.channel.mute_times

        def quiet(labels: Labels) -> bool:
            return is_quiet(labels, now_ms, silences, mute_times)

        told, pending = self.deliveries.told(), self.deliveries.pending()
        found = plan(self.channel.name, self.channel.policy, self._concerning(pending), told, now_ms, quiet, busy)
        return found.updates, found.wake_ms or now_ms + int(LOOK_AT_LEAST_EVERY_S * 1000)

    def _concerning(self, pending: Sequence[Note]) -> list[Note]:
        matchers = self.channel.matchers
        mine = [note for note in pending if all_match(matchers, note.labels)]
        self.deliveries.discard([note for note in pending if not all_match(matchers, note.labels)])
        return mine

    def _try(self, update: Update, now_ms: int) -> None:
        """Send one notification, once it is due. Its failure is its own: other groups are told all the same."""
        retry = self._retries.setdefault(update.group_key, _Retry())
        if update.body is None or self._stopped or not retry.is_due(now_ms):
            return
        try:
            if not (self.channel.is_for_people and wording.part_of(update.body) > wording.MOST_MESSAGES):
                self.send(self.channel, update.body, update.key)
        except Undelivered as error:
            pause_ms = retry.postpone(now_ms)
            self.figures.failed += 1
            self.figures.last_error = str(error)
            _log.warning(
                "notification not delivered",
                channel=self.channel.name,
                error=str(error),
                attempts=retry.failures,
                next_try_in_ms=pause_ms,
                key=update.key,
            )
            return
        hit("notify.after_send")
        self.deliveries.settle(update, arrived(update, self.channel.policy, now_ms))
        hit("notify.after_settle")
        del self._retries[update.group_key]
        self.figures.sent += 1
        self.figures.last_error = ""
        _log.info(
            "notification delivered",
            channel=self.channel.name,
            group=update.group_key,
            firing=update.body["firing"],
            resolved=update.body["resolved"],
            key=update.key,
        )


class Notifier:
    """All channels, each with its own thread."""

    def __init__(self, workers: Sequence[ChannelWorker]) -> None:
        self.workers = list(workers)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to tell."""
        for worker in self.workers:
            thread = threading.Thread(target=worker.run, name=f"channel-{worker.channel.name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """Something was committed."""
        for worker in self.workers:
            worker.wake()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the threads; one that hangs in a dead channel is left behind, its notification frozen in Redis."""
        for worker in self.workers:
            worker.stop()
        for thread in self._threads:
            thread.join(timeout_s)
        self._threads.clear()
