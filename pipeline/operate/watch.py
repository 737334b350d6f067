"""The pipeline watching itself and its Redis: the numbers that alert rules call facts.

Ages are by Redis's clock, as everything that is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.alerts.judge.facts import Facts, Readings
from pipeline.base.clock import Clock
from pipeline.base.config import Settings
from pipeline.base.errors import Outage
from pipeline.base.redis_link import RedisLink
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.lag import complete_until_ms, lag_s
from pipeline.collect.redis_health import RedisHealth
from pipeline.operate.schedule import JobState
from pipeline.store.client import Store


@dataclass
class Watch:
    """Gathers facts now and then."""

    settings: Settings
    link: RedisLink
    buffers: Sequence[Buffer]
    store: Store
    clock: Clock

    def __post_init__(self) -> None:
        self._redis = RedisHealth(self.link.database("metrics"))

    def facts(self, jobs: Mapping[str, JobState]) -> Facts:
        """What can be known now; of ClickHouse perhaps only that it is away. Raises ``RedisOutage``."""
        found: dict[str, float | Readings] = {
            "jobs_failing": float(sum(bool(state.trouble) for state in jobs.values())),
            "clickhouse_unreachable": 0.0,
        }
        found |= self._redis.look()
        found |= self._buffers()
        try:
            found["dead_letters_5min"] = float(
                self.store.rows("SELECT count() FROM dead_letters WHERE refused_at > now() - INTERVAL 5 MINUTE")[0][0]
            )
        except Outage:
            found["clickhouse_unreachable"] = 1.0
        return found

    def complete_until_ms(self) -> int:
        """No item that is still on its way is expected to be older than this; alerts are judged up to here."""
        now_ms = self.clock.now_ms()
        return min((complete_until_ms(buffer, buffer.books(), now_ms) for buffer in self.buffers), default=now_ms)

    def _buffers(self) -> dict[str, float | Readings]:
        now_ms = self.clock.now_ms()
        waiting: list[tuple[Mapping[str, str], float]] = []
        filled: list[tuple[Mapping[str, str], float]] = []
        lag: list[tuple[Mapping[str, str], float]] = []
        set_aside: list[tuple[Mapping[str, str], float]] = []
        unaccounted = 0
        rollup_lag_s = 0.0
        rollups = self.settings.rollups
        # Until a minute is final it stays noted although it is rolled up.
        settled_s = now_ms / 1000 - rollups.grace_s - 60 - 2 * rollups.interval_s
        for buffer in self.buffers:
            labels = {"buffer": buffer.key}
            books = buffer.books()
            unaccounted += abs(books.unaccounted)
            set_aside.append((labels, float(len(buffer.set_aside_names()))))
            rollup_lag_s = max([rollup_lag_s, *(settled_s - minute for minute in buffer.dirty_minutes())])
            waiting.append((labels, float(books.waiting)))
            limit_rows = self.settings.buffer.high_water_rows
            filled.append((labels, 100 * (books.waiting + books.in_flight) / limit_rows))
            lag.append((labels, lag_s(buffer, books, now_ms)))
        return {
            "buffer_waiting": waiting,
            "buffer_high_water_pct": filled,
            "drain_lag_s": lag,
            "unaccounted": float(unaccounted),
            "segments_set_aside": set_aside,
            "rollup_lag_s": rollup_lag_s,
        }
