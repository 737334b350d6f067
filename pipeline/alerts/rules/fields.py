"""The fields of a rule in YAML: how each is read, and what may stand together.

Every mistake is collected as (line, sentence) rather than raised, so that one look at a file
names them all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

from pipeline.alerts.judge.facts import FACTS
from pipeline.alerts.rules import lined_yaml
from pipeline.alerts.rules.checks import contradictions
from pipeline.alerts.rules.lined_yaml import Problem
from pipeline.alerts.rules.rule import (
    MAX_WINDOW_MS,
    STATISTICS,
    VITAL_WINDOW_MS,
    Direction,
    Late,
    NoData,
    Rule,
    Severity,
    WhenUnsure,
    is_statistic,
)
from pipeline.base import durations
from pipeline.base.nearest import nearest

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class _Wrong(ValueError):
    """A value that makes no sense; the text says why."""


def parse(text: str) -> tuple[list[Rule], list[Problem]]:
    """Read a rules document: the rules that are valid, and every mistake."""
    document, problems = lined_yaml.read(text)
    if problems:
        return [], problems
    if not isinstance(document, lined_yaml.Mapping):
        return [], [(1, "expected a mapping with the key 'rules'")]
    problems += [
        (document.lines[key], f"unknown key {key!r}; did you mean 'rules'?") for key in document if key != "rules"
    ]
    listed = document.get("rules")
    if not isinstance(listed, list):
        return [], [*problems, (document.lines.get("rules", 1), "'rules' must be a list of rules")]
    rules: list[Rule] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(listed, start=1):
        if not isinstance(entry, lined_yaml.Mapping):
            problems.append((document.lines["rules"], f"rule {number} is no mapping"))
            continue
        rule, wrong = parse_rule(entry)
        problems += wrong
        if rule is None:
            continue
        if rule.name in seen:
            problems.append((rule.line, f"rule {rule.name!r} stands already in line {seen[rule.name]}"))
        seen.setdefault(rule.name, rule.line)
        rules.append(rule)
    return rules, problems


def parse_rule(entry: lined_yaml.Mapping) -> tuple[Rule | None, list[Problem]]:
    """Read one rule; None when it has mistakes."""
    name = str(entry.get("name", "?"))
    problems: list[Problem] = []

    def wrong(key: str, said: str) -> None:
        problems.append((entry.lines.get(key, entry.line), f"rule {name!r}: {said}"))

    for key in entry.repeated:
        wrong(key, f"{key!r} is written twice")
    values: dict[str, Any] = {"line": entry.lines.get("name", entry.line)}
    for key, raw in entry.items():
        if key not in _FIELDS:
            wrong(key, f"unknown field {key!r}; {nearest(key, _FIELDS)}")
            continue
        attribute, convert = _FIELDS[key]
        try:
            values[attribute] = convert(raw)
        except _Wrong as error:
            wrong(key, f"{key}: {error}")
    if problems:
        return None, problems
    for key, said in _missing(entry):
        wrong(key, said)
    if problems:
        return None, problems
    rule = _with_defaults(values)
    for key, said in contradictions(rule):
        wrong(key, said)
    return (None if problems else rule), problems


# Readers of single values


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise _Wrong(f"expected text, not {raw!r}")
    return raw.strip()


def _identifier(raw: Any) -> str:
    text = _text(raw)
    if not _NAME.fullmatch(text):
        raise _Wrong(f"{text!r} may only have letters, digits, '_' and '-', and begins with a letter")
    return text


def _number(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise _Wrong(f"expected a number, not {raw!r}")
    return float(raw)


def _count(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
        raise _Wrong(f"expected a whole number from 1, not {raw!r}")
    return raw


def _duration(raw: Any) -> int:
    if raw == 0 and not isinstance(raw, bool):
        return 0
    if not isinstance(raw, str):
        raise _Wrong(f"{raw!r} has no unit; write 30s, 5m, 1h30m or 7d")
    try:
        return durations.parse_ms(raw)
    except ValueError as error:
        raise _Wrong(str(error)) from None


def _choice(options: tuple[str, ...]) -> Callable[[Any], str]:
    def convert(raw: Any) -> str:
        if raw not in options:
            raise _Wrong(f"{raw!r} is not known; {nearest(str(raw), options)}")
        return str(raw)

    return convert


def _names(raw: Any) -> tuple[str, ...]:
    listed = [raw] if isinstance(raw, str) else raw
    if not isinstance(listed, list) or not all(isinstance(name, str) and name for name in listed):
        raise _Wrong(f"expected a name or a list of names, not {raw!r}")
    if len(set(listed)) != len(listed):
        raise _Wrong(f"a name is repeated in {listed!r}")
    return tuple(listed)


def _metrics(raw: Any) -> tuple[str, ...]:
    names = _names(raw)
    if not names:
        raise _Wrong("expected at least one metric")
    return tuple(name.lower() for name in names)


def _fact(raw: Any) -> str:
    if raw not in FACTS:
        raise _Wrong(f"{raw!r} is not known; {nearest(str(raw), FACTS)}")
    return str(raw)


def _statistic(raw: Any) -> str:
    if not is_statistic(str(raw)):
        raise _Wrong(f"{raw!r} is not known; {nearest(str(raw), STATISTICS)}")
    return str(raw)


def _where(raw: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, dict):
        raise _Wrong("expected dimensions with the values they must have, as {environment: staging}")
    return {str(name): _names(values) for name, values in raw.items()}


def _labels(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str | int | float) for value in raw.values()):
        raise _Wrong("expected labels and their text, as {team: checkout}")
    return {str(name): str(value) for name, value in raw.items()}


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _identifier),
    "about": ("about", _text),
    "metric": ("metrics", _metrics),
    "fact": ("fact", _fact),
    "statistic": ("statistic", _statistic),
    "window": ("window_ms", _duration),
    "every": ("every_ms", _duration),
    "by": ("by", _names),
    "where": ("where", _where),
    "above": ("above", _number),
    "below": ("below", _number),
    "clears_at": ("clears_at", _number),
    "for": ("for_ms", _duration),
    "keep_firing_for": ("keep_firing_for_ms", _duration),
    "min_samples": ("min_samples", _count),
    "when_unsure": ("when_unsure", _choice(get_args(WhenUnsure))),
    "no_data": ("no_data", _choice(get_args(NoData))),
    "remember": ("remember_ms", _duration),
    "late": ("late", _choice(get_args(Late))),
    "severity": ("severity", _choice(get_args(Severity))),
    "type": ("type", _identifier),
    "labels": ("labels", _labels),
    "message": ("message", _text),
}


def _missing(entry: lined_yaml.Mapping) -> Iterable[tuple[str, str]]:
    if "name" not in entry:
        yield "name", "a rule needs a 'name'"
    if ("above" in entry) == ("below" in entry):
        yield "below", "say either 'above' or 'below'"
    if ("metric" in entry) == ("fact" in entry):
        yield "fact", "say either 'metric' or 'fact'"
    elif "fact" in entry:
        for key in ("statistic", "window", "min_samples", "when_unsure", "remember", "late", "where"):
            if key in entry:
                yield key, f"{key!r} has no meaning for a fact, which is one number at the moment of judging"
    elif "statistic" not in entry:
        yield "metric", "a metric needs a 'statistic'"


def _with_defaults(values: dict[str, Any]) -> Rule:
    direction: Direction = "above" if "above" in values else "below"
    threshold = values.pop(direction)
    values.setdefault("clears_at", threshold)
    values.setdefault("type", values["name"])
    rule = Rule(direction=direction, threshold=threshold, **values)
    if rule.source == "vitals":
        values = {"window_ms": VITAL_WINDOW_MS, "every_ms": VITAL_WINDOW_MS} | values
    elif rule.source == "change_points":
        values = {"window_ms": MAX_WINDOW_MS, "when_unsure": "fire"} | values
    elif rule.source == "facts":
        values = {"statistic": "now", "window_ms": 0, "when_unsure": "fire"} | values
    return Rule(direction=direction, threshold=threshold, **values)
