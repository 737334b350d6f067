"""What is going on: gathered from Redis and ClickHouse for ``status``, ``top`` and the alert facts.

Each part that cannot be asked is left out and named under ``trouble``; a status is never an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.alerts.judge.facts import Facts, Readings
from pipeline.base.clock import Clock
from pipeline.base.config import Settings
from pipeline.base.errors import Outage, PipelineError
from pipeline.base.redis_link import RedisLink, outages
from pipeline.buffer.books import UNKNOWN, Books
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.high_water import Level, levels, memory, sealed_age_s, spilled_age_s
from pipeline.collect.redis_health import RedisHealth
from pipeline.metric import Limits, Metric, decode
from pipeline.operate.schedule import JobState
from pipeline.store.client import Store

STALE_HEARTBEAT_MS = 15_000
DRAINING = ("run", "drain")
"""Roles of processes that seal what waits."""


@dataclass
class Status:
    """One look at the pipeline."""

    books: Books | None = None
    """None when Redis cannot be asked."""
    set_aside_names: list[str] = field(default_factory=list)
    oldest_waiting_s: float = 0.0
    oldest_s: float = 0.0
    marks: dict[str, list[Level]] = field(default_factory=dict)
    dirty_minutes: int = 0
    ledger_pending: int = 0
    redis_memory_bytes: int = 0
    redis_memory_pct: float = 0.0
    high_water: list[str] = field(default_factory=list)
    services: list[dict[str, Any]] = field(default_factory=list)
    rows: int | None = None
    newest_row_age_s: float | None = None
    firing: int | None = None
    dead_letters_open: int | None = None
    trouble: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The object that ``pipeline status --json`` prints."""
        fields = {name: value for name, value in vars(self).items() if name not in ("books", "marks")}
        marks = {
            key: {level.name: {"value": level.value, "mark": level.mark, "passed": level.is_passed} for level in levels}
            for key, levels in self.marks.items()
        }
        books = self.books.as_dict() if self.books is not None else UNKNOWN
        return {**books, **fields, "marks": marks}

    def highest(self) -> list[Level]:
        """Of each mark the level of the buffer that is nearest to it, or furthest beyond."""
        return [max(of_one, key=lambda level: level.pct) for of_one in zip(*self.marks.values(), strict=True)]


def gather(settings: Settings, link: RedisLink, buffers: Sequence[Buffer], store: Store | None) -> Status:
    """Ask Redis and, where ``store`` is given, ClickHouse."""
    status = Status()
    try:
        _ask_redis(status, settings, link, buffers)
    except Outage as outage:
        status.trouble.append(f"Redis: {outage}")
    if store is not None:
        try:
            _ask_clickhouse(status, store)
        except PipelineError as error:
            status.trouble.append(str(error))
    for service in status.services:
        if service.get("trouble"):
            status.trouble.append(f"{service['name']}: {service['trouble']}")
    if status.books is not None and status.books.unaccounted:
        status.trouble.append(f"the books differ by {status.books.unaccounted}: run 'pipeline audit'")
    if status.set_aside_names:
        status.trouble.append(set_aside_sentence(status.set_aside_names))
    status.trouble += status.high_water
    return status


def set_aside_sentence(names: Sequence[str]) -> str:
    """What waits for a person, in words."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} set aside: see 'pipeline segments ls', then 'pipeline segments close'"


def oldest_waiting_s(buffer: Buffer, now_ms: int) -> float:
    """Age of the oldest item that waits, by its own timestamp; 0 when nothing waits or it cannot be read."""
    with outages():
        item = buffer.client.lindex(buffer.key, -1)
    if item is None:
        return 0.0
    metric = decode(item, now_ms, Limits(retention_ms=1 << 53))
    return max(0.0, (now_ms - metric.timestamp_ms) / 1000) if isinstance(metric, Metric) else 0.0


def _ask_redis(status: Status, settings: Settings, link: RedisLink, buffers: Sequence[Buffer]) -> None:
    now_ms = time.time_ns() // 1_000_000
    info = link.server_info()
    used, limit = memory(info)
    status.redis_memory_bytes = used
    memory_pct = 100 * used / limit if limit else 0.0
    status.redis_memory_pct = round(memory_pct, 1)
    status.services = services(buffers[0], now_ms)
    for buffer in buffers:
        books = buffer.books()
        waiting_s = oldest_waiting_s(buffer, now_ms)
        age_s = max(sealed_age_s(books, now_ms), spilled_age_s(buffer, now_ms) if books.spilled else 0.0)
        if not any(service.get("role") in DRAINING for service in status.services):
            # Nobody seals; how long an item lies there only its own time can tell.
            age_s = max(age_s, waiting_s)
        status.books = books + (status.books or Books())
        status.set_aside_names += buffer.set_aside_names()
        status.oldest_waiting_s = max(status.oldest_waiting_s, waiting_s)
        status.oldest_s = max(status.oldest_s, round(age_s, 1))
        status.marks[buffer.key] = levels(settings.buffer, books, round(age_s, 1), round(memory_pct, 4))
        with outages():
            status.dirty_minutes += buffer.client.hlen(buffer.keys.dirty)
            status.ledger_pending += buffer.client.llen(buffer.keys.acked)
    status.high_water = high_water(status)


def services(buffer: Buffer, now_ms: int) -> list[dict[str, Any]]:
    """What each running process last said of itself; those that fell silent are left out."""
    with outages():
        found = buffer.client.hgetall(buffer.keys.services)
    said = [{"name": name.decode(), **json.loads(text)} for name, text in found.items()]
    return [one for one in said if now_ms - one["at"] < STALE_HEARTBEAT_MS]


def high_water(status: Status) -> list[str]:
    """Which high-water marks are passed, in words; the memory is the same for all buffers and said once."""
    several = len(status.marks) > 1
    passed: dict[str, None] = {}
    for key, of_buffer in status.marks.items():
        for level in of_buffer:
            if level.is_passed:
                passed[f"{key}: {level}" if several and level.name != "memory_pct" else str(level)] = None
    return list(passed)


def _ask_clickhouse(status: Status, store: Store) -> None:
    rows, newest_ms = store.rows(
        "SELECT count(), toUnixTimestamp64Milli(max(ingested_at)) FROM metrics WHERE timestamp > now() - INTERVAL 1 DAY"
    )[0]
    status.rows = store.rows("SELECT count() FROM metrics")[0][0]
    if rows:
        status.newest_row_age_s = round(max(0.0, time.time() - newest_ms / 1000), 1)
    status.firing = store.rows("SELECT count() FROM alerts_now WHERE to_state = 'firing'")[0][0]
    status.dead_letters_open = store.rows("SELECT count() FROM dead_letters_open")[0][0]


@dataclass
class Watch:
    """The pipeline watching itself and its Redis: the numbers that alert rules call facts."""

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
        oldest = [now_ms]
        for buffer in self.buffers:
            books = buffer.books()
            if books.in_flight:
                oldest.append(books.oldest_sealed_at_ms)
            if books.waiting:
                oldest.append(now_ms - int(oldest_waiting_s(buffer, now_ms) * 1000))
        return min(oldest)

    def _buffers(self) -> dict[str, float | Readings]:
        now_ms = time.time_ns() // 1_000_000
        waiting: list[tuple[Mapping[str, str], float]] = []
        filled: list[tuple[Mapping[str, str], float]] = []
        lag: list[tuple[Mapping[str, str], float]] = []
        set_aside: list[tuple[Mapping[str, str], float]] = []
        unaccounted = 0
        rollup_lag_s = 0.0
        # Until a minute is final it stays noted although it is rolled up.
        settled_s = (
            self.clock.now_ms() / 1000 - self.settings.rollups.grace_s - 60 - 2 * self.settings.rollups.interval_s
        )
        for buffer in self.buffers:
            labels = {"buffer": buffer.key}
            books = buffer.books()
            unaccounted += abs(books.unaccounted)
            set_aside.append((labels, float(len(buffer.set_aside_names()))))
            rollup_lag_s = max([rollup_lag_s, *(settled_s - minute for minute in buffer.dirty_minutes())])
            waiting.append((labels, float(books.waiting)))
            marks = self.settings.buffer
            filled.append((labels, 100 * (books.waiting + books.in_flight) / marks.high_water_rows))
            lag.append((labels, sealed_age_s(books, now_ms)))
        return {
            "buffer_waiting": waiting,
            "buffer_high_water_pct": filled,
            "drain_lag_s": lag,
            "unaccounted": float(unaccounted),
            "segments_set_aside": set_aside,
            "rollup_lag_s": rollup_lag_s,
        }
