"""Passes over the platform's databases: what the keys say is pushed to the buffer as ordinary metrics.

A pass goes through all keys of a database with SCAN, a few hundred at a time, and stops after its share of the
interval; the next run goes on where it stopped. At the end of a pass its gauges are pushed; events are pushed as they
are found, together with the state that says so (``lua/push_collected.lua``), so that a kill anywhere leaves an event
collected once or not yet. The state of a pass lies in memory: after a restart it begins again, which costs reading.

One process collects at a time, the holder of the scheduler's lease; two at once push no event twice.
When Redis is away the outage is raised and the next run goes on. A database without rights is skipped and said so.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.base import failpoints, log, lua
from pipeline.base.errors import RedisDenied
from pipeline.base.keys import BufferKeys
from pipeline.base.redis_link import outages
from pipeline.collect import derive
from pipeline.collect.catalogue import Catalogue, Entry, Match
from pipeline.collect.channels import ChannelCounter
from pipeline.collect.derive import EVENT_KINDS, Events, Gauges
from pipeline.collect.looks import KeyLook, look

_log = log.get(__name__)

SCAN_COUNT = 500
"""Keys that one SCAN looks at: 0.1 to 0.3 ms of Redis."""
ITEMS_A_SCRIPT = 200
"""Items and states that one script pushes at most: well below 1 ms."""
SHARE = 0.3
"""Part of the interval that a run may take; the rest of the keys wait for the next one."""
LEFTOVER_STATES = 1_000
"""States of keys that are gone, removed by one command."""

STATUS = "status"
"""Field of the collected hash that says how each entry fares, for ``pipeline status``."""

DATABASES = ("sessions", "coordination", "results", "metrics", "ai", "notifications", "environment", "temporary")

EXECUTIONS_LAG_MS = 300_000
"""A result older than this that is not in ClickHouse never came through the buffer."""

Database = Callable[[str], Any]
KnownExecutions = Callable[[Sequence[str], int], set[str]]
"""Which of these execution ids ClickHouse has, in rows not older than a time (epoch milliseconds)."""


@dataclass
class EntryState:
    """What is known of one entry, for ``status``."""

    last_ms: int = 0
    keys: int = 0
    items: int = 0
    trouble: str = ""
    troubled_keys: int = 0


@dataclass
class _Pass:
    """One pass over a database, as far as it has come."""

    tick: int
    cursor: int = 0
    gauges: Gauges = field(default_factory=Gauges)
    seen: dict[str, int] = field(default_factory=dict)
    troubled: dict[str, tuple[str, int]] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    items: dict[str, int] = field(default_factory=dict)
    foreign: int = 0


@dataclass
class CollectReport:
    """What one run did."""

    keys: int = 0
    items: int = 0
    passes: int = 0
    trouble: list[str] = field(default_factory=list)


class Collector:
    """Reads the platform's keys and pushes what they say to one buffer."""

    def __init__(
        self,
        database: Database,
        numbers: Mapping[str, int],
        keys: BufferKeys,
        catalogue: Catalogue,
        interval_s: float,
        skip: Sequence[str] = (),
        known_executions: KnownExecutions | None = None,
        channels: ChannelCounter | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        self._database = database
        self._buffer = database("metrics")
        self._keys = keys
        self._catalogue = catalogue
        self._interval_s = interval_s
        self._skip = frozenset(skip)
        self._known_executions = known_executions
        self.channels = channels
        self._stopping = stopping or threading.Event()
        self._push = self._buffer.register_script(lua.load("collect", "push_collected"))
        # Several names may stand for one database (Redis Cluster has only one): each is gone through once.
        self._names: dict[int, list[str]] = {}
        for name in DATABASES:
            self._names.setdefault(numbers[name], []).append(name)
        self._passes: dict[int, _Pass] = {}
        self.states: dict[str, EntryState] = {
            entry.name: EntryState() for entry in catalogue.entries if self._is_collected(entry)
        }

    def run(self, now_ms: int, *, budget_s: float | None = None) -> CollectReport:
        """Go on with the pass over each database until all are through or the time is used up.

        Raises ``RedisOutage``. ``budget_s`` is the time for all of them together.
        """
        budget_s = SHARE * self._interval_s if budget_s is None else budget_s
        report = CollectReport()
        for number, names in self._names.items():
            deadline_s = time.monotonic() + budget_s / len(self._names)
            try:
                self._pass_over(number, names, now_ms, deadline_s, report)
            except RedisDenied as denied:
                self._passes.pop(number, None)
                report.trouble.append(f"database {number} is skipped: {denied}")
                _log.warning("redis database not collected", database=number, reason=str(denied))
        if self.channels is not None:
            # Counted since the last run: a kill here loses counts of messages, which a channel forgets anyway.
            report.items += self._push_once(self.channels.take(now_ms))
        return report

    def close(self) -> None:
        """End the subscription to channels."""
        if self.channels is not None:
            self.channels.close()

    def _push_once(self, items: Sequence[bytes]) -> int:
        pushed = 0
        for first in range(0, len(items), ITEMS_A_SCRIPT):
            batch = items[first : first + ITEMS_A_SCRIPT]
            with outages():
                before = self._buffer.hget(self._keys.collected, "channels") or b""
            pushed += self._push_groups([("channels", before, str(int(before or 0) + 1).encode(), batch)])
        return pushed

    def _pass_over(
        self, number: int, names: Sequence[str], now_ms: int, deadline_s: float, report: CollectReport
    ) -> None:
        client = self._database(names[0])
        going = self._passes.setdefault(number, _Pass(tick=int(now_ms // (self._interval_s * 1000))))
        while True:
            with outages():
                going.cursor, found = client.scan(going.cursor, count=SCAN_COUNT)
            report.keys += len(found)
            self._look_at(client, names, found, now_ms, going, report)
            if going.cursor == 0:
                break
            if time.monotonic() > deadline_s or self._stopping.is_set():
                return
        self._finish(number, names, going, now_ms, report)

    # Keys

    def _look_at(
        self,
        client: Any,
        names: Sequence[str],
        found: Sequence[bytes],
        now_ms: int,
        going: _Pass,
        report: CollectReport,
    ) -> None:
        matches = []
        for name in found:
            match = self._match(names, name.decode("utf-8", "surrogateescape"))
            if match is None:
                going.foreign += 1
            elif self._is_collected(match.entry):
                matches.append(match)
        if not matches:
            return
        states = self._states_of(matches)
        cursors = {
            match.key: derive.series_cursor(states.get(derive.state_name(KeyLook(match), one), b""))
            for match in matches
            for one in match.entry.metrics
            if one.kind == "series"
        }
        failpoints.hit("collect.after_states")
        fresh: list[Events] = []
        for one in look(client, matches, now_ms / 1000, cursors):
            if one.gone:
                continue
            going.seen[one.entry.name] = going.seen.get(one.entry.name, 0) + 1
            trouble = one.trouble or self._derive(one, states, now_ms, going, fresh)
            if trouble:
                first, count = going.troubled.get(one.entry.name, (trouble, 0))
                going.troubled[one.entry.name] = (first, count + 1)
        fresh += self._missing_executions(matches, states, now_ms)
        report.items += self._push_events(fresh)

    def _missing_executions(self, matches: Sequence[Match], states: Mapping[str, bytes], now_ms: int) -> list[Events]:
        """Results that are old enough and that ClickHouse does not know, each once."""
        if self._known_executions is None:
            return []
        wanted = {}
        for match in matches:
            for derived in match.entry.metrics:
                if derived.kind == "executions":
                    name = derive.state_name(KeyLook(match), derived)
                    if name not in states:
                        wanted[match.key] = (match, name)
        if not wanted:
            return []
        client = self._database(next(iter(wanted.values()))[0].entry.database)
        pipe = client.pipeline(transaction=False)
        for key in wanted:
            pipe.hmget(key, *derive.RESULT_FIELDS)
        with outages():
            found = pipe.execute(raise_on_error=False)
        old: dict[str, derive.Result] = {}
        for (match, name), values in zip(wanted.values(), found, strict=True):
            if isinstance(values, list):
                result = derive.result(match.parts.get("execution_id", ""), name, values)
                if result is not None and result.at_ms <= now_ms - EXECUTIONS_LAG_MS:
                    old[result.execution_id] = result
        if not old:
            return []
        oldest_ms = min(one.at_ms for one in old.values()) - 86_400_000
        known = self._known_executions(sorted(old), oldest_ms)
        return [one.as_events(one.execution_id not in known, now_ms) for one in old.values()]

    def _derive(self, one: KeyLook, states: Mapping[str, bytes], now_ms: int, going: _Pass, fresh: list[Events]) -> str:
        trouble = ""
        for derived in one.entry.metrics:
            if derived.kind == "executions":
                if self._known_executions is not None:
                    going.states.add(derive.state_name(one, derived))
                wrong = ""
            elif derived.kind in EVENT_KINDS:
                name = derive.state_name(one, derived)
                going.states.add(name)
                event, wrong = derive.events(one, derived, states.get(name, b""), now_ms)
                if event is not None:
                    fresh.append(event)
                    going.items[one.entry.name] = going.items.get(one.entry.name, 0) + len(event.items)
            else:
                wrong = derive.gauge(one, derived, going.gauges, now_ms)
            trouble = trouble or wrong
        return trouble

    def _match(self, names: Sequence[str], key: str) -> Match | None:
        for name in names:
            if found := self._catalogue.match(name, key):
                return found
        return None

    def _is_collected(self, entry: Entry) -> bool:
        return bool(entry.metrics) and entry.writer == "platform" and entry.name not in self._skip

    # What was seen before

    def _states_of(self, matches: Sequence[Match]) -> dict[str, bytes]:
        names = [
            derive.state_name(KeyLook(match), derived)
            for match in matches
            for derived in match.entry.metrics
            if derived.kind in EVENT_KINDS or (derived.kind == "executions" and self._known_executions is not None)
        ]
        if not names:
            return {}
        with outages():
            held = self._buffer.hmget(self._keys.collected, names)
        return {name: state for name, state in zip(names, held, strict=True) if state is not None}

    def _push_events(self, fresh: list[Events]) -> int:
        pushed = 0
        for batch in derive.batches(fresh, ITEMS_A_SCRIPT):
            failpoints.hit("collect.before_push")
            pushed += self._push_groups([(one.name, one.before, one.after, one.items) for one in batch])
            failpoints.hit("collect.after_push")
        return pushed

    def _push_groups(self, groups: Sequence[tuple[str, bytes, bytes, Sequence[bytes]]]) -> int:
        args: list[Any] = []
        for name, before, after, items in groups:
            args += [name, before, after, len(items), *items]
        keys = [self._keys.scratch, self._keys.buffer, self._keys.collected]
        with outages():
            counts: list[int] = self._push(keys=keys, args=args)
        return sum(count for count in counts if count > 0)

    # The end of a pass

    def _finish(self, number: int, names: Sequence[str], going: _Pass, now_ms: int, report: CollectReport) -> None:
        """Push the gauges, each batch once a tick; forget the states of keys that are gone."""
        items = going.gauges.items(now_ms)
        tick = str(going.tick).encode()
        for place, first in enumerate(range(0, len(items), ITEMS_A_SCRIPT)):
            name = f"tick:{number}:{place}"
            with outages():
                before = self._buffer.hget(self._keys.collected, name) or b""
            if before != tick:
                failpoints.hit("collect.before_gauges")
                report.items += self._push_groups([(name, before, tick, items[first : first + ITEMS_A_SCRIPT])])
                failpoints.hit("collect.after_gauges")
        self._forget(names, going)
        by_type: dict[str, int] = {}
        for metric_type, _ in going.gauges.sums:
            by_type[metric_type] = by_type.get(metric_type, 0) + 1
        for name in names:
            for entry in self._catalogue.entries:
                if entry.database == name and entry.name in self.states:
                    trouble, count = going.troubled.get(entry.name, ("", 0))
                    state = self.states[entry.name]
                    if trouble and trouble != state.trouble:
                        _log.warning(
                            "redis keys not collected", entry=entry.name, pattern=entry.pattern, reason=trouble
                        )
                    state.last_ms, state.keys = now_ms, going.seen.get(entry.name, 0)
                    state.trouble, state.troubled_keys = trouble, count
                    gauges = sum(by_type.get(one, 0) for one in entry.metric_types())
                    state.items = going.items.get(entry.name, 0) + gauges
        said = {name: asdict(state) for name, state in self.states.items() if state.last_ms}
        with outages():
            self._buffer.hset(self._keys.collected, STATUS, json.dumps(said))
        report.passes += 1
        del self._passes[number]

    def _forget(self, names: Sequence[str], going: _Pass) -> None:
        """Remove the states of keys that this pass did not see."""
        own = {
            entry.name
            for entry in self._catalogue.entries
            if entry.database in names and self._is_collected(entry) and entry.type != "channel"
        }
        cursor = 0
        while True:
            with outages():
                cursor, found = self._buffer.hscan(self._keys.collected, cursor, count=SCAN_COUNT)
            gone = [
                name for name in found if (text := name.decode()).split(":", 1)[0] in own and text not in going.states
            ]
            for first in range(0, len(gone), LEFTOVER_STATES):
                with outages():
                    self._buffer.hdel(self._keys.collected, *gone[first : first + LEFTOVER_STATES])
            if cursor == 0:
                return


def read_states(client: Any, keys: BufferKeys) -> dict[str, dict[str, Any]]:
    """How each catalogue entry fares, as the collector last wrote it down. Raises ``RedisOutage``."""
    with outages():
        text = client.hget(keys.collected, STATUS)
    try:
        loaded = json.loads(text) if text else {}
    except ValueError:
        return {}
    return loaded if isinstance(loaded, dict) else {}
