"""The fields of a rule in YAML: how each is read, and what may stand together.

Every mistake is collected as (line, sentence) rather than raised, so that one look at a file
names them all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.alerts.judge.facts import FACTS
from pipeline.alerts.rules import lined_yaml
from pipeline.alerts.rules.checks import contradictions
from pipeline.alerts.rules.lined_yaml import Problem, shown
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

LONGEST_MS = 366 * 86_400_000
MOST_SAMPLES = 1_000_000_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def parse(document: Any) -> tuple[list[Rule], list[Problem]]:
    """Read a rules document: the rules that are valid, and every mistake."""
    if not isinstance(document, lined_yaml.Mapping):
        return [], [(1, "expected a mapping with the key 'rules'")]
    problems = [
        (document.lines[key], f"unknown key {shown(key)}; did you mean 'rules'?") for key in document if key != "rules"
    ]
    listed = document.get("rules")
    if not isinstance(listed, list):
        return [], [*problems, (document.lines.get("rules", 1), "'rules' must be a list of rules")]
    rules: list[Rule] = []
    lines: dict[str, int] = {}
    for number, entry in enumerate(listed, start=1):
        if not isinstance(entry, lined_yaml.Mapping):
            problems.append((document.lines["rules"], f"rule {number} is not a mapping"))
            continue
        rule, wrong = parse_rule(entry)
        problems += wrong
        if rule is None:
            continue
        if rule.name in lines:
            problems.append((rule.line, f"rule {rule.name!r} stands already in line {lines[rule.name]}"))
        lines.setdefault(rule.name, rule.line)
        rules.append(rule)
    return rules, problems


def parse_rule(entry: lined_yaml.Mapping) -> tuple[Rule | None, list[Problem]]:
    """Read one rule; None when it has mistakes."""
    name = shown(entry.get("name", "?"))
    problems: list[Problem] = []

    def wrong(key: str, said: str) -> None:
        problems.append((entry.lines.get(key, entry.line), f"rule {name}: {said}"))

    for key in entry.repeated:
        wrong(key, f"{shown(key)} is written twice")
    fields: RuleFields | None = None
    try:
        fields = RuleFields.model_validate(dict(entry))
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            wrong(*_told(str(one["loc"][0]), one["type"], one["msg"]))
    if fields is None or problems:
        return None, problems
    for key, said in _missing(entry):
        wrong(key, said)
    if problems:
        return None, problems
    rule = _rule(fields, entry.lines.get("name", entry.line))
    for key, said in contradictions(rule):
        wrong(key, said)
    return (None if problems else rule), problems


def _told(key: str, kind: str, message: str) -> tuple[str, str]:
    """The field to blame, and a mistake as pydantic found it in the words of a rule's author."""
    if kind == "extra_forbidden":
        return key, f"unknown field {shown(key)}; {nearest(key[:60], FIELD_NAMES)}"
    if kind == "missing":
        return key, f"a rule needs a {key!r}"
    return key, f"{key}: {message.removeprefix('Value error, ')}"


# Readers of single values


def _text(raw: Any) -> str:
    text = " ".join(raw.split()) if isinstance(raw, str) else ""
    if not text:
        raise ValueError(f"expected text, not {shown(raw)}")
    if not text.isprintable():
        raise ValueError(f"{shown(text)} has characters that do not print")
    return text


def _identifier(raw: Any) -> str:
    text = _text(raw)
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} may only have letters, digits, '_' and '-', and begins with a letter")
    return text


def _number(raw: Any) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        try:
            if math.isfinite(raw):
                return float(raw)
        except OverflowError:
            pass
    raise ValueError(f"expected a number, not {shown(raw)}")


def _count(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= MOST_SAMPLES:
        raise ValueError(f"expected a whole number from 1 to {MOST_SAMPLES:,}, not {shown(raw)}")
    return raw


def _duration(raw: Any) -> int:
    if (isinstance(raw, str) and len(raw) > 60) or (span_ms := durations.read_ms(raw)) > LONGEST_MS:
        raise ValueError(f"{shown(raw)} is longer than a year")
    return span_ms


def _choice(options: tuple[str, ...]) -> Callable[[Any], str]:
    def convert(raw: Any) -> str:
        if not isinstance(raw, str) or raw not in options:
            raise ValueError(f"{shown(raw)} is not known; {nearest(shown(raw), options)}")
        return raw

    return convert


def _names(raw: Any) -> tuple[str, ...]:
    listed = [raw] if isinstance(raw, str) else raw
    if not isinstance(listed, list) or not all(isinstance(name, str) and name.isprintable() for name in listed):
        raise ValueError(f"expected a name or a list of names, not {shown(raw)}")
    if len(set(listed)) != len(listed):
        raise ValueError(f"a name is repeated in {shown(listed)}")
    return tuple(listed)


def _metrics(raw: Any) -> tuple[str, ...]:
    names = _names(raw)
    if not names:
        raise ValueError("expected at least one metric")
    return tuple(name.lower() for name in names)


def _fact(raw: Any) -> str:
    if not isinstance(raw, str) or raw not in FACTS:
        raise ValueError(f"{shown(raw)} is not known; {nearest(shown(raw), FACTS)}")
    return raw


def _statistic(raw: Any) -> str:
    if not isinstance(raw, str) or not is_statistic(raw):
        raise ValueError(f"{shown(raw)} is not known; {nearest(shown(raw), STATISTICS)}")
    return raw


def _where(raw: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, dict):
        said = "expected dimensions with the values they must have, as {environment: staging}"
        raise ValueError(said)  # noqa: TRY004  as pydantic expects
    return {str(name): _names(values) for name, values in raw.items()}


def _labels(raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str | int | float) for value in raw.values()):
        raise ValueError("expected labels and their text, as {team: checkout}")
    labels = {_identifier(name): str(value) for name, value in raw.items()}
    if not all(value.isprintable() for value in labels.values()):
        raise ValueError("a label has characters that do not print")
    return labels


Text = Annotated[str, BeforeValidator(_text)]
Identifier = Annotated[str, BeforeValidator(_identifier)]
Number = Annotated[float, BeforeValidator(_number)]
Span = Annotated[int, BeforeValidator(_duration)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class RuleFields(BaseModel):
    """A rule as it is written in YAML. Times are in milliseconds once they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Identifier
    about: Text = ""
    metric: Annotated[tuple[str, ...], BeforeValidator(_metrics)] = ()
    fact: Annotated[str, BeforeValidator(_fact)] = ""
    statistic: Annotated[str, BeforeValidator(_statistic)] = ""
    window: Span = 0
    every: Span = 0
    by: Names = ()
    where: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_where)] = {}
    above: Number = 0.0
    below: Number = 0.0
    clears_at: Number = 0.0
    for_: Span = Field(0, alias="for")
    keep_firing_for: Span = 0
    min_samples: Annotated[int, BeforeValidator(_count)] = 1
    when_unsure: Annotated[WhenUnsure, BeforeValidator(_choice(get_args(WhenUnsure)))] = "wait"
    no_data: Annotated[NoData, BeforeValidator(_choice(get_args(NoData)))] = "ignore"
    remember: Span = 0
    stale_after: Span = 0
    late: Annotated[Late, BeforeValidator(_choice(get_args(Late)))] = "ignore"
    severity: Annotated[Severity, BeforeValidator(_choice(get_args(Severity)))] = "warning"
    type: Identifier = ""
    labels: Annotated[dict[str, str], BeforeValidator(_labels)] = {}
    message: Text = ""
    unit: Text = ""


FIELD_NAMES = tuple(field.alias or name for name, field in RuleFields.model_fields.items())

_ATTRIBUTES = {
    "metric": "metrics",
    "for_": "for_ms",
    **{name: f"{name}_ms" for name in ("window", "every", "keep_firing_for", "remember", "stale_after")},
}
"""Attributes of ``Rule`` that are not named as the field is."""


def _missing(entry: lined_yaml.Mapping) -> Iterable[tuple[str, str]]:
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


def _rule(fields: RuleFields, line: int) -> Rule:
    given = {name: getattr(fields, name) for name in fields.model_fields_set}
    direction: Direction = "above" if "above" in given else "below"
    threshold = given.pop(direction)
    values: dict[str, Any] = {_ATTRIBUTES.get(name, name): value for name, value in given.items()}
    values |= {"line": line, "clears_at": values.get("clears_at", threshold), "type": values.get("type", fields.name)}
    rule = Rule(direction=direction, threshold=threshold, **values)
    if rule.subject == "vitals":
        values = {"window_ms": VITAL_WINDOW_MS, "every_ms": VITAL_WINDOW_MS} | values
    elif rule.subject == "change_points":
        values = {"window_ms": MAX_WINDOW_MS, "when_unsure": "fire"} | values
    elif rule.subject == "facts":
        values = {"statistic": "now", "window_ms": 0, "when_unsure": "fire"} | values
    return Rule(direction=direction, threshold=threshold, **values)
