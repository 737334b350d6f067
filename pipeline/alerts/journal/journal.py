"""The truth about alerts: states, how far rules were judged, and what still has to be told.

One script writes, together and only if no other process wrote meanwhile: the states after some ticks,
the last tick of each rule, and every transition for three outboxes (the ``alerts`` table, Redis's
own list and channel, each outside channel). So a crash at any instruction either leaves the tick
unjudged, and it will be judged again to the same transitions and ids, or leaves nothing to decide,
only to tell. What is told is taken out of its outbox after it stands where it belongs.

No command takes long, however many alerts there are, since producers wait meanwhile. A large commit
goes in two phases. *Staged*: its alerts and notices are appended in pieces to lists under a name that
no reader knows yet, which expire by themselves when the process dies. *Committed*: the script counts the
staged lists, keeps them and names them in the state; that is the one moment of truth. Afterwards the
notices are *handed out* to the outboxes piece by piece, each piece moved by one script, by this
process or, when it died, by the next process; nothing is committed before that is done, so that
the outboxes stay in order.

When Redis is away everything raises ``RedisOutage``; the outcome of a commit is then unknown, and
the caller loads again instead of guessing.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec
import redis

from pipeline.alerts.journal import rule_state
from pipeline.alerts.journal.alert_keys import CHANNEL_MEMORY_S, AlertKeys
from pipeline.alerts.journal.rule_state import RuleState
from pipeline.alerts.judge.evaluation import Transition
from pipeline.alerts.notify.payloads import notice
from pipeline.base import keys, log, lua
from pipeline.base.errors import PipelineError
from pipeline.base.failpoints import hit
from pipeline.base.redis_link import outages
from pipeline.base.typed_keys import typed

_log = log.get(__name__)

PERFORMANCE_LENGTH = 100
"""``LTRIM alerts:performance 0 99``, as the schema document has it."""

_PUBLISH_AT_ONCE = 50
"""Half the list: so that an interrupted publication finds all it has pushed among the newest 100."""
_PIECES_AT_ONCE = 4
"""Pieces of alerts that are read at once: about 300 KB."""
_FIELDS_AT_ONCE = 50
_STAGED_S = 3600
"""A list that was staged and never committed expires after this long."""
_LOAD_ATTEMPTS = 5


@dataclass(frozen=True)
class Sizes:
    """What one command writes at most. Tests make it small."""

    small_alerts: int = 200
    """Alerts of a commit that stand in the fields of their rules; those of further rules are staged."""
    small_notices: int = 50
    """Up to this many notices are handed out by the commit itself."""
    piece_alerts: int = 500
    """Alerts that are staged at once: about 75 KB."""
    piece_notices: int = 50
    """Notices that are staged or handed out at once: about 200 KB, 0.3 ms of Redis."""
    stage_at_once: int = 8
    """Pieces that are staged with one round trip. Redis reads them one after the other, and others in between."""


class StaleJournal(PipelineError):
    """Another process committed alerts since this one loaded them. Nothing was written; the state is loaded again."""


@dataclass
class Committed:
    """Everything that was committed, at one version."""

    version: str = ""
    states: dict[str, RuleState] = field(default_factory=dict)


@dataclass
class _Staged:
    """What of a commit lies in lists of its own: the keys with the length of each."""

    lengths: dict[str, int] = field(default_factory=dict)
    has_notices: bool = False


class Journal:
    """Reads and writes the truth in Redis."""

    def __init__(
        self,
        client: redis.Redis,
        keys_: AlertKeys,
        channels: Sequence[str] = (),
        sizes: Sizes | None = None,
        *,
        skip: Collection[str] = (),
    ) -> None:
        """``skip``: names of the platform's schema that are not written (``publish.skip``)."""
        self._sizes = sizes or Sizes()
        self._skip = frozenset(skip)
        self._client = client
        self._keys = keys_
        self.channels = tuple(channels)
        self._stage, self._commit, self._hand_out, self._publish = (
            client.register_script(lua.load("alerts/journal", name))
            for name in ("stage", "commit", "hand_out", "publish")
        )

    def _typed(self, *lists: str) -> contextlib.AbstractContextManager[None]:
        """Name the key that another program overwrote. Raises ``KeyDamaged``, a kind of ``RedisOutage``."""
        own = self._keys
        kinds = {own.state: "hash"}
        kinds |= dict.fromkeys((own.commits, own.table_outbox, own.redis_outbox, keys.ALERTS_PERFORMANCE), "list")
        kinds |= dict.fromkeys(lists, "list")
        kinds |= {own.pending(channel): "hash" for channel in self.channels}
        return typed(self._client, kinds)

    # Reading

    def load(self) -> Committed:
        """What stands there now. Raises ``RedisOutage``.

        A rule whose state cannot be read is left out and said; it begins anew.
        """
        for _ in range(_LOAD_ATTEMPTS):
            with self._typed():
                version = self._version()
                found = Committed(version.decode(), dict(self._states()))
                if self._version() == version:
                    return found
        raise StaleJournal(StaleJournal.__doc__)

    def _version(self) -> bytes:
        return cast("bytes | None", self._client.hget(self._keys.state, "version")) or b""

    def _states(self) -> Iterator[tuple[str, RuleState]]:
        names = [name for name in cast("list[bytes]", self._client.hkeys(self._keys.state)) if name != b"version"]
        for first in range(0, len(names), _FIELDS_AT_ONCE):
            some = names[first : first + _FIELDS_AT_ONCE]
            texts = cast("list[bytes | None]", self._client.hmget(self._keys.state, some))
            for name, text in zip(some, texts, strict=True):
                if text is None:
                    continue
                try:
                    state = rule_state.decode(text, self._pieces(text))
                except (ValueError, redis.ResponseError) as error:
                    if isinstance(error, redis.ResponseError) and "WRONGTYPE" not in str(error):
                        raise
                    _log.error(
                        "alert state cannot be read, its rule begins anew",
                        key=self._keys.state,
                        field=name.decode(errors="replace"),
                        error=str(error),
                    )
                    state = RuleState()
                yield name.decode(errors="replace").removeprefix("rule:"), state

    def _pieces(self, text: bytes) -> list[bytes]:
        nonce, length = rule_state.held_in(text)
        found: list[bytes] = []
        for first in range(0, length, _PIECES_AT_ONCE):
            found += cast(
                "list[bytes]", self._client.lrange(self._keys.held(nonce), first, first + _PIECES_AT_ONCE - 1)
            )
        return found

    # Writing

    def commit(
        self,
        committed: Committed,
        changed: Mapping[str, RuleState | None],
        transitions: Sequence[Transition],
        now_ms: int,
    ) -> None:
        """Write states and transitions together, *atomically*; ``committed`` then is what was written.

        None forgets a rule. Raises ``StaleJournal`` when another process committed since ``committed``
        was loaded; nothing is written then. After ``RedisOutage`` it may or may not have been written.
        """
        self.hand_out()
        version = secrets.token_hex(8)
        staged = _Staged()
        fields = self._stage_states(version, changed, staged)
        told = (
            [notice(transition, now_ms) for transition in transitions]
            if len(transitions) <= self._sizes.small_notices
            else []
        )
        if not told:
            self._stage_notices(version, transitions, now_ms, staged)
        dropped = [
            self._keys.held(committed.states[name].held_in)
            for name in changed
            if name in committed.states and committed.states[name].held_in
        ]
        hit("alerts.before_commit")
        with self._typed():
            done = self._commit(
                keys=[
                    *(self._keys.state, self._keys.scratch, self._keys.commits),
                    *(self._keys.table_outbox, self._keys.redis_outbox),
                    *(self._keys.pending(channel) for channel in self.channels),
                    *staged.lengths,
                    *dropped,
                ],
                args=[
                    *(committed.version, version, CHANNEL_MEMORY_S, len(self.channels), len(staged.lengths)),
                    *(len(fields), len(told), int(staged.has_notices)),
                    *staged.lengths.values(),
                    *(part for one in fields.items() for part in one),
                    *(part for one in told for part in one),
                ],
            )
        hit("alerts.after_commit")
        if done != 1:
            raise StaleJournal(StaleJournal.__doc__ if done == 0 else "staged alerts expired before their commit")
        committed.version = version
        for name, state in changed.items():
            if state is None:
                committed.states.pop(name, None)
            else:
                committed.states[name] = state
        if staged.has_notices:
            self.hand_out()

    def hand_out(self) -> None:
        """Bring the notices of committed transitions to the outboxes, of every process.

        Raises ``RedisOutage``.
        """
        while commits := self._head(self._keys.commits, 1):
            commit = commits[0].decode(errors="replace")
            with self._typed(self._keys.notices(commit)):
                self._hand_out(
                    keys=[
                        *(self._keys.commits, self._keys.scratch, self._keys.notices(commit)),
                        *(self._keys.table_outbox, self._keys.redis_outbox),
                        *(self._keys.pending(channel) for channel in self.channels),
                    ],
                    args=[commits[0], self._sizes.piece_notices, CHANNEL_MEMORY_S],
                )
            hit("alerts.after_hand_out")

    def _stage_states(
        self, version: str, changed: Mapping[str, RuleState | None], staged: _Staged
    ) -> dict[str, bytes | str]:
        """The fields to write; the alerts of rules with many of them are staged."""
        fields: dict[str, bytes | str] = {}
        room = self._sizes.small_alerts
        for number, (name, state) in enumerate(changed.items()):
            if state is None:
                fields[f"rule:{name}"] = ""
                continue
            is_small = state.size <= room
            state.held_in = "" if is_small else f"{version}:{number}"
            fields[f"rule:{name}"], pieces = rule_state.encode(state, state.held_in, self._sizes.piece_alerts)
            room -= state.size if is_small else 0
            key = self._keys.held(state.held_in)
            if pieces:
                staged.lengths[key] = self._append(key, [[piece] for piece in pieces])
        return fields

    def _stage_notices(self, version: str, transitions: Sequence[Transition], now_ms: int, staged: _Staged) -> None:
        key = self._keys.notices(version)
        size = self._sizes.piece_notices
        pieces = (
            [part for one in transitions[first : first + size] for part in notice(one, now_ms)]
            for first in range(0, len(transitions), size)
        )
        staged.lengths[key] = self._append(key, pieces)
        staged.has_notices = True

    def _append(self, key: str, pieces: Iterable[Sequence[bytes | str]]) -> int:
        """Append pieces to a list that is not read yet; its length."""
        length = 0
        waiting = iter(pieces)
        while some := list(itertools.islice(waiting, self._sizes.stage_at_once)):
            with outages(), self._client.pipeline(transaction=False) as pipe:
                for piece in some:
                    self._stage(keys=[key, self._keys.scratch], args=[_STAGED_S, *piece], client=pipe)
                length = int(pipe.execute()[-1])
            hit("alerts.after_stage")
        return length

    # What Redis is told

    def publish(self) -> int:
        """Bring the outbox to ``alerts:performance`` and ``alerts:critical``, each entry *exactly once*; how many.

        The list itself remembers: an entry that stands among the newest hundred is neither pushed nor
        published again, and pushing and publishing are one script. Where the platform writes the list itself, nothing
        of the pipeline remembers, and a message may be published twice after a crash.
        """
        published = 0
        while batch := self._head(self._keys.redis_outbox, _PUBLISH_AT_ONCE):
            arguments = [part for item in batch for part in _entry(item)]
            if "channel_alerts_critical" in self._skip:
                arguments[1::2] = [""] * len(arguments[1::2])
            if "alerts_performance" in self._skip:
                with outages():
                    for message in filter(None, arguments[1::2]):
                        self._client.publish(keys.CHANNEL_ALERTS_CRITICAL, message)
            else:
                with self._typed():
                    self._publish(
                        keys=[keys.ALERTS_PERFORMANCE, keys.ALERTS_PERFORMANCE_SCRATCH],
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
        with self._typed():
            return cast("list[bytes]", self._client.lrange(key, 0, limit - 1))

    def _remove(self, key: str, items: Iterable[bytes]) -> None:
        # By value: harmless when another process has removed them already.
        with self._typed(), self._client.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.lrem(key, 1, cast(str, item))
            pipe.execute()


def _entry(item: bytes) -> tuple[str, ...]:
    """Entry and message of what waits to be published; nothing of what another program put there, which is said."""
    try:
        found = msgspec.json.decode(item, type=dict[str, str])
        return found["entry"], found["message"]
    except (ValueError, KeyError) as error:
        _log.error("unreadable entry removed", outbox="redis", item=repr(item[:200]), error=str(error))
        return ()
