"""What may stand together in a rule: contradictions between fields that are each valid."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from pipeline.alerts.rules.lined_yaml import shown
from pipeline.alerts.rules.rule import (
    BASELINE_DIMENSIONS,
    BASELINE_GROUPINGS,
    MAX_WINDOW_MS,
    MINUTE_MS,
    SERIES_DIMENSIONS,
    VITAL_DIMENSIONS,
    VITAL_WINDOW_MS,
    Rule,
)
from pipeline.analyse.dimensions import VITALS
from pipeline.base import durations
from pipeline.base.nearest import nearest

NUMBERS_IN_MESSAGES = ("value", "threshold", "samples", "low", "high", "baseline", "spread")
MESSAGE_FIELDS = ("rule", "metric", "statistic", "window", "for", "severity", *NUMBERS_IN_MESSAGES)
"""What a message template may name besides the labels of the alert."""

_SPEC = re.compile(r"[<>^]?[0-9]{0,3},?(\.[0-9]{1,2})?[efgEFG%ns]?")
"""A width of a billion would be a message of a billion characters."""

RESERVED_LABELS = ("rule", "severity", "state")


def contradictions(rule: Rule) -> Iterable[tuple[str, str]]:
    """What does not fit together, each with the field to blame."""
    if (rule.direction == "above") == (rule.clears_at > rule.threshold) and rule.clears_at != rule.threshold:
        side = "at most" if rule.direction == "above" else "at least"
        yield "clears_at", f"clears_at must be {side} {rule.threshold:g}, where the alert begins"
    yield from _times(rule)
    yield from _dimensions(rule)
    yield from _statistics(rule)
    for name in rule.labels:
        if name in RESERVED_LABELS or name in rule.by:
            yield "labels", f"the label {name!r} is set by the alert itself"
    yield from _message(rule)


def _times(rule: Rule) -> Iterable[tuple[str, str]]:
    if rule.fact:
        if rule.every_ms < 1000:
            yield "every", "a fact is looked at once a second at most"
        return
    step = VITAL_WINDOW_MS if rule.subject == "vitals" else MINUTE_MS
    for key, value in (("window", rule.window_ms), ("every", rule.every_ms)):
        if value < step or value % step:
            yield key, f"{key} must be a multiple of {durations.show(step)}, the length of the stored windows"
    if rule.window_ms > MAX_WINDOW_MS:
        yield "window", f"window may be {durations.show(MAX_WINDOW_MS)} at most"
    if rule.remember_ms < rule.window_ms:
        yield "remember", "a series must be remembered for a window at least"


def _dimensions(rule: Rule) -> Iterable[tuple[str, str]]:
    if rule.fact:
        return
    known = {"vitals": VITAL_DIMENSIONS, "baselines": BASELINE_DIMENSIONS}.get(rule.subject, SERIES_DIMENSIONS)
    for key, names in (("by", rule.by), ("where", tuple(rule.where))):
        for name in names:
            if name not in known:
                yield key, f"{key}: {name!r} is no dimension of {rule.statistic}; {nearest(name, known)}"
    if len(rule.metrics) > 1 and "metric_type" not in rule.by:
        yield "by", "with several metrics 'by' must name metric_type, so that they are not mixed"
    groupings = [sorted(grouping) for grouping in BASELINE_GROUPINGS]
    if rule.subject == "baselines" and sorted(rule.by) not in groupings:
        shown = ", ".join(f"[{', '.join(grouping)}]" for grouping in BASELINE_GROUPINGS)
        yield "by", f"baselines are kept for {shown}"


def _statistics(rule: Rule) -> Iterable[tuple[str, str]]:
    if rule.subject == "vitals":
        for metric in rule.metrics:
            if metric not in VITALS:
                yield "metric", f"{metric!r} is no vital; {nearest(metric, VITALS)}"
    if (rule.subject == "baselines" or rule.statistic == "failure_rate") and rule.metrics != ("duration",):
        yield "metric", f"{rule.statistic} is known for executions only: metric: duration"
    if rule.statistic == "age" and rule.no_data == "keep":
        yield "no_data", "age is the time without data; 'keep' would freeze it"
    if rule.statistic == "age" and rule.stale_after_ms:
        yield "stale_after", "age is the time without data; 'stale_after' would freeze it"
    if rule.stale_after_ms and rule.no_data == "keep":
        yield "stale_after", "no_data: keep goes on for ever already"
    if rule.statistic in ("failure_rate", "poor_share") and not 0 <= rule.threshold <= 100:
        yield rule.direction, f"{rule.statistic} is a percentage, so the threshold lies between 0 and 100"


def _message(rule: Rule) -> Iterable[tuple[str, str]]:
    known = (*MESSAGE_FIELDS, *rule.by, *rule.labels)
    try:
        parts = [(name, spec) for _, name, spec, _ in string.Formatter().parse(rule.message) if name is not None]
    except ValueError as error:
        yield "message", f"message: {error}; write {{{{ and }}}} for braces"
        return
    for name, spec in parts:
        # A plain name only: attributes and indexes would reach into the program.
        if name not in known:
            yield "message", f"message: {{{name[:60]}}} is not known; {nearest(name[:60], known)}"
            continue
        if not _SPEC.fullmatch(spec or ""):
            yield "message", f"message: {{{name}:{shown(spec)}}} is not a format such as .0f or ,.1f"
            continue
        try:
            format(1.5 if name in NUMBERS_IN_MESSAGES else "text", spec or "")
        except ValueError as error:
            yield "message", f"message: {{{name}:{spec}}}: {error}"


def hints(rule: Rule) -> Iterable[str]:
    """What is valid and may still surprise: times that are not reached at the moment they name."""
    for field, value in (("for", rule.for_ms), ("keep_firing_for", rule.keep_firing_for_ms)):
        if value % rule.every_ms:
            reached = durations.show(-(-value // rule.every_ms) * rule.every_ms)
            yield (
                f"rule {rule.name!r}: {field} {durations.show(value)} is reached after {reached}, "
                f"since the rule is judged every {durations.show(rule.every_ms)}"
            )
