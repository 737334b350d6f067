"""What the command line asks of alerts: ``rules replay``, ``alerts ls``, ``alerts silence``, ``alerts test``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.alerts.journal.alert_keys import AlertKeys
from pipeline.alerts.journal.journal import Journal
from pipeline.alerts.journal.maintenance import MaintenanceWindow, MaintenanceWindows
from pipeline.alerts.journal.silences import Silence, Silences
from pipeline.alerts.judge.evaluation import Alerts, Transition, alert_id, judge, ticks
from pipeline.alerts.judge.evaluator import CHUNK_MS
from pipeline.alerts.judge.evidence import iso
from pipeline.alerts.judge.sources import Source, SourceBatch, StoreSource
from pipeline.alerts.notify import channels as channels_
from pipeline.alerts.notify.channels import parse_channels
from pipeline.alerts.rules.rule import Rule
from pipeline.base.clock import Clock, WallClock
from pipeline.base.config import Settings
from pipeline.base.errors import UsageError
from pipeline.base.nearest import nearest
from pipeline.base.redis_link import RedisLink
from pipeline.store.client import Store


def replay(
    source: Source | Store,
    rules: Sequence[Rule],
    from_ms: int,
    to_ms: int,
    *,
    page_url: str = "",
    progress: Callable[[int], None] = lambda _: None,
) -> list[Transition]:
    """What would have been told between two times on what is stored now; nothing is written or sent.

    Every rule begins inactive. Rules over facts, which have no history, are left out. ``progress`` is
    told how far (epoch milliseconds) it has come.
    """
    reader = StoreSource(source) if isinstance(source, Store) else source
    judged = [rule for rule in rules if rule.subject != "facts"]
    alerts: dict[str, Alerts] = {rule.name: {} for rule in judged}
    found: list[Transition] = []
    begin_ms = from_ms
    while begin_ms < to_ms:
        end_ms = min(begin_ms + CHUNK_MS, to_ms)
        due = [rule for rule in judged if ticks(rule, begin_ms, end_ms)]
        if due:
            batch = SourceBatch(reader, due, begin_ms, end_ms, {})
            for rule in due:
                ticks_ms = ticks(rule, begin_ms, end_ms)
                found += judge(rule, ticks_ms, batch.view_at(rule), alerts[rule.name], page_url)
        begin_ms = end_ms
        progress(end_ms)
    return sorted(found, key=lambda transition: (transition.at_ms, transition.rule))


def list_alerts(
    settings: Settings, link: RedisLink, *, states: Sequence[str] = ("pending", "firing")
) -> list[dict[str, Any]]:
    """The alerts that are not inactive, firing ones first, as plain values. Raises ``RedisOutage``."""
    committed = Journal(link.database("metrics"), AlertKeys.of(settings)).load()
    found = []
    for name, state in committed.states.items():
        for labels, alert in state.alerts.items():
            if alert.state.value not in states:
                continue
            by = {key: value for key, value in zip(state.by, labels, strict=True) if value}
            found.append(
                {
                    "rule": name,
                    "state": alert.state.value,
                    "severity": state.rule.get("severity", ""),
                    "labels": by,
                    "value": alert.value,
                    "threshold": state.rule.get("threshold"),
                    "active_since": iso(alert.active_at_ms),
                    "fired_at": iso(alert.fired_at_ms) if alert.fired_at_ms is not None else None,
                    "resolved_at": iso(alert.resolved_at_ms) if alert.resolved_at_ms is not None else None,
                    "alert_id": alert_id(name, by),
                }
            )
    order = {"firing": 0, "pending": 1, "resolved": 2}
    return sorted(found, key=lambda one: (order[one["state"]], one["rule"], sorted(one["labels"].items())))


def silence(
    settings: Settings,
    link: RedisLink,
    matchers: Sequence[str],
    duration_ms: int,
    *,
    comment: str = "",
    created_by: str = "",
    clock: Clock | None = None,
) -> Silence:
    """Hold back what ``matchers`` describe for a while. Raises ``UsageError`` or ``RedisOutage``."""
    now_ms = (clock or WallClock()).now_ms()
    kept = Silences(link.database("metrics"), AlertKeys.of(settings))
    return kept.add(matchers, now_ms, now_ms + duration_ms, comment, created_by)


def list_silences(settings: Settings, link: RedisLink, clock: Clock | None = None) -> list[Silence]:
    """Silences that have not ended. Raises ``RedisOutage``."""
    return Silences(link.database("metrics"), AlertKeys.of(settings)).active((clock or WallClock()).now_ms())


def list_maintenance(link: RedisLink, clock: Clock | None = None) -> list[MaintenanceWindow]:
    """Maintenance windows that last or are to come; they mute alerts of their environment. Raises ``RedisOutage``."""
    return MaintenanceWindows(link.database("environment")).listed((clock or WallClock()).now_ms())


def end_silence(settings: Settings, link: RedisLink, silence_id: str) -> bool:
    """End a silence now; whether there was one. Raises ``RedisOutage``."""
    return Silences(link.database("metrics"), AlertKeys.of(settings)).end(silence_id)


def test_channel(settings: Settings, name: str) -> None:
    """Send a notification that says it is a test.

    Raises ``Undelivered``, or ``UsageError`` when there is no such channel.
    """
    configured = {channel.name: channel for channel in parse_channels(settings.alerts.channels)}
    if name not in configured:
        hint = nearest(name, configured) if configured else "alerts.channels is empty"
        raise UsageError(f"there is no channel {name!r}; {hint}")
    channels_.send(configured[name], channels_.trial(configured[name]), "test")
