"""Follows ``retention:performance_metrics`` while everything runs: what is accepted, and ClickHouse's TTL.

The platform changes the hours in its Redis; within ``INTERVAL_S`` every process accepts items by them, and the holder
of the schedule alters the tables. No table keeps less than what is accepted: where the time becomes longer the tables
go first, where it becomes shorter what is accepted goes first.

A ClickHouse that refuses the change keeps its TTL; then nothing older than before is accepted, and ``trouble`` says
what to do. When Redis or ClickHouse is away the next look goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.base import log
from pipeline.base.config import Settings
from pipeline.base.errors import Outage, PipelineError, StoreRefused
from pipeline.base.redis_link import RedisLink
from pipeline.jobs.retention import asked_hours
from pipeline.store.client import Store
from pipeline.store.migrate import RAW_TTL_MARGIN_HOURS, keep, kept_hours

_log = log.get(__name__)

INTERVAL_S = 15.0


class RetentionFollower:
    """One process's view of how long raw rows are kept."""

    def __init__(
        self,
        settings: Settings,
        default_hours: int,
        link: RedisLink,
        store: Store,
        accept: Callable[[int], None],
        alters: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._default_hours = default_hours
        self._link = link
        self._store = store
        self._accept = accept
        self._alters = alters
        self._wrong: dict[str, str] = {}
        self.hours = settings.retention.raw_hours
        """Items of so many hours are accepted."""
        self.trouble = ""

    def run(self, stop: threading.Event) -> None:
        """Look now and then until ``stop`` is set."""
        while not stop.wait(INTERVAL_S):
            try:
                self.look()
            except Outage as outage:
                _log.debug("retention not read", trouble=str(outage))
            except PipelineError as error:
                # A table that is gone or a right that was taken must not end the service; the next look may succeed.
                self.trouble = f"the retention is not followed: {error}"

    def look(self) -> None:
        """Follow once. Raises ``Outage``."""
        asked, wrong = asked_hours(self._link)
        if wrong and wrong != self._wrong:
            _log.warning("retention ignored", **wrong)
        self._wrong = wrong
        hours = self._default_hours if asked is None else asked
        kept = kept_hours(self._store)
        if hours < self.hours:
            self._follow(hours)
        self.trouble = ""
        if kept is not None and kept != hours + RAW_TTL_MARGIN_HOURS and self._alters():
            self._keep(hours)
            kept = kept_hours(self._store)
        if kept is None or kept >= hours + RAW_TTL_MARGIN_HOURS:
            self._follow(hours)

    def _keep(self, hours: int) -> None:
        try:
            keep(self._store, self._settings, hours)
        except StoreRefused as refused:
            _log.debug("tables not altered", reason=str(refused))
            self.trouble = (
                f"raw rows are to be kept for {hours:,} h, but ClickHouse does not let this user alter the tables: "
                f"set retention.raw_hours to {hours} and run 'pipeline migrate'"
            )

    def _follow(self, hours: int) -> None:
        if hours != self.hours:
            _log.info("retention changed", from_hours=self.hours, to_hours=hours)
            self._accept(hours)
            self.hours = hours
