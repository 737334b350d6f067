"""Attempts of an execution, and the row that each becomes.

Attempts decide locally: the reporter knows whether one was the last. One that is tried again has the status
``retried``; the last one carries the verdict of the execution, ``flaky`` where it passed after one that failed. Each
row has the duration of its own attempt. Standard library only, as the pytest plugin imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.client.failures import NO_FAILURE, Failure, bounded
from pipeline.status_words import FAILED, FLAKY, PASSED, RETRIED, SKIPPED

DURATION_DIGITS = 4
"""Of a millisecond: a tenth of a microsecond is noise in any clock."""


@dataclass
class Attempt:
    """One try of a test."""

    status: str
    """passed, failed, skipped or interrupted: how this try ended by itself. Of the last one perhaps the report's
    verdict on the whole: flaky, where Playwright found that."""
    duration_ms: float | None = None
    """None where the report does not say."""
    timestamp_ms: int | None = None
    """None where the report does not say."""
    failure: Failure = NO_FAILURE
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Execution:
    """One test in one run and browser, with all its attempts in order; there is at least one."""

    test_id: str
    test_name: str
    test_suite: str
    attempts: list[Attempt]
    browser: str = ""
    environment: str = ""
    tags: dict[str, str] = field(default_factory=dict)


def verdict(attempts: Sequence[Attempt]) -> str:
    """The status of the last attempt: its own outcome, or ``flaky`` where it passed after one that failed."""
    last = attempts[-1].status
    if last == PASSED and any(attempt.status == FAILED for attempt in attempts[:-1]):
        return FLAKY
    return last


def rows(execution: Execution, now_ms: int) -> list[dict[str, Any]]:
    """The metrics of an execution, one for each attempt. ``now_ms``: the time of attempts that carry none."""
    last = len(execution.attempts)
    statuses = [RETRIED] * (last - 1) + [verdict(execution.attempts)]
    return [
        row(execution, attempt, status, number, now_ms)
        for number, (attempt, status) in enumerate(zip(execution.attempts, statuses, strict=True), 1)
    ]


def row(execution: Execution, attempt: Attempt, status: str, number: int, now_ms: int) -> dict[str, Any]:
    """The metric of one attempt; empty fields are left out."""
    tags = {**execution.tags, **attempt.tags, **attempt.failure.tags()}
    if attempt.duration_ms is None and status != SKIPPED:
        tags["duration"] = "unknown"
    fields = {
        "test_id": bounded(execution.test_id),
        "test_name": bounded(execution.test_name),
        "test_suite": bounded(execution.test_suite),
        "environment": bounded(execution.environment),
        "browser": bounded(execution.browser),
        "error_type": attempt.failure.error_type,
    }
    return {
        "timestamp": now_ms if attempt.timestamp_ms is None else attempt.timestamp_ms,
        "metric_type": "duration",
        "value": round(attempt.duration_ms or 0.0, DURATION_DIGITS),
        "status": status,
        "attempt": number,
        **{name: text for name, text in fields.items() if text},
        "tags": {bounded(name, 128): bounded(text, 1024) for name, text in tags.items() if name},
    }
