"""Passes over the platform's databases: what the keys say is pushed to the buffer as ordinary metrics.

A pass goes through all keys of a database with SCAN, a few hundred at a time, and stops after its share of the
interval; the next turn goes on where it stopped. At the end of a pass its gauges are pushed; events are pushed as they
are found, together with the state that says so (``lua/push_collected.lua``), so that a kill anywhere leaves an event
collected once or not yet. The state of a pass lies in memory: after a restart it begins again, which costs reading.

One process collects at a time, the holder of the scheduler's lease; two at once push no event twice.
When Redis is away the outage is raised and the next turn begins the pass again. A database without rights is skipped
and said so.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.alerts.judge.facts import Facts, readings
from pipeline.base import failpoints, log, lua
from pipeline.base.errors import RedisDenied, RedisOutage
from pipeline.base.keys import BufferKeys
from pipeline.base.typed_keys import typed
from pipeline.collect import derive
from pipeline.collect.catalogue import REMEMBERED, Catalogue, Derived, Entry, Match
from pipeline.collect.channels import ChannelCounter
from pipeline.collect.derive import Events, Gauges, item
from pipeline.collect.looks import REFUSED, KeyLook, look
from pipeline.collect.pages import pages
from pipeline.collect.told import CHANNELS, SERVER, STATUS, server_text

_log = log.get(__name__)

SCAN_COUNT = 200
"""Keys that one SCAN looks at: 0.1 to 0.3 ms of Redis. Not SCAN … TYPE: five passes instead of one, eleven microseconds
a key instead of one and a half; a wrong type is seen when the key is read."""
STATES_A_SCAN = 50
"""States that one HSCAN looks at: those of a list take four kilobytes each."""
ITEMS_A_SCRIPT = 200
"""Items and states that one script pushes at most: well below 1 ms."""
SHARE = 0.3
"""Part of the interval that a turn may take; the rest of the keys wait for the next one."""
LEFTOVER_STATES = 1_000
"""States of keys that are gone, removed by one command."""

DATABASES = ("sessions", "coordination", "results", "metrics", "ai", "notifications", "environment", "temporary")

EXECUTIONS_LAG_MS = 300_000
"""A result older than this that is not in ClickHouse never came through the buffer."""

_RESULT = Entry.model_validate(
    {"name": "result", "pattern": "test:result:{execution_id}", "database": "results", "type": "hash",
     "metrics": [{"kind": "fields", "fields": dict.fromkeys(derive.RESULT_FIELDS, "duration")}]}
)  # fmt: skip
"""A result as it is read to become an execution: the same bounds as for every other key."""

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
    found: dict[str, int] = field(default_factory=dict)
    troubled: dict[str, tuple[str, int]] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)
    items: dict[str, int] = field(default_factory=dict)
    foreign: int = 0


@dataclass
class CollectReport:
    """What one turn did."""

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
        server: Callable[[], Facts] | None = None,
    ) -> None:
        self._database = database
        self._server = server
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

        self._remembered = {
            entry.name
            for entry in catalogue.entries
            if any(one.kind != "executions" or known_executions is not None for one in entry.remembered)
        }

    def run(self, now_ms: int, *, budget_s: float | None = None) -> CollectReport:
        """Go on with the pass over each database until all are through or the time is used up.

        Raises ``RedisOutage``. ``budget_s`` is the time for all of them together: each has an equal share, and what
        small ones leave goes to the others.
        """
        budget_s = SHARE * self._interval_s if budget_s is None else budget_s
        ends_s = time.monotonic() + budget_s
        report = CollectReport()
        unfinished = list(self._names.items())
        share_s = budget_s / len(unfinished)
        while unfinished:
            unfinished = [
                (number, names)
                for number, names in unfinished
                if not self._go_on(number, names, now_ms, min(ends_s, time.monotonic() + share_s), report)
            ]
            if time.monotonic() >= ends_s or self._stopping.is_set():
                break
        try:
            report.items += self._push_server(now_ms)
        except RedisDenied as denied:
            report.trouble.append(f"the server's own health is skipped: {denied}")
        if self.channels is not None:
            # Counted since the last turn: a kill here loses counts of messages, which a channel forgets anyway.
            report.items += self._push_messages(self.channels, now_ms)
        return report

    def _go_on(self, number: int, names: Sequence[str], now_ms: int, deadline_s: float, report: CollectReport) -> bool:
        """Go on with one database until ``deadline_s``; whether its pass is through, or it cannot be read at all."""
        try:
            return self._pass_over(number, names, now_ms, deadline_s, report)
        except RedisDenied as denied:
            self._passes.pop(number, None)
            report.trouble.append(f"database {number} is skipped: {denied}")
            self._say_skipped(number, names, str(denied), now_ms)
            return True
        except RedisOutage:
            # Of some keys it is not known whether they are in the gauges: the pass begins again.
            self._passes.pop(number, None)
            raise

    def _say_skipped(self, number: int, names: Sequence[str], reason: str, now_ms: int) -> None:
        """Of each entry of a database that cannot be read: why. The log says it once."""
        trouble = f"database {number} is skipped: {reason}"
        here = [one.name for one in self._catalogue.entries if one.database in names and one.type != "channel"]
        before = {self.states[name].trouble for name in here if name in self.states}
        for name in here:
            if name in self.states:
                self.states[name] = EntryState(last_ms=now_ms, trouble=trouble)
        if before != {trouble}:
            _log.warning("redis database not collected", database=number, reason=reason)
        self._write_states()

    def close(self) -> None:
        """End the subscription to channels."""
        if self.channels is not None:
            self.channels.close()

    def _push_server(self, now_ms: int) -> int:
        """How the Redis server is, once a tick."""
        tick = str(self._tick(now_ms)).encode()
        with self._typed():
            before = self._buffer.hget(self._keys.collected, "tick:server") or b""
        if self._server is None or before == tick:
            return 0
        facts = self._server()
        items = [
            item(name, value, tuple((f"tags.{label}", text) for label, text in sorted(labels.items())), now_ms)
            for name in sorted(facts)
            for labels, value in readings(facts, name)
        ]
        pushed = self._push_groups([Events("tick:server", before, tick, tuple(items))], now_ms)
        with self._typed():
            self._buffer.hset(self._keys.collected, SERVER, server_text(facts, now_ms))
        return pushed

    def _tick(self, now_ms: int) -> int:
        return int(now_ms // (self._interval_s * 1000))

    def _push_messages(self, channels: ChannelCounter, now_ms: int) -> int:
        taken, pushed = channels.take(now_ms), 0
        for first in range(0, len(taken.items), ITEMS_A_SCRIPT):
            batch, gaps = taken.items[first : first + ITEMS_A_SCRIPT], 0 if first else taken.gaps
            with self._typed():
                before = self._buffer.hget(self._keys.collected, CHANNELS) or b""
            # Another program may have written something else into this field: then counting begins anew.
            after = str(int(before) + 1 if before.isdigit() else 1).encode()
            pushed += self._push_groups([Events(CHANNELS, before, after, batch, CHANNELS, gaps)], now_ms)
        for entry in self._catalogue.channels():
            if entry.name in self.states:
                state = self.states[entry.name]
                state.last_ms, state.trouble = now_ms, channels.trouble
                state.keys, state.items = taken.messages.get(entry.name, (0, 0))
        self._write_states()
        return pushed

    def _pass_over(
        self, number: int, names: Sequence[str], now_ms: int, deadline_s: float, report: CollectReport
    ) -> bool:
        client = self._database(names[0])
        unseen = {derive.RUNNING, derive.CONNECTION} - self.states.keys()
        going = self._passes.setdefault(number, _Pass(self._tick(now_ms), gauges=Gauges(unseen=unseen)))
        with closing(pages(client, going.cursor, SCAN_COUNT)) as scanned:
            for cursor, found in scanned:
                report.keys += len(found)
                self._look_at(client, names, found, now_ms, going, report)
                going.cursor = cursor
                if cursor and (time.monotonic() > deadline_s or self._stopping.is_set()):
                    return False
        self._finish(number, names, going, now_ms, report)
        return True

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
        matches = self._catalogue.matches(names, found)
        going.foreign += len(found) - len(matches)
        matches = [match for match in matches if match.entry.name in self.states]
        if not matches:
            return
        states = self._states_of(matches)
        cursors = {
            match.key: derive.series_cursor(states.get(derive.state_name(match, one), b""))
            for match in matches
            for one in match.entry.remembered
            if one.kind == "series"
        }
        failpoints.hit("collect.after_states")
        fresh: list[Events] = []
        for group in look(client, matches, now_ms / 1000, cursors):
            self._derive(group, states, now_ms, going, fresh)
        fresh += self._missing_executions(matches, states, now_ms)
        report.items += self._push_events(fresh, now_ms)

    def _derive(
        self, group: list[KeyLook], states: Mapping[str, bytes], now_ms: int, going: _Pass, fresh: list[Events]
    ) -> None:
        """What the keys of one entry say: gauges of the pass, and fresh events."""
        entry = group[0].entry
        there = [one for one in group if not one.gone]
        readable = [one for one in there if not one.trouble]
        counted = (
            readable if len(readable) == len(there) else [one for one in there if not one.trouble or one.is_damaged]
        )
        for derived in entry.metrics:
            group = counted if derived.kind in ("count", "once") else readable
            if derived.kind not in REMEMBERED:
                derive.gauge(group, derived, going.gauges, now_ms)
            elif derived.kind != "executions":
                self._derive_events(group, derived, states, now_ms, going, fresh)
        for one in there if self._remembers(entry) else ():
            going.states.update(derive.state_name(one.match, derived) for derived in entry.remembered)
        going.found[entry.name] = going.found.get(entry.name, 0) + len(there)
        if troubled := [one.trouble for one in there if one.trouble]:
            if REFUSED in troubled:
                going.gauges.unseen.add(entry.name)
            first, count = going.troubled.get(entry.name, (troubled[0], 0))
            going.troubled[entry.name] = (first, count + len(troubled))

    def _derive_events(
        self, group: list[KeyLook], derived: Derived, states: Mapping[str, bytes], now_ms: int, going: _Pass,
        fresh: list[Events],
    ) -> None:  # fmt: skip
        for one in group:
            state, wrong = states.get(derive.state_name(one.match, derived), b""), ""
            if derived.kind == "oldest":
                event = derive.oldest(one, derived, state, going.gauges, now_ms)
            else:
                event, wrong = derive.events(one, derived, state, now_ms)
            one.trouble = one.trouble or wrong
            if event is not None:
                fresh.append(event)
                going.items[one.entry.name] = going.items.get(one.entry.name, 0) + len(event.items)

    def _missing_executions(self, matches: Sequence[Match], states: Mapping[str, bytes], now_ms: int) -> list[Events]:
        """Results that are old enough and that ClickHouse does not know, each once."""
        if self._known_executions is None:
            return []
        wanted = {}
        for match in matches:
            for derived in match.entry.remembered:
                if derived.kind == "executions":
                    name = derive.state_name(match, derived)
                    if name not in states:
                        wanted[match.key] = (match, name)
        if not wanted:
            return []
        client = self._database(next(iter(wanted.values()))[0].entry.database)
        old: dict[str, derive.Result] = {}
        asked = [match._replace(entry=_RESULT) for match, _ in wanted.values()]
        for one in (one for group in look(client, asked, now_ms / 1000, {}) for one in group):
            if not one.gone and not one.trouble:
                result = derive.result(one.match.parts.get("execution_id", ""), wanted[one.match.key][1], one.fields)
                if result is not None and result.at_ms <= now_ms - EXECUTIONS_LAG_MS:
                    old[result.execution_id] = result
        if not old:
            return []
        oldest_ms = min(one.at_ms for one in old.values()) - 86_400_000
        known = self._known_executions(sorted(old), oldest_ms)
        return [one.as_events(one.execution_id not in known, now_ms) for one in old.values()]

    def _is_collected(self, entry: Entry) -> bool:
        return bool(entry.metrics) and entry.writer == "platform" and entry.name not in self._skip

    def _remembers(self, entry: Entry) -> bool:
        """Whether keys of an entry have states."""
        return entry.name in self._remembered

    # What was seen before

    def _states_of(self, matches: Sequence[Match]) -> dict[str, bytes]:
        names = [
            derive.state_name(match, derived)
            for match in matches
            if self._remembers(match.entry)
            for derived in match.entry.remembered
        ]
        if not names:
            return {}
        with self._typed():
            held = self._buffer.hmget(self._keys.collected, names)
        return {name: state for name, state in zip(names, held, strict=True) if state is not None}

    def _push_events(self, fresh: list[Events], now_ms: int) -> int:
        pushed = 0
        for batch in derive.batches(fresh, ITEMS_A_SCRIPT):
            failpoints.hit("collect.before_push")
            pushed += self._push_groups(batch, now_ms)
            failpoints.hit("collect.after_push")
        return pushed

    def _push_groups(self, groups: Sequence[Events], now_ms: int) -> int:
        args: list[Any] = [now_ms]
        for one in groups:
            args += [one.name, one.before, one.after, one.gap, one.gaps, len(one.items), *one.items]
        keys = [self._keys.scratch, self._keys.buffer, self._keys.collected]
        with self._typed():
            counts: list[int] = self._push(keys=keys, args=args)
        return sum(count for count in counts if count > 0)

    # The end of a pass

    def _finish(self, number: int, names: Sequence[str], going: _Pass, now_ms: int, report: CollectReport) -> None:
        """Push the gauges, each batch once a tick; forget the states of keys that are gone."""
        items = going.gauges.items(now_ms)
        tick = str(going.tick).encode()
        for place, first in enumerate(range(0, len(items), ITEMS_A_SCRIPT)):
            name = f"tick:{number}:{place}"
            with self._typed():
                before = self._buffer.hget(self._keys.collected, name) or b""
            if before != tick:
                failpoints.hit("collect.before_gauges")
                batch = tuple(items[first : first + ITEMS_A_SCRIPT])
                report.items += self._push_groups([Events(name, before, tick, batch)], now_ms)
                failpoints.hit("collect.after_gauges")
        self._forget(names, going)
        by_type: dict[str, int] = {}
        for metric_type, _ in going.gauges.sums:
            by_type[metric_type] = by_type.get(metric_type, 0) + 1
        for name in names:
            for entry in self._catalogue.entries:
                if entry.database == name and entry.name in self.states and entry.type != "channel":
                    trouble, count = going.troubled.get(entry.name, ("", 0))
                    state = self.states[entry.name]
                    if trouble and trouble != state.trouble:
                        _log.warning(
                            "redis keys not collected", entry=entry.name, pattern=entry.pattern, reason=trouble
                        )
                    state.last_ms, state.keys = now_ms, going.found.get(entry.name, 0)
                    state.trouble, state.troubled_keys = trouble, count
                    gauges = sum(by_type.get(one, 0) for one in entry.metric_types())
                    state.items = going.items.get(entry.name, 0) + gauges
        self._write_states()
        report.passes += 1
        del self._passes[number]

    def _typed(self) -> AbstractContextManager[None]:
        return typed(self._buffer, {self._keys.collected: "hash", self._keys.buffer: "list"})

    def _write_states(self) -> None:
        said = {name: asdict(state) for name, state in self.states.items() if state.last_ms}
        with self._typed():
            self._buffer.hset(self._keys.collected, STATUS, json.dumps(said))

    def _forget(self, names: Sequence[str], going: _Pass) -> None:
        """Remove the states of keys that this pass did not see."""
        own = {
            entry.name
            for entry in self._catalogue.entries
            if entry.database in names and self._is_collected(entry) and entry.type != "channel"
        }
        cursor = 0
        while True:
            with self._typed():
                cursor, found = self._buffer.hscan(self._keys.collected, cursor, count=STATES_A_SCAN)
            gone = [
                name for name in found if (text := name.decode()).split(":", 1)[0] in own and text not in going.states
            ]
            for first in range(0, len(gone), LEFTOVER_STATES):
                with self._typed():
                    self._buffer.hdel(self._keys.collected, *gone[first : first + LEFTOVER_STATES])
            if cursor == 0:
                return
