"""What a channel is told, and when: Alertmanager's grouping, as pure functions of what is pending and the time.

- The first notification of a group waits ``group_wait``, so that what breaks together is told together.
- After that the group is looked at every ``group_interval``; it is told when something in it changed.
- While something in it fires, it is told again every ``repeat_interval``, no more often.
- A notification names everything that fires in the group, and once what was resolved.

A group is told in parts of at most ``PART`` alerts, each a group of its own for everything that follows
(what was told, what is on its way, repetitions), so that nothing grows without bound in a storm. An
alert stays in the part that was told of it.

An alert that came and went before a channel could be told (a channel that was down, a process that
died) is told once, as resolved: it has been firing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Labels = Mapping[str, str]

PART = 500
"""Alerts in one notification: about 650 KB in Redis."""


@dataclass(frozen=True)
class Policy:
    """How a channel wants to be told."""

    group_by: tuple[str, ...] = ("rule",)
    group_wait_ms: int = 30_000
    group_interval_ms: int = 300_000
    repeat_interval_ms: int = 4 * 3_600_000
    send_resolved: bool = True


@dataclass(frozen=True)
class Note:
    """One transition that the channel has not been told, or the firing one it was told last."""

    transition_id: str
    alert_id: str
    state: str
    """``firing`` or ``resolved``."""
    seen_ms: int
    at_ms: int
    labels: Labels
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """What a channel was told of a group: its first flush, its last, when it was last told, and what fires."""

    first_flush_ms: int
    flush_ms: int
    told_ms: int
    firing: Mapping[str, Note] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """What a flush does: what is told (``body``, None for nothing), what is done with, how the group stands then."""

    group_key: str
    consumed: tuple[str, ...]
    after: Group | None
    body: Mapping[str, Any] | None
    key: str = ""
    """Stays the same however often the notification is sent."""


@dataclass(frozen=True)
class Plan:
    """What to do now, and when to look again (None: when something new is pending)."""

    updates: tuple[Update, ...]
    wake_ms: int | None


def plan(
    channel: str,
    policy: Policy,
    pending: Iterable[Note],
    told: Mapping[str, Group],
    now_ms: int,
    is_quiet: Callable[[Labels], bool] = lambda _: False,
    in_flight: Mapping[str, Update] | None = None,
    part: int = PART,
) -> Plan:
    """Decide what a channel is told at ``now_ms``; groups in ``in_flight`` are being told already."""
    busy = in_flight or {}
    once = _each_alert_once(told)
    doubled = [key for key in told if once[key] is not told[key] and key not in busy]
    told = {key: _not_ahead(group, policy, now_ms) for key, group in once.items()}
    waiting = _in_parts(policy, [_not_from_the_future(note, policy, now_ms) for note in pending], told, busy, part)
    updates = [Update(key, (), told[key] if told[key].firing else None, None) for key in doubled]
    wakes: list[int] = []
    for key in sorted({*waiting, *told} - set(busy) - set(doubled)):
        group, notes = told.get(key), waiting.get(key, [])
        flush_ms = _flush(policy, group, notes, now_ms)
        if flush_ms is not None:
            update = _update(channel, policy, key, group, notes, flush_ms, is_quiet)
            if update is not None:
                updates.append(update)
                group = update.after
                consumed = set(update.consumed)
                notes = [note for note in notes if note.transition_id not in consumed]
        wake_ms = _next_look(policy, group, notes, now_ms)
        if wake_ms is not None:
            wakes.append(wake_ms)
    return Plan(tuple(updates), min(wakes, default=None))


def _in_parts(
    policy: Policy,
    pending: Iterable[Note],
    told: Mapping[str, Group],
    in_flight: Mapping[str, Update],
    part: int,
) -> dict[str, list[Note]]:
    """What waits, by the part of its group: the one that was told of the alert, else the first with room."""
    part_of = {alert: key for key, group in told.items() for alert in group.firing}
    on_its_way = {one: key for key, update in in_flight.items() for one in update.consumed}
    size = {key: len(group.firing) for key, group in told.items()}
    waiting: dict[str, list[Note]] = {}
    first_with_room: dict[str, int] = {}
    for note in sorted(pending, key=lambda note: (note.seen_ms, note.at_ms, note.state, note.transition_id)):
        key = on_its_way.get(note.transition_id) or part_of.get(note.alert_id) or ""
        if not key:
            group = group_key(policy, note.labels)
            number = first_with_room.get(group, 1)
            while size.get(key := _part_key(group, number), 0) >= part:
                number += 1
            first_with_room[group] = number
            size[key] = size.get(key, 0) + 1
        part_of.setdefault(note.alert_id, key)
        waiting.setdefault(key, []).append(note)
    return waiting


def _part_key(group: str, number: int) -> str:
    return group if number == 1 else json.dumps({**json.loads(group), "#": number}, ensure_ascii=False)


def _each_alert_once(told: Mapping[str, Group]) -> dict[str, Group]:
    """Two processes that tell the same group at the same time may put an alert into two parts; one keeps it."""
    placed: set[str] = set()
    kept: dict[str, Group] = {}
    for key in sorted(told, key=lambda key: (len(key), key)):
        group = told[key]
        if placed.isdisjoint(group.firing):
            kept[key] = group
        else:
            firing = {alert: note for alert, note in group.firing.items() if alert not in placed}
            kept[key] = replace(group, firing=firing)
        placed.update(group.firing)
    return kept


def _not_from_the_future(note: Note, policy: Policy, now_ms: int) -> Note:
    """A note from a clock that was ahead is due now, not when that time comes."""
    return note if note.seen_ms <= now_ms else replace(note, seen_ms=now_ms - policy.group_wait_ms)


def _not_ahead(group: Group, policy: Policy, now_ms: int) -> Group:
    """What was told by a clock that was ahead is looked at, and repeated, now."""
    if max(group.first_flush_ms, group.flush_ms, group.told_ms) <= now_ms:
        return group
    before_ms = now_ms - policy.group_interval_ms
    return Group(before_ms, before_ms, min(group.told_ms, now_ms - policy.repeat_interval_ms), group.firing)


def group_key(policy: Policy, labels: Labels) -> str:
    """The group an alert belongs to: the values of ``group_by``."""
    return json.dumps({name: labels.get(name, "") for name in policy.group_by}, ensure_ascii=False)


def arrived(update: Update, policy: Policy, now_ms: int) -> Group | None:
    """How the group stands once the notification has arrived at ``now_ms``.

    Repetitions count from the flush; if it arrived much later, from then.
    """
    after = update.after
    if after is None or now_ms - after.told_ms < policy.group_interval_ms:
        return after
    return Group(after.first_flush_ms, after.flush_ms, now_ms, after.firing)


def _flush(policy: Policy, group: Group | None, notes: Sequence[Note], now_ms: int) -> int | None:
    """The flush that is due, if one is."""
    if group is None:
        first_ms = notes[0].seen_ms + policy.group_wait_ms
        if now_ms < first_ms:
            return None
        return first_ms if now_ms - first_ms < policy.group_interval_ms else now_ms
    flush_ms = _last_flush(policy, group, now_ms)
    return flush_ms if flush_ms > group.flush_ms else None


def _last_flush(policy: Policy, group: Group, now_ms: int) -> int:
    passed = (now_ms - group.first_flush_ms) // policy.group_interval_ms
    return group.first_flush_ms + passed * policy.group_interval_ms


def _next_look(policy: Policy, group: Group | None, notes: Sequence[Note], now_ms: int) -> int | None:
    next_flush_ms = now_ms + policy.group_interval_ms
    if group is None:
        if not notes:
            return None
        first_ms = notes[0].seen_ms + policy.group_wait_ms
        # Held back by a silence, which may end at any moment.
        return first_ms if first_ms > now_ms else next_flush_ms
    next_flush_ms = _last_flush(policy, group, now_ms) + policy.group_interval_ms
    return next_flush_ms if notes else max(next_flush_ms, group.told_ms + policy.repeat_interval_ms)


def _update(
    channel: str,
    policy: Policy,
    key: str,
    group: Group | None,
    notes: Sequence[Note],
    flush_ms: int,
    is_quiet: Callable[[Labels], bool],
) -> Update | None:
    firing = dict(group.firing) if group else {}
    resolved: list[Note] = []
    consumed: list[str] = []
    is_news = False
    by_alert: dict[str, list[Note]] = {}
    for note in notes:
        if note.seen_ms <= flush_ms or group is None:
            by_alert.setdefault(note.alert_id, []).append(note)
    for alert_id, sequence in by_alert.items():
        last, was_told = sequence[-1], alert_id in firing
        if is_quiet(last.labels):
            if last.state == "resolved" and not was_told:
                consumed += [note.transition_id for note in sequence]  # came and went in the quiet
            continue
        consumed += [note.transition_id for note in sequence]
        if last.state == "firing":
            firing[alert_id] = last
            is_news = True
            continue
        firing.pop(alert_id, None)
        if policy.send_resolved or not was_told:
            resolved.append(last)
            is_news = True
    heard = [note for note in firing.values() if not is_quiet(note.labels)]
    is_repeat = bool(heard) and group is not None and flush_ms - group.told_ms >= policy.repeat_interval_ms
    if not is_news and not is_repeat:
        if not consumed:
            return None
        rest = _after(group, flush_ms, group.told_ms if group else flush_ms, firing)
        return Update(key, tuple(consumed), rest, None)
    heard.sort(key=lambda note: (note.at_ms, note.alert_id))
    body = _body(channel, key, heard, resolved)
    return Update(key, tuple(consumed), _after(group, flush_ms, flush_ms, firing), body, _key(body, flush_ms))


def _after(group: Group | None, flush_ms: int, told_ms: int, firing: Mapping[str, Note]) -> Group | None:
    if not firing:
        return None
    return Group(group.first_flush_ms if group else flush_ms, flush_ms, told_ms, firing)


def _body(channel: str, key: str, firing: Sequence[Note], resolved: Sequence[Note]) -> dict[str, Any]:
    """The notification; its payloads begin with the schema document's keys."""
    return {
        "channel": channel,
        "state": "firing" if firing else "resolved",
        "group": json.loads(key),
        "firing": len(firing),
        "resolved": len(resolved),
        "alerts": [dict(note.payload) for note in (*firing, *resolved)],
    }


def _key(body: Mapping[str, Any], flush_ms: int) -> str:
    transitions = [alert.get("transition_id", "") for alert in body["alerts"]]
    text = json.dumps([body["channel"], body["group"], flush_ms, transitions], ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
