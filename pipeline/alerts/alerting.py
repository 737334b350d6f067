"""Alerting as a whole: what the service runs, and what the command line asks for.

``Alerting`` is one evaluator, one notifier and the two ways things leave for Redis and ClickHouse.
``run_once`` is called every ``alerts.interval_s`` by whoever holds the schedule's lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.alerts.journal import table
from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal
from pipeline.alerts.journal.silences import Silences
from pipeline.alerts.judge.evaluator import EvaluationReport, Evaluator, Progress
from pipeline.alerts.judge.facts import Facts
from pipeline.alerts.judge.sources import StoreSource
from pipeline.alerts.notify import channels as channels_
from pipeline.alerts.notify.channels import parse_channels
from pipeline.alerts.notify.deliveries import Deliveries
from pipeline.alerts.notify.notify import ChannelWorker, Notifier
from pipeline.alerts.rules import load as rules_
from pipeline.base import log
from pipeline.base.clock import Clock, WallClock
from pipeline.base.config import Settings
from pipeline.base.errors import StoreOutage
from pipeline.base.redis_link import RedisLink
from pipeline.store.client import Store

_log = log.get(__name__)


@dataclass
class AlertingReport:
    """What one run did."""

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
        channels = parse_channels(settings.alerts.channels)
        client, keys = link.database("metrics"), AlertKeys.of(settings)
        self._journal = Journal(client, keys, channels_.names(channels))
        self._clock = clock or WallClock()
        silences = Silences(client, keys)
        self.notifier = Notifier(
            [
                ChannelWorker(channel, Deliveries(client, keys, channel.name), silences, self._clock)
                for channel in (channels if deliver else [])
            ]
        )
        self.evaluator = Evaluator(
            self._journal,
            rules_.load(settings.alerts.rules_file),
            StoreSource(store),
            delay_ms=int(settings.alerts.delay_s * 1000),
            page_url=settings.alerts.page_url,
            on_commit=self.notifier.wake,
        )

    def start(self) -> None:
        """Begin to tell channels."""
        self.notifier.start()

    def run_once(self, facts: Facts, progress: Progress | None = None) -> AlertingReport:
        """Judge what is due now, publish it, store it.

        ``progress`` says up to which end of a window (epoch milliseconds) windows, vitals, baselines and
        change points are complete; what it does not name counts as complete.
        Raises ``RedisOutage``, or ``StoreOutage`` after everything that needs no ClickHouse was done.
        """
        outage: StoreOutage | None = None
        report = AlertingReport(EvaluationReport())
        try:
            report.evaluation = self.evaluator.run(self._clock.now_ms(), facts, progress)
        except StoreOutage as error:
            outage = error
        report.published = self._journal.publish()
        if outage is not None:
            raise outage
        report.stored = table.flush(self._journal, self._store)
        return report

    def reload(self) -> None:
        """Read the rules again. Raises ``RuleError`` and goes on with the old ones when they are wrong."""
        self.evaluator.reload(rules_.load(self._settings.alerts.rules_file))
        _log.info("alert rules read again", rules=len(self.evaluator.rules))

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
