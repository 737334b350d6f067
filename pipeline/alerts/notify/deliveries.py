"""What one channel still has to be told and what it was told, durably.

A notification is frozen, key and body, before it is sent for the first time, and stays frozen until
it has arrived; what it says is then taken out of what is pending in the same script. So a crash
between any two of these repeats a notification at most, byte for byte and under the same key.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import redis

from pipeline.alerts.journal.alert_keys import CHANNEL_MEMORY_S, AlertKeys
from pipeline.alerts.notify.dispatch import Group, Note, Update
from pipeline.alerts.notify.payloads import dumps
from pipeline.base import log, lua
from pipeline.base.typed_keys import typed

_log = log.get(__name__)

Parsed = TypeVar("Parsed")

_FIELDS_AT_ONCE = 500


class Deliveries:
    """The books of one channel. Methods raise ``RedisOutage``."""

    def __init__(self, client: redis.Redis, keys: AlertKeys, channel: str) -> None:
        self._client = client
        self._keys = keys
        self._channel = channel
        self._settle = client.register_script(lua.load("alerts/notify", "settle"))
        self._freeze = client.register_script(lua.load("alerts/notify", "freeze"))

    def pending(self) -> list[Note]:
        """Transitions that the channel has not been told."""
        return [*self._read(self._keys.pending(self._channel), 100, _note).values()]

    def told(self) -> dict[str, Group]:
        """By group, what the channel was told and when."""
        return self._read(self._keys.told(self._channel), 1, _group)

    def in_flight(self) -> dict[str, Update]:
        """By group, the notification that is on its way."""
        return self._read(self._keys.in_flight(self._channel), 1, _update)

    def freeze(self, update: Update) -> bool:
        """Fix a notification before it is sent; False when another one of this group is on its way."""
        with self._typed():
            return bool(
                self._freeze(
                    keys=[self._keys.in_flight(self._channel), self._keys.scratch],
                    args=[update.group_key, _frozen(update), CHANNEL_MEMORY_S],
                )
            )

    def settle(self, update: Update, after: Group | None) -> None:
        """Write down that a notification arrived, or that a flush had nothing to tell; once, however often called."""
        with self._typed():
            self._settle(
                keys=[
                    *(self._keys.pending(self._channel), self._keys.told(self._channel)),
                    *(self._keys.in_flight(self._channel), self._keys.scratch),
                ],
                args=[
                    update.group_key,
                    _frozen(update) if update.body is not None else "",
                    dumps(asdict(after)) if after is not None else "",
                    CHANNEL_MEMORY_S,
                    *update.consumed,
                ],
            )

    def discard(self, notes: Sequence[Note]) -> None:
        """Forget what does not concern the channel."""
        with self._typed():
            for first in range(0, len(notes), _FIELDS_AT_ONCE):
                some = notes[first : first + _FIELDS_AT_ONCE]
                self._client.hdel(self._keys.pending(self._channel), *(note.transition_id for note in some))

    def _typed(self) -> contextlib.AbstractContextManager[None]:
        own, channel = self._keys, self._channel
        return typed(
            self._client, dict.fromkeys((own.pending(channel), own.told(channel), own.in_flight(channel)), "hash")
        )

    def _read(self, key: str, count: int, parse: Callable[[Any], Parsed]) -> dict[str, Parsed]:
        """All fields of a hash, about ``count`` of them with each command: producers wait while one is answered.

        What cannot be read is said and removed; it would hold up its group for ever.
        """
        found: dict[str, Parsed] = {}
        with self._typed():
            for name, text in self._client.hscan_iter(key, count=count):
                try:
                    found[name.decode()] = parse(json.loads(text))
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    _log.error("unreadable alert state removed", key=key, field=repr(name), error=str(error))
                    self._client.hdel(key, name)
        return found


def _frozen(update: Update) -> str:
    return dumps(asdict(update))


def _note(stored: Mapping[str, Any]) -> Note:
    return Note(**stored)


def _group(stored: Mapping[str, Any]) -> Group:
    firing = {alert_id: _note(note) for alert_id, note in stored["firing"].items()}
    return Group(stored["first_flush_ms"], stored["flush_ms"], stored["told_ms"], firing)


def _update(stored: Mapping[str, Any]) -> Update:
    after = _group(stored["after"]) if stored["after"] is not None else None
    return Update(stored["group_key"], tuple(stored["consumed"]), after, stored["body"], stored["key"])
