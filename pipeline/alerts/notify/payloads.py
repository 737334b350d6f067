"""What stands in Redis and goes out to channels: the schema document's keys first, evidence after them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pipeline.alerts.judge.evidence import finite, iso
from pipeline.base import keys

if TYPE_CHECKING:
    from pipeline.alerts.judge.evaluation import Transition

_NAMES_OF_A_TEST = ("test_name", "test_id", "test_suite", "page", "endpoint", "node")


def subject(transition: Transition) -> str:
    """What the alert is about, in one name: the test, else the narrowest thing its labels name, else its rule."""
    named = [transition.labels[name] for name in _NAMES_OF_A_TEST if transition.labels.get(name)]
    return named[0] if named else next(iter(transition.by.values()), transition.rule)


def for_performance_list(transition: Transition) -> dict[str, Any]:
    """An entry of ``alerts:performance``: type, test, threshold, actual, timestamp; then the rest."""
    return _performance_entry(transition, transition.evidence.document())


def _performance_entry(transition: Transition, evidence: Mapping[str, Any]) -> dict[str, Any]:
    document = {
        "type": transition.type,
        "test": subject(transition),
        "threshold": transition.threshold,
        "actual": finite(transition.value),
        "timestamp": iso(transition.at_ms),
    }
    return document | _details(transition, evidence)


def for_critical_channel(transition: Transition) -> dict[str, Any]:
    """A message on ``alerts:critical``: type, test_suite, failure_rate, threshold, timestamp for failure rates.

    An alert about something else names its number ``actual`` and, where it has no suite, its subject ``test``.
    """
    return _critical_message(transition, transition.evidence.document())


def _critical_message(transition: Transition, evidence: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {"type": transition.type}
    suite = transition.labels.get("test_suite")
    document["test_suite" if suite else "test"] = suite or subject(transition)
    document["failure_rate" if transition.statistic == "failure_rate" else "actual"] = finite(transition.value)
    document |= {"threshold": transition.threshold, "timestamp": iso(transition.at_ms)}
    return document | _details(transition, evidence)


def dumps(payload: dict[str, Any]) -> str:
    """JSON as it is written everywhere: one line, keys in order, text as it is."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False)


class Notice(NamedTuple):
    """A transition as each reader wants it; made once, so that every repetition is byte for byte the same."""

    id: str
    row: bytes
    """For the table."""
    entry: bytes
    """For ``alerts:performance`` and ``alerts:critical``."""
    note: bytes
    """For the channels."""


def notice(transition: Transition, now_ms: int) -> Notice:
    """What every reader is to hear of a transition."""
    evidence = transition.evidence.document()
    entry = _performance_entry(transition, evidence)
    critical = _critical_message(transition, evidence) if transition.severity == "critical" else None
    written = _encode(entry)
    note = {
        "transition_id": transition.transition_id,
        "alert_id": transition.alert_id,
        "state": transition.to_state,
        "seen_ms": now_ms,
        "at_ms": transition.at_ms,
        "labels": {**transition.labels, "rule": transition.rule, "severity": transition.severity},
        "payload": msgspec.Raw(written),
    }
    return Notice(
        transition.transition_id,
        _encode(_row(transition, evidence, now_ms)),
        _encode({"entry": written.decode(), "message": _encode(critical).decode() if critical else ""}),
        _encode(note),
    )


_encode = msgspec.json.Encoder().encode


def _row(transition: Transition, evidence: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """The columns of ``alerts``; times in epoch milliseconds."""
    return {
        "at": transition.at_ms,
        "rule": transition.rule,
        "alert_id": transition.alert_id,
        "transition_id": transition.transition_id,
        "from_state": transition.from_state,
        "to_state": transition.to_state,
        "severity": transition.severity,
        "type": transition.type,
        "labels": transition.labels,
        "value": finite(transition.value),
        "threshold": transition.threshold,
        "reason": transition.reason,
        "message": transition.message,
        "evidence": _encode(evidence).decode(),
        "active_since": transition.active_at_ms,
        "fired_at": transition.fired_at_ms or transition.at_ms,
        "written_at": now_ms,
    }


def _details(transition: Transition, evidence: Mapping[str, Any]) -> dict[str, Any]:
    details: dict[str, Any] = {
        "state": transition.to_state,
        "severity": transition.severity,
        "rule": transition.rule,
        "message": transition.message,
        "reason": transition.reason,
        "labels": transition.labels,
        "active_since": iso(transition.active_at_ms),
    }
    if transition.fired_at_ms is not None:
        details["fired_at"] = iso(transition.fired_at_ms)
    if transition.resolved_at_ms is not None:
        details["resolved_at"] = iso(transition.resolved_at_ms)
    details |= evidence
    details["alert_id"] = transition.alert_id
    details["transition_id"] = transition.transition_id
    details["source"] = keys.SOURCE
    return details
