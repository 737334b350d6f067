"""What is going on: gathered from Redis and ClickHouse for ``status`` and ``top``.

A status is never an error. Each part that cannot be asked stays unknown (None, null in JSON) and is named
under ``trouble``; the others are asked all the same. Looking changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from pipeline.base.config import Settings
from pipeline.base.errors import PipelineError
from pipeline.base.keys import FleetKeys
from pipeline.base.redis_link import IS_REPLICA, RedisLink, is_replica
from pipeline.buffer.books import UNKNOWN, Books
from pipeline.buffer.buffer import Buffer
from pipeline.buffer.high_water import Fill, fills_of, memory
from pipeline.buffer.lag import lag_s, oldest_waiting_s
from pipeline.collect.catalogue import catalogue
from pipeline.collect.told import read_health, read_states
from pipeline.jobs.retention import asked_hours
from pipeline.operate.fleet import Fleet
from pipeline.operate.lease import LEASE_S
from pipeline.store.client import Store
from pipeline.store.migrate import kept_hours

DRAINING = ("run", "drain", "demo")
"""Roles of processes that seal what waits."""

SCHEDULING = ("run", "demo")
"""Roles of processes of which one holds the schedule."""


@dataclass
class Status:
    """One look at the pipeline; None is unknown."""

    books: Books | None = None
    set_aside_names: list[str] = field(default_factory=list)
    oldest_waiting_s: float | None = None
    oldest_s: float | None = None
    fills: dict[str, list[Fill]] = field(default_factory=dict)
    dirty_minutes: int | None = None
    ledger_pending: int | None = None
    redis_memory_bytes: int | None = None
    redis_memory_pct: float | None = None
    high_water: list[str] = field(default_factory=list)
    services: list[dict[str, Any]] | None = None
    collect: dict[str, dict[str, Any]] | None = None
    """How each entry of the platform's schema is collected: last look, keys, items, trouble, gaps."""
    redis_health: dict[str, Any] | None = None
    """The document's health list: figures of the server, and what Redis says of each database."""
    retention_h: int | None = None
    """How old items may be, as the platform's Redis or the settings say."""
    kept_h: int | None = None
    """How long ClickHouse keeps raw rows, by the TTL that is in force; unknown also where there is none."""
    rows: int | None = None
    newest_row_age_s: float | None = None
    firing: int | None = None
    dead_letters_open: int | None = None
    trouble: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The object that ``pipeline status --json`` prints."""
        fields = {name: value for name, value in vars(self).items() if name not in ("books", "fills")}
        fills = {
            key: {fill.name: {"value": fill.value, "limit": fill.limit, "passed": fill.is_passed} for fill in fills}
            for key, fills in self.fills.items()
        }
        books = self.books.as_dict() if self.books is not None else UNKNOWN
        return {**books, **fields, "fills": fills}

    def highest(self) -> list[Fill]:
        """By each limit the buffer that is nearest to it, or furthest beyond."""
        return [max(of_one, key=lambda fill: fill.pct) for of_one in zip(*self.fills.values(), strict=True)]


def gather(
    settings: Settings, link: RedisLink, buffers: Sequence[Buffer], store: Store | None, store_trouble: str = ""
) -> Status:
    """Ask Redis and, where ``store`` is given, ClickHouse. ``store_trouble`` says why there is no store."""
    status = Status()
    _ask_redis(status, settings, link, buffers)
    if store_trouble:
        status.trouble.append(store_trouble)
    if store is not None:
        _ask_clickhouse(status, store)
    status.trouble += [trouble for said in status.services or [] for trouble in service_trouble(said)]
    status.trouble += schedule_trouble(status.services)
    if status.books is not None and status.books.unaccounted:
        status.trouble.append(f"the books differ by {status.books.unaccounted}: run 'pipeline audit'")
    if status.set_aside_names:
        status.trouble.append(set_aside_sentence(status.set_aside_names))
    status.high_water = high_water(status)
    status.trouble += status.high_water
    status.trouble = list(dict.fromkeys(status.trouble))
    return status


def set_aside_sentence(names: Sequence[str]) -> str:
    """What waits for a person, in words."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} set aside: see 'pipeline segments ls', then 'pipeline segments close'"


# Redis


def _ask_redis(status: Status, settings: Settings, link: RedisLink, buffers: Sequence[Buffer]) -> None:
    fleet = Fleet(link.database("metrics"), FleetKeys(settings.fleet.name).services)
    now_ms = _part(status, "Redis", fleet.now_ms)
    if now_ms is None:
        return  # it is away: nothing else would be answered
    info = _part(status, "Redis", link.server_info) or {}
    memory_pct = 0.0
    if info:
        if is_replica(info):
            status.trouble.append(IS_REPLICA)
        used, limit = memory(info)
        status.redis_memory_bytes = used
        memory_pct = 100 * used / limit if limit else 0.0
        status.redis_memory_pct = round(memory_pct, 1)
    _ask_retention(status, settings, link)
    status.services = _part(status, "Redis", lambda: fleet.services(now_ms))
    client, keys = link.database("metrics"), buffers[0].keys
    status.collect = _part(status, "Redis", lambda: read_states(client, keys, catalogue(settings.collect.keys)))
    databases = settings.redis.databases.model_dump()
    status.redis_health = _part(status, "Redis", lambda: read_health(client, keys, info, databases, now_ms))
    drains = any(said.get("role") in DRAINING for said in status.services or [])
    all_books: list[Books | None] = []
    for buffer in buffers:
        books = _part(status, buffer.key, buffer.books)
        all_books.append(books)
        if books is not None:
            _ask_ages(status, settings, buffer, books, now_ms, drains, memory_pct)
        dirty = _part(status, buffer.key, buffer.dirty_minutes)
        pending = _part(status, buffer.key, buffer.acked_count)
        status.dirty_minutes = _sum(status.dirty_minutes, None if dirty is None else len(dirty))
        status.ledger_pending = _sum(status.ledger_pending, pending)
        status.set_aside_names += _part(status, buffer.key, buffer.set_aside_names) or []
    known = [books for books in all_books if books is not None]
    if len(known) == len(all_books):  # a sum of some of them would look like all of them
        status.books = sum(known, Books())


def _ask_retention(status: Status, settings: Settings, link: RedisLink) -> None:
    """A service looks every few seconds: what is wrong stands here, and in its log once."""
    asked = _part(status, "Redis", lambda: asked_hours(link))
    if asked is None:
        return
    hours, wrong = asked
    status.retention_h = settings.retention.raw_hours if hours is None else hours
    if wrong:
        reason = wrong.get("reason") or f"ttl_hours is {wrong['ttl_hours']!r}"
        status.trouble.append(f"{wrong['key']} is ignored ({reason}): {wrong['fix']}")


def _ask_ages(
    status: Status, settings: Settings, buffer: Buffer, books: Books, now_ms: int, drains: bool, memory_pct: float
) -> None:
    waiting_s = _part(status, buffer.key, lambda: oldest_waiting_s(buffer, now_ms))
    age_s = _part(status, buffer.key, lambda: lag_s(buffer, books, now_ms, is_being_sealed=drains))
    status.oldest_waiting_s = _largest(status.oldest_waiting_s, waiting_s)
    if age_s is not None:
        status.oldest_s = _largest(status.oldest_s, round(age_s, 1))
        status.fills[buffer.key] = fills_of(settings.buffer, books, round(age_s, 1), round(memory_pct, 4))


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


def _largest(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


# What processes say of themselves


def service_trouble(said: Mapping[str, Any]) -> list[str]:
    """What is wrong with one process, by its heartbeat: what it says itself, overdue jobs, channels that fail."""
    found = [f"{said['name']}: {said['trouble']}"] if said.get("trouble") else []
    jobs = said.get("jobs")
    for name, job in jobs.items() if isinstance(jobs, Mapping) else ():
        if isinstance(job, Mapping) and job.get("overdue"):
            found.append(
                f"{said['name']}: job {name} is overdue: it began {job.get('began_s_ago', 0):,.0f} s ago "
                f"and is to begin every {job.get('interval_s', 0):g} s"
            )
    channels = said.get("channels")
    for name, channel in channels.items() if isinstance(channels, Mapping) else ():
        if isinstance(channel, Mapping) and channel.get("last_error"):
            found.append(f"{said['name']}: channel {name} does not take notifications: {channel['last_error']}")
    return found


def schedule_trouble(services: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Whether some process runs the jobs; one that has just started may still wait for a lease to run out."""
    scheduling = [said for said in services or [] if said.get("role") in SCHEDULING]
    settled = [said for said in scheduling if said.get("running_s", 0) > 2 * LEASE_S]
    if settled and not any(said.get("schedules") for said in scheduling):
        return ["no service holds the schedule: nothing is rolled up and no alert is judged"]
    return []


def high_water(status: Status) -> list[str]:
    """Which high-water marks are passed, in words; the memory is the same for all buffers and said once."""
    several = len(status.fills) > 1
    passed: dict[str, None] = {}
    for key, of_buffer in status.fills.items():
        for fill in of_buffer:
            if fill.is_passed:
                passed[f"{key}: {fill}" if several and fill.name != "memory_pct" else str(fill)] = None
    return list(passed)


# ClickHouse


def _ask_clickhouse(status: Status, store: Store) -> None:
    def number(sql: str) -> Any:
        found = _part(status, "ClickHouse", lambda: store.rows(sql))
        return found[0][0] if found else None

    status.kept_h = _part(status, "ClickHouse", lambda: kept_hours(store))
    status.rows = number("SELECT count() FROM metrics")
    status.newest_row_age_s = number(
        "SELECT if(count() = 0, NULL, greatest(0, round((toUnixTimestamp64Milli(now64(3)) "
        "- toUnixTimestamp64Milli(max(ingested_at))) / 1000, 1))) FROM metrics WHERE timestamp > now() - INTERVAL 1 DAY"
    )
    status.firing = number("SELECT count() FROM alerts_now WHERE to_state = 'firing'")
    status.dead_letters_open = number("SELECT count() FROM dead_letters_open")


def _part(status: Status, where: str, ask: Callable[[], Any]) -> Any:
    """What ``ask`` answers; None, and trouble in words, when it cannot be answered."""
    try:
        return ask()
    except PipelineError as error:
        text = str(error)
    except (redis.RedisError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Something else lies where our key should be.
        text = f"cannot be read: {error}"
    said = text if text.startswith(where) else f"{where}: {text}"
    if said not in status.trouble:
        status.trouble.append(said)
    return None
