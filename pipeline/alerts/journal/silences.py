"""Silences and mute times: when people do not want to hear of something.

A silence holds back what its matchers describe until it ends; a mute time holds back a whole
channel in certain hours of the week (UTC). Alerts are judged, stored and published all the same.
What still fires afterwards is told then; what came and went in the quiet is not.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis

from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.maintenance import MaintenanceWindow, MaintenanceWindows
from pipeline.alerts.judge.evidence import iso
from pipeline.alerts.rules.matchers import Matcher, all_match
from pipeline.base import durations, log
from pipeline.base.errors import KeyDamaged, UsageError
from pipeline.base.typed_keys import typed

_log = log.get(__name__)

_WEEK_MINUTES = 7 * 1440
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday
LONGEST_MS = 3660 * 86_400_000
"""Ten years: longer than that is a slip."""
_MUTE = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))?)?\s*(?:(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d))?", re.IGNORECASE)


@dataclass(frozen=True)
class Silence:
    """What is not told from ``starts_ms`` until ``ends_ms``, and who wanted that."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_ms: int
    ends_ms: int
    comment: str = ""
    created_by: str = ""

    def covers(self, labels: Mapping[str, str], now_ms: int) -> bool:
        """Whether it holds these labels back now."""
        return self.starts_ms <= now_ms < self.ends_ms and all_match(self.matchers, labels)

    def shown(self) -> dict[str, Any]:
        """For people and ``--json``."""
        return {
            "id": self.id,
            "matchers": [str(matcher) for matcher in self.matchers],
            "starts_at": iso(self.starts_ms),
            "ends_at": iso(self.ends_ms),
            "comment": self.comment,
            "created_by": self.created_by,
        }


class _Stored(msgspec.Struct):
    """A silence as it stands in Redis."""

    matchers: list[str]
    starts_ms: int
    ends_ms: int
    comment: str = ""
    created_by: str = ""


class Silences:
    """The silences, kept in Redis. Methods raise ``RedisOutage``."""

    def __init__(self, client: redis.Redis, keys: AlertKeys) -> None:
        self._client = client
        self._key = keys.silences

    def add(
        self, matchers: Sequence[str], now_ms: int, until_ms: int, comment: str = "", created_by: str = ""
    ) -> Silence:
        """Silence what ``matchers`` describe. Raises ``UsageError`` for matchers or times that make no sense."""
        try:
            parsed = tuple(Matcher.parse(text) for text in matchers)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if not parsed:
            raise UsageError("a silence needs at least one matcher, as severity=info or test_suite=~auth.*")
        if until_ms <= now_ms:
            raise UsageError(f"a silence must end in the future, not at {iso(until_ms)}")
        if until_ms - now_ms > LONGEST_MS:
            raise UsageError(f"a silence lasts at most {durations.show(LONGEST_MS)}")
        silence = Silence(secrets.token_hex(4), parsed, now_ms, until_ms, comment, created_by)
        written = {
            "matchers": [str(matcher) for matcher in parsed],
            "starts_ms": now_ms,
            "ends_ms": until_ms,
            "comment": comment,
            "created_by": created_by,
        }
        with self._typed():
            self._client.hset(self._key, silence.id, json.dumps(written, ensure_ascii=False))
        return silence

    def end(self, silence_id: str) -> bool:
        """End a silence now; whether there was one."""
        with self._typed():
            return bool(self._client.hdel(self._key, silence_id))

    def active(self, now_ms: int) -> list[Silence]:
        """Silences that have not ended, soonest end first; those that ended a day ago are forgotten."""
        with self._typed():
            stored = cast("dict[bytes, bytes]", self._client.hgetall(self._key))
            found = [one for key, text in stored.items() if (one := self._parsed(key, text)) is not None]
            if old := [silence.id for silence in found if silence.ends_ms < now_ms - 86_400_000]:
                self._client.hdel(self._key, *old)
        return sorted((one for one in found if one.ends_ms > now_ms), key=lambda silence: silence.ends_ms)

    def _typed(self) -> contextlib.AbstractContextManager[None]:
        return typed(self._client, {self._key: "hash"})

    def _parsed(self, key: bytes, text: bytes) -> Silence | None:
        """A silence; one that cannot be read silences nothing, and says so."""
        try:
            stored = msgspec.json.decode(text, type=_Stored)
            matchers = tuple(Matcher.parse(one) for one in stored.matchers)
            silence = Silence(
                key.decode(), matchers, stored.starts_ms, stored.ends_ms, stored.comment, stored.created_by
            )
            if matchers and silence.starts_ms <= silence.ends_ms:
                return silence
            error: Exception = ValueError("it ends before it starts" if matchers else "it has no matcher")
        except (ValueError, RecursionError) as unreadable:
            error = unreadable
        _log.error("silence cannot be read", key=self._key, field=repr(key), error=str(error))
        return None


@dataclass(frozen=True)
class MuteTime:
    """Hours of the week: minutes since Monday 00:00 UTC, as ranges [from, to)."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> MuteTime:
        """Read ``Sat-Sun``, ``22:00-06:00`` (over midnight) or ``Mon-Fri 18:00-08:00``. Raises ``ValueError``."""
        found = _MUTE.fullmatch(text.strip())
        if not found or not text.strip():
            raise ValueError(
                f"{text!r} is no time of the week; write Sat-Sun, 22:00-06:00 or Mon-Fri 18:00-08:00 (UTC)"
            )
        first, last, *times = found.groups()
        days = range(7)
        if first:
            begin, end = _day(first, text), _day(last or first, text)
            days = range(begin, end + 1 if end >= begin else end + 8)
        hour, minute, to_hour, to_minute = (int(part or 0) for part in times)
        if hour > 23 or to_hour > 24 or minute > 59 or to_minute > 59:
            raise ValueError(f"{text!r}: there is no such time of day")
        begin_minute, end_minute = hour * 60 + minute, to_hour * 60 + to_minute
        if end_minute <= begin_minute:
            end_minute += 1440
        return cls(tuple((day % 7 * 1440 + begin_minute, day % 7 * 1440 + end_minute) for day in days))

    def covers(self, now_ms: int) -> bool:
        """Whether ``now_ms`` lies in one of the ranges."""
        days, rest_ms = divmod(now_ms, 86_400_000)
        minute = (days + _EPOCH_WEEKDAY) % 7 * 1440 + rest_ms // 60_000
        # A range over Sunday midnight goes on in the next week.
        return any(begin <= one < end for begin, end in self.ranges for one in (minute, minute + _WEEK_MINUTES))


def is_quiet(
    labels: Mapping[str, str],
    now_ms: int,
    silences: Iterable[Silence | MaintenanceWindow | MaintenanceWindows],
    mute_times: Iterable[MuteTime],
) -> bool:
    """Whether an alert with these labels is not to be told now."""
    return any(mute.covers(now_ms) for mute in mute_times) or any(one.covers(labels, now_ms) for one in silences)


@dataclass
class QuietTimes:
    """Everything that holds alerts back by their labels: silences, and maintenance of an environment."""

    silences: Silences
    maintenance: MaintenanceWindows | None = None

    def active(self, now_ms: int) -> list[Silence | MaintenanceWindows]:
        """What holds back now or later. Raises ``RedisOutage``."""
        try:
            silences = self.silences.active(now_ms)
        except KeyDamaged as damaged:
            _log.error("silences cannot be read, no alert is silenced", reason=str(damaged))
            silences = []
        return [*silences, *([self.maintenance] if self.maintenance else [])]


def _day(name: str, text: str) -> int:
    if name.lower() not in _DAYS:
        raise ValueError(f"{text!r}: {name!r} is no day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun")
    return _DAYS.index(name.lower())
