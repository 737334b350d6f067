"""``rules test``: given these series, these alerts must be firing at these times.

The files look like promtool's. A value is what was measured in the interval that ends at its time:
the first at 0, the next one ``interval`` later. Series are named as metrics are, with the labels of
a series and ``status``; series named as a fact are facts.

    rule_files: [rules.yaml]
    tests:
      - name: a slow login is told after a minute
        interval: 1m
        input_series:
          - series: 'duration{test_suite="auth", test_name="login", status="passed"}'
            values: "900x5 4500x5"
            samples: 50
        alert_rule_test:
          - eval_time: 7m
            alertname: duration_threshold_exceeded
            exp_alerts:
              - exp_labels: {test_suite: auth, test_name: login, severity: warning}

Everything between the values and the alerts is the product's own: rollups, histograms, grouping,
bounds, states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa

from pipeline.alerts import durations, lined_yaml, rules, series_notation
from pipeline.alerts.evaluation import Alerts, judge_tick
from pipeline.alerts.facts import FACTS
from pipeline.alerts.list_views import Baseline, ChangePoint
from pipeline.alerts.memory_source import Ended, MemorySource
from pipeline.alerts.rule import BASELINE_DIMENSIONS, MINUTE_MS, SERIES_DIMENSIONS, Rule
from pipeline.alerts.rule_fields import nearest
from pipeline.alerts.series_notation import MISSING, STALE, Mark
from pipeline.alerts.sources import Batch
from pipeline.alerts.state import State
from pipeline.errors import RuleError

START_MS = 1_736_553_600_000
"""Time 0 of every test: 2025-01-11, midnight UTC."""

_DAY_MS = 86_400_000
_DEFAULT_SAMPLES = "100"

_TEST_KEYS = ("name", "interval", "input_series", "baselines", "change_points", "alert_rule_test")
_SERIES_KEYS = ("series", "values", "samples")
_CASE_KEYS = ("eval_time", "alertname", "exp_alerts")
_ALERT_KEYS = ("exp_labels", "exp_annotations")


@dataclass
class CaseResult:
    """One expectation: which test and alert, at what time, and what was otherwise."""

    test: str
    name: str
    failures: list[str] = field(default_factory=list)


@dataclass
class TestReport:
    """What became of every expectation of a file."""

    __test__ = False  # the name is the interface's; pytest is not to collect it

    path: str
    cases: list[CaseResult] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Expectations that were not met."""
        return sum(bool(case.failures) for case in self.cases)

    def junit_xml(self) -> str:
        """The report as JUnit XML, which CI systems read."""
        suite = ElementTree.Element("testsuite", name=self.path, tests=str(len(self.cases)), failures=str(self.failed))
        for case in self.cases:
            element = ElementTree.SubElement(suite, "testcase", classname=case.test, name=case.name, time="0")
            if case.failures:
                failure = ElementTree.SubElement(element, "failure", message=case.failures[0])
                failure.text = "\n".join(case.failures)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


@dataclass(frozen=True)
class _Firing:
    labels: Mapping[str, str]
    message: str


def run_tests(path: str | Path) -> TestReport:
    """Run a file of unit tests. Raises ``RuleError`` when the file, or a rule file it names, cannot be read."""
    place = Path(path)
    reader = _Reader(place)
    document = reader.document()
    report = TestReport(str(place))
    tested = _rules(reader, document)
    for number, test in enumerate(reader.mappings(document, "tests", _TEST_KEYS), start=1):
        _run_test(reader, test, tested, str(test.get("name", f"test {number}")), report)
    return report


def _rules(reader: _Reader, document: lined_yaml.Mapping) -> list[Rule]:
    files = document.get("rule_files", [])
    if not isinstance(files, list):
        raise reader.wrong(document, "rule_files", "rule_files must be a list of files")
    if not files:
        return rules.load()
    return [rule for name in files for rule in rules.load(reader.path.parent / str(name))]


def _run_test(reader: _Reader, test: lined_yaml.Mapping, tested: Sequence[Rule], name: str, report: TestReport) -> None:
    source, facts = _source(reader, test)
    cases = list(reader.mappings(test, "alert_rule_test", _CASE_KEYS))
    for case in cases:
        alert = str(case.get("alertname", ""))
        if alert not in (known := [rule.name for rule in tested]):
            raise reader.wrong(case, "alertname", f"no rule is named {alert!r}; {nearest(alert, known)}")
    wanted = {str(case["alertname"]) for case in cases}
    firing_at = {
        rule.name: _Timeline(rule, source, facts, max(reader.duration(case, "eval_time") for case in cases))
        for rule in tested
        if rule.name in wanted
    }
    for case in cases:
        at_ms = reader.duration(case, "eval_time")
        expected = reader.mappings(case, "exp_alerts", _ALERT_KEYS, optional=True)
        result = CaseResult(name, f"{case['alertname']} at {durations.show(at_ms)}")
        result.failures += _differences(list(expected), firing_at[str(case["alertname"])].at(at_ms))
        report.cases.append(result)


class _Timeline:
    """What fires when, tick by tick until ``until_ms``."""

    def __init__(self, rule: Rule, source: MemorySource, facts: Mapping[str, Any], until_ms: int) -> None:
        self._every_ms = rule.every_ms
        self._firing: list[list[_Firing]] = []
        alerts: Alerts = {}
        messages: dict[tuple[str, ...], str] = {}
        ticks = range(START_MS, START_MS + until_ms + 1, rule.every_ms)
        whole = Batch(source, [rule], ticks[0], ticks[-1], {}).view_at(rule)
        for tick_ms in ticks:
            view = whole(tick_ms)
            if rule.fact or source.has_ended:  # what is seen depends on when one looks
                now = {name: readings for name, at in facts.items() if (readings := _readings_at(at, tick_ms))}
                view = Batch(source, [rule], tick_ms, tick_ms, now).view_at(rule)(tick_ms)
            for found in judge_tick(rule, tick_ms, view, alerts):
                messages[tuple(found.by.get(name, "") for name in rule.by)] = found.message
            firing = [labels for labels, alert in alerts.items() if alert.state is State.FIRING]
            self._firing.append([_Firing(_labels(rule, labels), messages.get(labels, "")) for labels in firing])

    def at(self, at_ms: int) -> list[_Firing]:
        """What fired at the last tick until then."""
        return self._firing[at_ms // self._every_ms]


def _labels(rule: Rule, labels: tuple[str, ...]) -> dict[str, str]:
    by = {name: value for name, value in zip(rule.by, labels, strict=True) if value}
    return by | dict(rule.labels) | {"severity": rule.severity}


def _differences(expected: Sequence[Mapping[str, Any]], firing: Sequence[_Firing]) -> list[str]:
    found = {tuple(sorted(one.labels.items())): one for one in firing}
    failures = []
    for alert in expected:
        labels = {str(name): str(value) for name, value in (alert.get("exp_labels") or {}).items()}
        one = found.pop(tuple(sorted(labels.items())), None)
        if one is None:
            failures.append(f"expected, but not firing: {_braces(labels)}")
            continue
        message = (alert.get("exp_annotations") or {}).get("message")
        if message is not None and message != one.message:
            failures.append(f"{_braces(labels)} says {one.message!r}, expected {message!r}")
    return failures + [f"firing, but not expected: {_braces(one.labels)}" for one in found.values()]


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"


# Series, baselines, change points and facts of one test

_FactSeries = list[tuple[dict[str, str], dict[int, float]]]


def _readings_at(series: _FactSeries, tick_ms: int) -> list[tuple[dict[str, str], float]]:
    """A fact holds until its next value, as its interval says."""
    return [(labels, values[tick_ms]) for labels, values in series if tick_ms in values]


def _source(reader: _Reader, test: lined_yaml.Mapping) -> tuple[MemorySource, dict[str, _FactSeries]]:
    interval_ms = reader.duration(test, "interval", default="1m")
    if interval_ms < MINUTE_MS or interval_ms % MINUTE_MS:
        raise reader.wrong(test, "interval", "interval must be a multiple of 1m, the length of a window")
    raw = _RawRows()
    ended: list[Ended] = []
    facts: dict[str, _FactSeries] = {}
    for given in reader.mappings(test, "input_series", _SERIES_KEYS, optional=True):
        try:
            name, labels = series_notation.series(given["series"])
            values = series_notation.values(given["values"])
            samples = series_notation.values(given.get("samples", _DEFAULT_SAMPLES))
        except (ValueError, KeyError) as error:
            said = f"a series needs {error}" if isinstance(error, KeyError) else str(error)
            raise reader.wrong(given, "series", said) from None
        if name in FACTS:
            facts.setdefault(name, []).append((labels, _fact_values(values, interval_ms)))
            continue
        if unknown := [label for label in labels if label not in (*SERIES_DIMENSIONS, "status")]:
            hint = nearest(unknown[0], (*SERIES_DIMENSIONS, "status"))
            raise reader.wrong(given, "series", f"{unknown[0]!r} is no dimension of a series; {hint}")
        labels["metric_type"] = name
        raw.add(labels, values, samples, interval_ms)
        ended += [
            Ended(labels, (START_MS + i * interval_ms) // 1000) for i, value in enumerate(values) if value is STALE
        ]
    source = MemorySource(
        raw.table(),
        ended=ended,
        baselines=[_baseline(reader, one) for one in test.get("baselines", [])],
        change_points=[_change_point(reader, one) for one in test.get("change_points", [])],
    )
    return source, facts


def _fact_values(values: Sequence[float | Mark], interval_ms: int) -> dict[int, float]:
    held: dict[int, float] = {}
    for i, value in enumerate(values):
        if not isinstance(value, Mark):
            begin_ms = START_MS + i * interval_ms
            held |= dict.fromkeys(range(begin_ms, begin_ms + interval_ms, 1000), value)
    return held


class _RawRows:
    """Collects raw rows: in every minute of an interval, its value as often as there are samples."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in (*SERIES_DIMENSIONS, "status")}
        self._times: list[np.ndarray[Any, Any]] = []
        self._values: list[np.ndarray[Any, Any]] = []

    def add(
        self,
        labels: Mapping[str, str],
        values: Sequence[float | Mark],
        samples: Sequence[float | Mark],
        interval_ms: int,
    ) -> None:
        counts = [*samples, *[samples[-1]] * (len(values) - len(samples))]
        for i, (value, count) in enumerate(zip(values, counts, strict=False)):
            if value in (MISSING, STALE) or isinstance(value, Mark) or isinstance(count, Mark):
                continue
            end_ms = START_MS + i * interval_ms
            for minute_ms in range(end_ms - interval_ms, end_ms, MINUTE_MS):
                self._times.append(np.full(int(count), minute_ms))
                self._values.append(np.full(int(count), value))
                for name in self._columns:
                    self._columns[name] += [labels.get(name, "")] * int(count)

    def table(self) -> pa.Table:
        columns: dict[str, Any] = {name: pa.array(column, pa.string()) for name, column in self._columns.items()}
        columns["timestamp_ms"] = pa.array(np.concatenate([np.empty(0, np.int64), *self._times]))
        columns["value"] = pa.array(np.concatenate([np.empty(0), *self._values]))
        return pa.table(columns)


def _baseline(reader: _Reader, given: Any) -> Baseline:
    if not isinstance(given, lined_yaml.Mapping) or "centre" not in given:
        raise RuleError(f"{reader.path}: a baseline is a mapping with 'centre', 'spread' and its dimensions")
    reader.known(given, (*BASELINE_DIMENSIONS, "centre", "spread", "samples"))
    labels = {name: str(given.get(name, "")) for name in BASELINE_DIMENSIONS}
    spread, samples = float(given.get("spread", 0)), int(given.get("samples", 100))
    return Baseline(START_MS - _DAY_MS, labels, float(given["centre"]), spread, samples)


def _change_point(reader: _Reader, given: Any) -> ChangePoint:
    if not isinstance(given, lined_yaml.Mapping) or "change_pct" not in given:
        raise RuleError(f"{reader.path}: a change point is a mapping with 'at', 'change_pct' and its dimensions")
    reader.known(given, (*SERIES_DIMENSIONS, "at", "change_pct", "points", "level_before"))
    at_ms = START_MS + reader.duration(given, "at")
    before = float(given.get("level_before", 100))
    change_pct = float(given["change_pct"])
    labels = {name: str(given.get(name, "")) for name in SERIES_DIMENSIONS}
    after = before * (1 + change_pct / 100)
    return ChangePoint(at_ms, at_ms, labels, change_pct, int(given.get("points", 12)), before, after)


class _Reader:
    """Reads the parts of a test file and says where something is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def document(self) -> lined_yaml.Mapping:
        try:
            document, problems = lined_yaml.read(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RuleError(f"{self.path}: {error.strerror or error}") from None
        if problems:
            raise RuleError("\n".join(f"{self.path}:{line}: {said}" for line, said in problems))
        if not isinstance(document, lined_yaml.Mapping):
            raise RuleError(f"{self.path}: expected a mapping with the keys 'rule_files' and 'tests'")
        self.known(document, ("rule_files", "tests"))
        return document

    def wrong(self, mapping: lined_yaml.Mapping, key: str, said: str) -> RuleError:
        return RuleError(f"{self.path}:{mapping.lines.get(key, mapping.line)}: {said}")

    def known(self, mapping: lined_yaml.Mapping, names: Sequence[str]) -> None:
        for key in mapping:
            if key not in names:
                raise self.wrong(mapping, key, f"unknown key {key!r}; {nearest(key, names)}")

    def mappings(
        self, parent: lined_yaml.Mapping, key: str, names: Sequence[str], *, optional: bool = False
    ) -> Iterable[lined_yaml.Mapping]:
        listed = parent.get(key, [] if optional else None)
        if listed is None and optional:
            return
        if not isinstance(listed, list) or not all(isinstance(one, lined_yaml.Mapping) for one in listed):
            raise self.wrong(parent, key, f"{key!r} must be a list of mappings")
        for one in listed:
            self.known(one, names)
            yield one

    def duration(self, mapping: lined_yaml.Mapping, key: str, default: str | None = None) -> int:
        raw = mapping.get(key, default)
        if raw == 0:
            return 0
        try:
            return durations.parse_ms(str(raw))
        except ValueError as error:
            raise self.wrong(mapping, key, f"{key}: {error}") from None
