"""Alerting as a whole: what the service runs, and what the command line asks for.

``Alerting`` is one evaluator, one notifier and the two ways things leave for Redis and ClickHouse.
``run_once`` is called every ``alerts.interval_s`` by the process that holds the schedule's lease.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.alerts.journal import table
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal
from pipeline.alerts.journal.maintenance import MaintenanceWindows
from pipeline.alerts.journal.silences import QuietTimes, Silences
from pipeline.alerts.judge.evaluator import CompleteUntil, EvaluationReport, Evaluator
from pipeline.alerts.judge.facts import Facts
from pipeline.alerts.judge.sources import StoreSource
from pipeline.alerts.notify import channels as channels_
from pipeline.alerts.notify.channels import Channel, parse_channels
from pipeline.alerts.notify.deliveries import Deliveries
from pipeline.alerts.notify.notify import ChannelWorker, Notifier
from pipeline.alerts.rules import load as rules_
from pipeline.base import log
from pipeline.base.clock import Clock, WallClock
from pipeline.base.config import Settings
from pipeline.base.errors import KeyDamaged, Outage, StoreOutage
from pipeline.base.redis_link import RedisLink
from pipeline.store.client import Store

_log = log.get(__name__)


RELOADABLE = ("rules_file", "delay_s", "channels", "page_url")
"""Settings of ``alerts`` that take effect without a restart."""


@dataclass
class AlertingReport:
    """What one turn did."""

    evaluation: EvaluationReport
    published: int = 0
    stored: int = 0


class Alerting:
    """Judges the rules and has everything told. Raises ``RuleError`` or ``ConfigError`` at the start, never later."""

    def __init__(
        self, settings: Settings, store: Store, link: RedisLink, *, clock: Clock | None = None, deliver: bool = True
    ) -> None:
        self._settings = settings
        self._store = store
        self._link = link
        self._deliver = deliver
        self._is_started = False
        self._clock = clock or WallClock()
        channels = parse_channels(settings.alerts.channels)
        self._journal = Journal(
            link.database("metrics"), AlertKeys.of(settings), channels_.names(channels), skip=settings.publish.skip
        )
        self.notifier = self._notifier(channels)
        self.evaluator = Evaluator(
            self._journal,
            rules_.load(settings.alerts.rules_file),
            StoreSource(store),
            delay_ms=int(settings.alerts.delay_s * 1000),
            page_url=settings.alerts.page_url,
            on_commit=self._wake,
        )

    def _wake(self) -> None:
        self.notifier.wake()  # whichever it is: a reload may have made another one

    def _notifier(self, channels: Sequence[Channel]) -> Notifier:
        client, keys = self._link.database("metrics"), AlertKeys.of(self._settings)
        quiet = QuietTimes(Silences(client, keys), MaintenanceWindows(self._link.database("environment")))
        return Notifier(
            [
                ChannelWorker(channel, Deliveries(client, keys, channel.name), quiet, self._clock)
                for channel in (channels if self._deliver else [])
            ]
        )

    def start(self) -> None:
        """Begin to tell channels."""
        self._is_started = True
        self.notifier.start()

    def run_once(self, facts: Facts, complete_until: CompleteUntil | None = None) -> AlertingReport:
        """Judge what is due now, publish it, store it.

        ``complete_until`` says up to which end of a window (epoch milliseconds) windows, vitals, baselines and
        change points are complete; what it does not name counts as complete.
        Raises ``RedisOutage`` at once; ``StoreOutage`` after everything that needs no ClickHouse was done, and
        ``KeyDamaged`` after everything that does not need that key.
        """
        report = AlertingReport(EvaluationReport())
        outages: list[Outage] = []
        with _kept(outages):
            report.evaluation = self.evaluator.run(self._clock.now_ms(), facts, complete_until)
        with _kept(outages):
            report.published = self._journal.publish()
        if not any(isinstance(outage, StoreOutage) for outage in outages):
            with _kept(outages):
                report.stored = table.flush(self._journal, self._store)
        if outages:
            raise outages[0]
        return report

    def reload(self, settings: Settings | None = None) -> list[str]:
        """Read the rules again, and take over ``alerts.*`` of new settings; the names of what was reloaded.

        Raises ``RuleError`` or ``ConfigError``, and goes on with everything as it was, when something is wrong.
        """
        alerts = (settings or self._settings).alerts
        before = self._settings.alerts
        rules = rules_.load(alerts.rules_file)
        channels = parse_channels(alerts.channels)
        changed = [name for name in RELOADABLE if getattr(alerts, name) != getattr(before, name)]
        self._settings = settings or self._settings
        self.evaluator.reload(rules, delay_ms=int(alerts.delay_s * 1000), page_url=alerts.page_url)
        if "channels" in changed:
            self._journal.channels = tuple(channels_.names(channels))
            replaced, self.notifier = self.notifier, self._notifier(channels)
            replaced.stop()
            if self._is_started:
                self.notifier.start()
        reloaded = ["alert rules", *(f"alerts.{name}" for name in changed)]
        _log.info(
            "settings reloaded", reloaded=reloaded, rules=len(rules), rules_file=alerts.rules_file or "as shipped"
        )
        return reloaded

    def close(self) -> None:
        """Stop telling channels; what was not told is told after the next start."""
        self.notifier.stop()

    def figures(self) -> dict[str, dict[str, Any]]:
        """By channel, what was sent and what failed since the start; for /metrics and status."""
        return {
            worker.channel.name: {
                "sent": worker.figures.sent,
                "failed": worker.figures.failed,
                "last_error": worker.figures.last_error,
            }
            for worker in self.notifier.workers
        }


@contextlib.contextmanager
def _kept(outages: list[Outage]) -> Iterator[None]:
    """Keep an outage that leaves something else to do."""
    try:
        yield
    except (StoreOutage, KeyDamaged) as outage:
        outages.append(outage)
