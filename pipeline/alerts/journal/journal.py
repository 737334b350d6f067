"""The truth about alerts: states, how far rules were judged, and what still has to be told.

One script writes, together and only if nobody else wrote meanwhile: the states after some ticks,
the last tick of each rule, and every transition into three outboxes (the ``alerts`` table, Redis's
own list and channel, each outside channel). So a crash at any instruction either leaves the tick
unjudged, and it will be judged again to the same transitions and ids, or leaves nothing to decide,
only to tell. What is told is taken out of its outbox after it stands where it belongs.

When Redis is away everything raises ``RedisOutage``; the outcome of a commit is then unknown, and
the caller loads again instead of guessing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from pipeline.alerts.journal.alert_keys import CHANNEL_MEMORY_S, AlertKeys
from pipeline.alerts.judge.evaluation import Alerts, Transition
from pipeline.alerts.judge.evidence import finite
from pipeline.alerts.judge.state import Alert, State
from pipeline.alerts.notify.payloads import dumps, notice
from pipeline.base import keys
from pipeline.base.errors import PipelineError
from pipeline.base.failpoints import hit
from pipeline.base.redis_link import outages

PERFORMANCE_LENGTH = 100
"""``LTRIM alerts:performance 0 99``, as the schema document has it."""

_PUBLISH_AT_ONCE = 50
"""Half the list: so that an interrupted publication finds all it has pushed among the newest 100."""

_COMMIT = """
-- KEYS: state, scratch, table outbox, redis outbox, pending of each channel ...
-- ARGV: expected version, version, fields as JSON {name: text or false}, notices as JSON, channel memory in s
redis.call('DEL', KEYS[2])
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2])
for name, text in pairs(cjson.decode(ARGV[3])) do
  if text then redis.call('HSET', KEYS[1], name, text) else redis.call('HDEL', KEYS[1], name) end
end
for _, notice in ipairs(cjson.decode(ARGV[4])) do
  redis.call('RPUSH', KEYS[3], notice.row)
  redis.call('RPUSH', KEYS[4], notice.redis)
  for i = 5, #KEYS do
    redis.call('HSETNX', KEYS[i], notice.id, notice.note)
    redis.call('EXPIRE', KEYS[i], ARGV[5])
  end
end
return 1
"""

_PUBLISH = """
-- KEYS: alerts:performance, scratch   ARGV: length, channel, then (entry, message or '') ...
redis.call('DEL', KEYS[2])
local there = {}
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)) do there[entry] = true end
for i = 3, #ARGV, 2 do
  if not there[ARGV[i]] then
    redis.call('LPUSH', KEYS[1], ARGV[i])
    if ARGV[i + 1] ~= '' then redis.call('PUBLISH', ARGV[2], ARGV[i + 1]) end
  end
end
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
return 1
"""


class StaleJournal(PipelineError):
    """Somebody else judged alerts since we loaded them; nothing was written, and we load again."""


@dataclass
class RuleState:
    """How far a rule was judged and its alerts at that tick.

    For a rule that re-evaluates late data, ``base_tick_ms`` and ``base_alerts`` are the same for the
    tick from which it is judged again.
    """

    tick_ms: int | None = None
    by: tuple[str, ...] = ()
    alerts: Alerts = field(default_factory=dict)
    base_tick_ms: int | None = None
    base_alerts: Alerts = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    """What is needed to resolve its alerts when the rule itself is gone: severity, type, threshold …"""


@dataclass
class Ledger:
    """Everything that was committed, at one version."""

    version: str = ""
    states: dict[str, RuleState] = field(default_factory=dict)


class Journal:
    """Reads and writes the truth in Redis."""

    def __init__(self, client: redis.Redis, keys_: AlertKeys, channels: Sequence[str] = ()) -> None:
        self._client = client
        self._keys = keys_
        self.channels = tuple(channels)
        self._commit = client.register_script(_COMMIT)
        self._publish = client.register_script(_PUBLISH)

    def load(self) -> Ledger:
        """What stands there now. Raises ``RedisOutage``."""
        with outages():
            stored = cast("dict[bytes, bytes]", self._client.hgetall(self._keys.state))
        ledger = Ledger(stored.pop(b"version", b"").decode())
        for name, text in stored.items():
            ledger.states[name.decode().removeprefix("rule:")] = _read_state(json.loads(text))
        return ledger

    def commit(
        self,
        ledger: Ledger,
        changed: Mapping[str, RuleState | None],
        transitions: Sequence[Transition],
        now_ms: int,
    ) -> None:
        """Write states and transitions together, *atomically*; ``ledger`` then is what was written.

        None forgets a rule. Raises ``StaleJournal`` when somebody else committed since ``ledger`` was
        loaded; nothing is written then. After ``RedisOutage`` it may or may not have been written.
        """
        version = secrets.token_hex(8)
        fields = {f"rule:{name}": _write_state(state) if state else False for name, state in changed.items()}
        notices = [notice(transition, now_ms) for transition in transitions]
        all_keys = [
            *(self._keys.state, self._keys.scratch, self._keys.table_outbox, self._keys.redis_outbox),
            *(self._keys.pending(channel) for channel in self.channels),
        ]
        hit("alerts.before_commit")
        with outages():
            done = self._commit(
                keys=all_keys, args=[ledger.version, version, dumps(fields), json.dumps(notices), CHANNEL_MEMORY_S]
            )
        hit("alerts.after_commit")
        if not done:
            raise StaleJournal(StaleJournal.__doc__)
        ledger.version = version
        for name, state in changed.items():
            if state is None:
                ledger.states.pop(name, None)
            else:
                ledger.states[name] = state

    # What Redis is told

    def publish(self) -> int:
        """Bring the outbox to ``alerts:performance`` and ``alerts:critical``, each entry *exactly once*; how many.

        The list itself remembers: an entry that stands among the newest hundred is neither pushed nor
        published again, and pushing and publishing are one script.
        """
        published = 0
        while batch := self._head(self._keys.redis_outbox, _PUBLISH_AT_ONCE):
            arguments: list[str] = []
            for item in batch:
                notice = json.loads(item)
                arguments += [notice["entry"], notice["message"]]
            with outages():
                self._publish(
                    keys=[keys.ALERTS_PERFORMANCE, "{" + keys.ALERTS_PERFORMANCE + "}:scratch"],
                    args=[PERFORMANCE_LENGTH, keys.CHANNEL_ALERTS_CRITICAL, *arguments],
                )
            hit("alerts.after_publish")
            self._remove(self._keys.redis_outbox, batch)
            published += len(batch)
        return published

    # What the table is told

    def rows(self, limit: int) -> list[bytes]:
        """The oldest rows that may not stand in the table yet, as they were committed."""
        return self._head(self._keys.table_outbox, limit)

    def remove_rows(self, rows: Iterable[bytes]) -> None:
        """Forget rows that do stand in the table."""
        self._remove(self._keys.table_outbox, rows)

    def _head(self, key: str, limit: int) -> list[bytes]:
        with outages():
            return cast("list[bytes]", self._client.lrange(key, 0, limit - 1))

    def _remove(self, key: str, items: Iterable[bytes]) -> None:
        # By value: harmless when somebody else has removed them already.
        with outages(), self._client.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.lrem(key, 1, cast(str, item))
            pipe.execute()


def _write_state(state: RuleState) -> str:
    written: dict[str, Any] = {
        "tick_ms": state.tick_ms,
        "by": state.by,
        "alerts": _write_alerts(state.alerts),
        "rule": dict(state.rule),
    }
    if state.base_tick_ms is not None:
        written |= {"base_tick_ms": state.base_tick_ms, "base_alerts": _write_alerts(state.base_alerts)}
    return dumps(written)


def _read_state(written: Mapping[str, Any]) -> RuleState:
    return RuleState(
        tick_ms=written["tick_ms"],
        by=tuple(written["by"]),
        alerts=_read_alerts(written["alerts"]),
        base_tick_ms=written.get("base_tick_ms"),
        base_alerts=_read_alerts(written.get("base_alerts", ())),
        rule=written["rule"],
    )


def _write_alerts(alerts: Alerts) -> list[Any]:
    return [
        [
            *(labels, alert.state.value, alert.active_at_ms, alert.fired_at_ms, alert.resolved_at_ms),
            *(alert.keep_firing_since_ms, finite(alert.value)),
        ]
        for labels, alert in alerts.items()
    ]


def _read_alerts(written: Iterable[Any]) -> Alerts:
    return {tuple(labels): Alert(State(state), *times) for labels, state, *times in written}
