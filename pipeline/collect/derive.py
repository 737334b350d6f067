"""From what was read of the platform's keys to metrics: gauges of a pass, and events.

Pure: ``now_ms`` is an argument. Gauges are added up over a pass (``Gauges``) and come out once, sorted, so that the
same keys give the same items. Events (new list elements, changed hashes) come with the state that makes them new.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pipeline.collect.catalogue import METRIC_FIELDS, Derived, Match
from pipeline.collect.json_text import json_object
from pipeline.collect.looks import MAX_ELEMENTS, MILLISECONDS_FROM, KeyLook
from pipeline.collect.sliding import fingerprints, new_elements, pack, unpack
from pipeline.metric import parse_time_ms, parse_window_ms

MAX_GROUPS = 1_000
"""Groups of one ``count``, ``sum`` or ``total``; further ones are counted as ``other``."""
MAX_LABEL_CHARS = 100
UNREADABLE = "unreadable"
"""Stands for a text that is no name, so that nothing that was written in the wrong place leaves Redis."""
RUNNING, CONNECTION = "test_running", "ws_connection"
"""Entries that holders of locks, and subscriptions, are held against."""
MAX_EVENT_AGE_MS = 7 * 86_400_000
"""An event that says it is older is given the time of the look: what is beyond the retention would be refused."""

FIRST_TIME_MS = 946_684_800_000
"""The year 2000: an earlier time was never set."""
MAX_AHEAD_MS = 86_400_000
"""A sample whose time is further ahead is not collected until then."""
MAX_AT_ONE_TIME = 3_000
"""Members of a sorted set of times that are remembered at one score."""

Labels = tuple[tuple[str, str], ...]
"""Fields and tags of a metric, sorted."""


def item(metric_type: str, value: float, labels: Labels, at_ms: int) -> bytes:
    """One metric as the buffer takes it."""
    fields: dict[str, Any] = {"timestamp": at_ms, "metric_type": metric_type, "value": value}
    tags = {"source": "collect"}
    for name, text in labels:
        if name in METRIC_FIELDS:
            fields[name] = text
        else:
            tags[name.removeprefix("tags.")] = text
    return json.dumps(fields | {"tags": tags}, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Events:
    """New items of one key, and the state that they lead to: pushed together, if the state is still ``before``."""

    name: str
    before: bytes
    after: bytes
    items: tuple[bytes, ...]
    gap: str = ""
    """What gaps are counted under: an entry whose list slid too far between two looks, or the channels."""
    gaps: int = 0


@dataclass
class Gauges:
    """What a pass over a database adds up."""

    sums: dict[tuple[str, Labels], float] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    holders: dict[str, list[str]] = field(default_factory=dict)
    """Metric type and lock to the texts of its locks."""
    executors: set[str] = field(default_factory=set)
    connections: set[str] = field(default_factory=set)
    subscriptions: dict[str, set[str]] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)
    """Entries that are skipped or whose keys may not be read: what is held against them is not known."""

    def add(self, metric_type: str, labels: Labels, value: float) -> None:
        """Add to the gauge of a group."""
        key = (metric_type, labels)
        if key not in self.sums:
            if self.groups.get(metric_type, 0) >= MAX_GROUPS:
                key = (metric_type, tuple((name, "other") for name, _ in labels))
            else:
                self.groups[metric_type] = self.groups.get(metric_type, 0) + 1
        self.sums[key] = self.sums.get(key, 0.0) + value

    def put(self, metric_type: str, labels: Labels, value: float) -> None:
        """One sample of a key of its own."""
        self.sums[metric_type, labels] = value

    def put_most(self, metric_type: str, labels: Labels, value: float) -> None:
        """The greatest sample of several keys that look the same."""
        self.sums[metric_type, labels] = max(value, self.sums.get((metric_type, labels), value))

    def items(self, at_ms: int) -> list[bytes]:
        """The gauges as metrics, in an order that depends on their names alone."""
        found = dict(self.sums)
        for metric_type, holders in self.holders.items() if RUNNING not in self.unseen else ():
            found[metric_type, ()] = float(sum(holder not in self.executors for holder in holders))
        for metric_type, ids in self.subscriptions.items() if CONNECTION not in self.unseen else ():
            found[metric_type, ()] = float(len(ids - self.connections))
        return [
            item(metric_type, value, labels, at_ms)
            for (metric_type, labels), value in sorted(found.items())
            if math.isfinite(value)
        ]


def gauge(looks: Sequence[KeyLook], derived: Derived, gauges: Gauges, now_ms: int) -> None:
    """Add what keys of one entry say to the gauges of their pass; what is wrong with one goes to its ``trouble``."""
    if derived.kind == "count":
        _count(looks, derived, gauges)
        return
    handler = _GAUGES.get(derived.kind)
    if handler is not None:
        for look in looks:
            try:
                wrong = handler(look, derived, gauges, now_ms)
            except _BROKEN as error:
                wrong = _broken(error)
            if wrong and not look.trouble:
                look.trouble = wrong


def events(look: KeyLook, derived: Derived, state: bytes, now_ms: int) -> tuple[Events | None, str]:
    """What is new about one key since ``state`` (empty: never seen), and what is wrong with it in words."""
    handler = _EVENTS.get(derived.kind)
    try:
        return handler(look, derived, state, now_ms) if handler else (None, "")
    except _BROKEN as error:
        return None, _broken(error)


_BROKEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What an unforeseen value may raise: the trouble of its key, and of no other."""


def _broken(error: Exception) -> str:
    """Without the error's text, which may hold a piece of the value."""
    return f"it cannot be read ({type(error).__name__})"


def state_name(match: Match, derived: Derived) -> str:
    """Under what name the state of a key is kept."""
    digest = hashlib.blake2b(match.key.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return f"{match.entry.name}:{derived.kind}:{digest}"


# Labels and numbers


def labels_of(look: KeyLook, derived: Derived, fields: Mapping[str, str] | None = None, member: str = "") -> Labels:
    """Where a metric belongs; secret entries give only what the catalogue names."""
    return _labels(derived, _texts(look, derived, look.fields if fields is None else fields, member))


def _texts(look: KeyLook, derived: Derived, fields: Mapping[str, str], member: str = "") -> tuple[str, ...]:
    """The text of each dimension as it stands in Redis, in the order of ``Derived.label_origins``."""
    found = []
    for _, origin, name in derived.label_origins:
        if origin == "field":
            found.append(fields.get(name, ""))
        elif origin == "part":
            found.append(look.match.parts.get(name, ""))
        elif origin == "constant":
            found.append(name)
        else:
            found.append(member if origin == "member" else look.text or "")
    return tuple(found)


def _labels(derived: Derived, texts: tuple[str, ...]) -> Labels:
    return tuple(
        (target, name_of(text)) for (target, _, _), text in zip(derived.label_origins, texts, strict=True) if text
    )


def name_of(text: str) -> str:
    """A text of the platform as a label: one printable line that does not begin as JSON does; else ``UNREADABLE``."""
    return _name_of(text[:MAX_LABEL_CHARS])


@lru_cache(maxsize=4_096)
def _name_of(text: str) -> str:
    is_name = text.isprintable() and "\ufffd" not in text and text.lstrip()[:1] not in ("{", "[", '"')
    return text if is_name else UNREADABLE


def number(text: str | None) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text) if text is not None and text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _age_s(text: str | None, now_ms: int) -> float | None:
    """The seconds since a time; None for what is no time, and for the zero that stands for none (year 1, or 1970)."""
    at_ms = parse_time_ms(text) if text else None
    return max(0.0, (now_ms - at_ms) / 1000) if at_ms is not None and at_ms >= FIRST_TIME_MS else None


# Gauges


def _count(looks: Sequence[KeyLook], derived: Derived, gauges: Gauges) -> None:
    """Most of many keys have the same few dimensions: they are told apart before labels are made of them."""
    counts = Counter([_texts(look, derived, look.fields) for look in looks]) if derived.by else {(): len(looks)}
    for texts, count in counts.items():
        if count:
            gauges.add(derived.metric_type, _labels(derived, texts), count)
    if looks and looks[0].entry.name == RUNNING:
        gauges.executors.update(look.fields.get("executor", "") for look in looks)
    elif looks and looks[0].entry.name == CONNECTION:
        gauges.connections.update(look.match.parts.get("connection_id", "") for look in looks)


def _text_number(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    value = number(look.text)
    if value is None:
        return "the value is not a number"
    if derived.kind == "sum":
        gauges.add(derived.metric_type, labels_of(look, derived), value)
    else:
        gauges.put(derived.metric_type, labels_of(look, derived), value)
    return ""


def _total(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    if derived.field not in look.fields:
        return ""
    value = number(look.fields[derived.field])
    if value is None:
        return f"{derived.field} is not a number"
    gauges.add(derived.metric_type, labels_of(look, derived), value)
    return ""


def _size(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    if derived.kind == "members_total":
        gauges.add(derived.metric_type, labels_of(look, derived), look.length)
    else:
        gauges.put(derived.metric_type, labels_of(look, derived), look.length)
    return ""


def samples(derived: Derived, fields: Mapping[str, str], now_ms: int) -> tuple[dict[str, float], list[str]]:
    """The numbers that a hash becomes, by metric type, and the fields that hold none."""
    found: dict[str, float] = {}
    unreadable = []
    for name, metric_type in derived.fields.items():
        if name in fields:
            value = number(fields[name])
            if value is None:
                unreadable.append(name)
            else:
                found[metric_type] = value
    if derived.less is not None:
        of, minus = number(fields.get(derived.less.of)), number(fields.get(derived.less.minus))
        if of is not None and minus is not None:
            found[derived.less.metric_type] = of - minus
    if derived.share is not None:
        of, whole = number(fields.get(derived.share.of)), number(fields.get(derived.share.in_))
        if of is not None and whole:
            found[derived.share.metric_type] = 100 * of / whole
    if derived.good is not None and derived.good.field in fields:
        found[derived.good.metric_type] = float(fields[derived.good.field].strip().lower() in derived.good.words)
    if derived.age is not None and (age_s := _age_s(fields.get(derived.age.field), now_ms)) is not None:
        found[derived.age.metric_type] = age_s
    return found, unreadable


def _fields(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    found, unreadable = samples(derived, look.fields, now_ms)
    for metric_type, value in found.items():
        gauges.put(metric_type, labels_of(look, derived), value)
    return f"{', '.join(unreadable)} is not a number" if unreadable else ""


def _members(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    trouble = ""
    for name, value in zip(look.elements[::2], look.elements[1::2], strict=True):
        member = name.decode("utf-8", "replace")
        if member in derived.no_members:
            continue
        fields = json_object(value)
        if fields is None:
            trouble = "a member is not a JSON object"
            continue
        found, unreadable = samples(derived, fields, now_ms)
        labels = labels_of(look, derived, fields, member)
        for metric_type, number_ in found.items():
            gauges.put(metric_type, labels, number_)
        if unreadable:
            trouble = f"{', '.join(unreadable)} is not a number"
    return trouble


def _stuck(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    age_s = _age_s(look.fields.get(derived.field), now_ms)
    allowed_s = look.entry.ttl_s or 0
    is_stuck = look.ttl_ms == -1 or (age_s is not None and age_s > allowed_s)
    gauges.add(derived.metric_type, labels_of(look, derived), float(is_stuck))
    return ""


def _held(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    ttl_s = look.entry.ttl_s or 0
    if look.ttl_ms < 0:
        return "the lock never expires"
    gauges.put_most(derived.metric_type, labels_of(look, derived), max(0.0, ttl_s - look.ttl_ms / 1000))
    return ""


def _holders(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    gauges.holders.setdefault(derived.metric_type, []).append(look.text or "")
    return ""


def _orphans(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    gauges.subscriptions.setdefault(derived.metric_type, set()).add(look.match.parts.get("connection_id", ""))
    return ""


def _overdue(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    gauges.put(derived.metric_type, labels_of(look, derived), look.overdue)
    return ""


_CALLED_OFF = ("false", "0", "", "null", "[]", "{}")
"""What ``scheduled`` may say of a window that is none, as JSON text."""


def _within(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    start_ms, end_ms = (parse_window_ms(look.fields.get(name, "")) for name in ("start", "end"))
    is_off = look.fields.get("scheduled", "true") in _CALLED_OFF
    if not is_off and (start_ms is None or end_ms is None):
        return "start or end is not a time"
    is_active = not is_off and start_ms is not None and end_ms is not None and start_ms <= now_ms < end_ms
    gauges.put(derived.metric_type, labels_of(look, derived), float(is_active))
    return ""


def _suffixes(look: KeyLook, derived: Derived, gauges: Gauges, now_ms: int) -> str:
    for element in look.elements:
        name = element.decode("utf-8", "replace")
        kind = name.rsplit(".", 1)[1].lower() if "." in name else "none"
        gauges.add(derived.metric_type, (("tags.kind", name_of(kind[:20])),), 1)
    return ""


_GAUGES: dict[str, Callable[[KeyLook, Derived, Gauges, int], str]] = {
    "sum": _text_number,
    "number": _text_number,
    "total": _total,
    "size": _size,
    "members_total": _size,
    "fields": _fields,
    "members": _members,
    "stuck": _stuck,
    "held": _held,
    "holders": _holders,
    "orphans": _orphans,
    "overdue": _overdue,
    "within": _within,
    "suffixes": _suffixes,
}

# Ages


def oldest(look: KeyLook, derived: Derived, state: bytes, gauges: Gauges, now_ms: int) -> Events | None:
    """Put the age of the oldest element to the gauges: by the time that it tells, or else since it was first seen.

    When elements without a time were first seen is the state.
    """
    told_before = _remembered(state)
    known = told_before if isinstance(told_before, dict) else {}
    first_ms: dict[str, int] = {}
    ages_s = []
    for element in [element for element, _ in look.scored] or look.elements:
        fields = json_object(element, _TIMES) or {}
        told = [age_s for name in _TIMES if (age_s := _age_s(fields.get(name), now_ms)) is not None]
        if told:
            ages_s.append(told[0])
        else:
            name = f"{zlib.crc32(element):x}"
            seen_ms = known.get(name)
            first_ms[name] = seen_ms if isinstance(seen_ms, int) and 0 < seen_ms <= now_ms else now_ms
            ages_s.append(max(0.0, (now_ms - first_ms[name]) / 1000))
    if ages_s:
        gauges.put(derived.metric_type, labels_of(look, derived), max(ages_s))
    if first_ms == known:
        return None
    return Events(state_name(look.match, derived), state, json.dumps(first_ms).encode(), ())


_TIMES = ("queuedAt", "enqueuedAt", "createdAt", "timestamp")

# Events


def _remembered(state: bytes) -> Any:
    """What is remembered as JSON; None for nothing, and for what another program wrote: then it begins anew."""
    try:
        return json.loads(state)
    except (ValueError, RecursionError):
        return None


def _values(look: KeyLook, derived: Derived, state: bytes, now_ms: int) -> tuple[Events | None, str]:
    """New elements of a list that slides: the newest stands first."""
    now = fingerprints(look.elements)
    fresh, gap = new_elements(unpack(state), now)
    read = _event if derived.kind == "events" else _value
    made, unreadable = [], 0
    for element in reversed(look.elements[:fresh]):
        one = read(look, derived, element, now_ms)
        if one is None:
            unreadable += 1
        else:
            made.append(one)
    if gap:
        made.append(item("collect_gaps", 1.0, (("tags.key", look.entry.name),), now_ms))
    trouble = f"{unreadable} of {fresh} new elements cannot be read" if unreadable else ""
    after = pack(now)
    if after == state:
        return None, trouble
    return Events(state_name(look.match, derived), state, after, tuple(made), look.entry.name, int(gap)), trouble


def _value(look: KeyLook, derived: Derived, element: bytes, now_ms: int) -> bytes | None:
    value = number(element.decode("utf-8", "replace"))
    return None if value is None else item(derived.metric_type, value, labels_of(look, derived), now_ms)


def _event(look: KeyLook, derived: Derived, element: bytes, now_ms: int) -> bytes | None:
    fields = json_object(element)
    if fields is None:
        return None
    at_ms = parse_time_ms(fields.get("timestamp", "")) or now_ms
    return item(derived.metric_type, 1.0, labels_of(look, derived, fields), _recent(at_ms, now_ms))


def _series(look: KeyLook, derived: Derived, state: bytes, now_ms: int) -> tuple[Events | None, str]:
    """New members of a sorted set of times. Members at the newest score are remembered: more may come at it.

    A score that is no time, or far ahead, is not the newest: it would hide all that comes in the meantime. Some writers
    may count seconds and others milliseconds: the cursor is in milliseconds.
    """
    cursor, known = _series_state(state)
    made, unreadable = [], 0
    newest, at_newest = cursor, set(known)
    scored, timeless = _times(look.scored, MAX_ELEMENTS + series_cursor(state)[1], now_ms)
    for member, score in scored:
        text = member.decode("utf-8", "replace")
        # Versions before kept the members themselves.
        if score < cursor or (score == cursor and {text, _digest(text)} & known):
            continue
        if score > newest:
            newest, at_newest = score, set()
        at_newest.add(_digest(text))
        value = number(text.rsplit(":", 1)[-1])
        if value is None:
            unreadable += 1
            continue
        made.append(item(derived.metric_type, value, labels_of(look, derived), _recent(round(score), now_ms)))
    troubles = (
        (unreadable, "members are not numbers"),
        (timeless, "members have a time to come, or none"),
        (len(at_newest) if len(at_newest) >= MAX_AT_ONE_TIME else 0, "members have one time: the rest is given up"),
    )
    trouble = "; ".join(f"{count} {text}" for count, text in troubles if count)
    if newest == cursor and at_newest == known:
        return None, trouble
    after = json.dumps([newest, sorted(at_newest)]).encode()
    return Events(state_name(look.match, derived), state, after, tuple(made)), trouble


def _times(scored: Sequence[tuple[bytes, float]], most: int, now_ms: int) -> tuple[list[tuple[bytes, float]], int]:
    """Members with their time in milliseconds, in order, and how many have none.

    ``most`` members of a unit are read at once. Where there may be more, later ones of the other unit wait for them.
    """
    end_ms = now_ms + MAX_AHEAD_MS
    read = [[one for one in scored if is_ms == (one[1] >= MILLISECONDS_FROM)] for is_ms in (False, True)]
    last_ms = min((_in_ms(one[-1][1]) for one in read if len(one) >= most), default=math.inf)
    timed = [(member, _in_ms(score)) for member, score in scored if math.isfinite(score)]
    found = sorted((one for one in timed if one[1] <= min(last_ms, end_ms)), key=lambda one: one[1])
    return found, len(scored) - sum(at_ms <= end_ms for _, at_ms in timed)


def _in_ms(score: float) -> float:
    return score if score >= MILLISECONDS_FROM else score * 1000


def _series_state(state: bytes) -> tuple[float, set[str]]:
    match _remembered(state):
        case [int() | float() as cursor, [*known]] if abs(cursor) < _NO_TIME_FROM:
            return _in_ms(float(cursor)), {name for name in known if isinstance(name, str)}
    return -math.inf, set()


_NO_TIME_FROM = 1e14
"""Milliseconds; the year 5138."""


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def series_cursor(state: bytes) -> tuple[float, int]:
    """From which time (milliseconds) a sorted set of times is to be read, and how many members at it are known.

    Past ``MAX_AT_ONE_TIME`` of them it is a millisecond later: the rest at this time is given up.
    """
    cursor, known = _series_state(state)
    return (cursor, len(known)) if len(known) < MAX_AT_ONE_TIME else (cursor + 1, 0)


def _changed_fields(look: KeyLook, derived: Derived, state: bytes, now_ms: int) -> tuple[Events | None, str]:
    found, unreadable = samples(derived, look.fields, now_ms)
    trouble = f"{', '.join(unreadable)} is not a number" if unreadable else ""
    labels = labels_of(look, derived)
    after = hashlib.blake2b(json.dumps([sorted(found.items()), labels]).encode(), digest_size=8).digest()
    if not found or after == state:
        return None, trouble
    made = tuple(item(metric_type, value, labels, now_ms) for metric_type, value in sorted(found.items()))
    return Events(state_name(look.match, derived), state, after, made), trouble


def _once(look: KeyLook, derived: Derived, state: bytes, now_ms: int) -> tuple[Events | None, str]:
    if state:
        return None, ""
    made = item(derived.metric_type, 1.0, labels_of(look, derived), now_ms)
    return Events(state_name(look.match, derived), state, b"1", (made,)), ""


def _flags(look: KeyLook, derived: Derived, state: bytes, now_ms: int) -> tuple[Events | None, str]:
    """An event for each field that changed; the first look only remembers."""
    texts = [name_of(element.decode("utf-8", "replace")) for element in look.elements]
    now = dict(zip(texts[::2], texts[1::2], strict=True))
    found = _remembered(state)
    before = found if isinstance(found, dict) else now
    if state and now == found:
        return None, ""
    made = []
    for name in sorted(now.keys() | before.keys()):
        if before.get(name) != now.get(name):
            labels = (*labels_of(look, derived), ("tags.flag", name), ("tags.to", now.get(name, "removed")))
            made.append(item(derived.metric_type, 1.0, tuple(sorted(labels)), now_ms))
    return Events(state_name(look.match, derived), state, json.dumps(now).encode(), tuple(made)), ""


_EVENTS: dict[str, Callable[[KeyLook, Derived, bytes, int], tuple[Events | None, str]]] = {
    "values": _values,
    "events": _values,
    "series": _series,
    "changed_fields": _changed_fields,
    "once": _once,
    "flags": _flags,
}


RESULT_FIELDS = ("status", "duration", "startTime", "browser", "environment", "test_name", "test_id")


@dataclass(frozen=True)
class Result:
    """One ``test:result`` hash as an execution."""

    execution_id: str
    state: str
    at_ms: int
    duration_ms: float
    fields: Mapping[str, str]

    def as_events(self, missing: bool, now_ms: int) -> Events:
        """The execution if it is missing, and the state that says it was looked at."""
        labels = [(name, self.fields[name]) for name in ("browser", "environment", "test_name", "test_id")]
        labels += [("tags.execution_id", self.execution_id)]
        made = item(
            "duration", self.duration_ms, tuple(sorted((n, t) for n, t in labels if t)), _recent(self.at_ms, now_ms)
        )
        with_status = json.loads(made) | {"status": self.fields["status"]}
        items = (json.dumps(with_status, ensure_ascii=False, separators=(",", ":")).encode(),) if missing else ()
        return Events(self.state, b"", b"1", items)


def result(execution_id: str, state: str, found: Mapping[str, str]) -> Result | None:
    """What a ``test:result`` hash says; None while it lacks a duration or a start."""
    fields = {name: found.get(name, "")[:MAX_LABEL_CHARS] for name in RESULT_FIELDS}
    at_ms, duration_ms = parse_time_ms(fields["startTime"]), number(fields["duration"] or None)
    if at_ms is None or duration_ms is None:
        return None
    return Result(execution_id, state, at_ms, duration_ms, fields)


def _recent(at_ms: int, now_ms: int) -> int:
    """The time of an event; the time of the look where its own is in the future or would be too old to store."""
    return at_ms if now_ms - MAX_EVENT_AGE_MS <= at_ms <= now_ms else now_ms


def by_message(fields: Mapping[str, str], derived: Derived) -> Labels:
    """Labels of a message of a channel."""
    found = [(target, name_of(fields[name])) for target, name in derived.by.items() if fields.get(name)]
    return tuple(sorted(found))


def message_fields(data: bytes) -> dict[str, str]:
    """The fields of a message; none if it is not a JSON object."""
    return json_object(data) or {}


def batches(found: list[Events], most: int) -> Iterator[list[Events]]:
    """Events in batches of about ``most`` items, so that no script takes long."""
    batch: list[Events] = []
    held = 0
    for one in found:
        size = 1 + len(one.items)
        if batch and held + size > most:
            yield batch
            batch, held = [], 0
        batch.append(one)
        held += size
    if batch:
        yield batch
