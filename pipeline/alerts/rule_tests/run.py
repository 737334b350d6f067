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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pipeline.alerts.judge.evaluation import Alerts, judge_tick
from pipeline.alerts.judge.memory_source import MemorySource
from pipeline.alerts.judge.sources import SourceBatch
from pipeline.alerts.judge.state import State
from pipeline.alerts.rule_tests.input import START_MS, Reader, readings_at, source_of
from pipeline.alerts.rules import lined_yaml
from pipeline.alerts.rules import load as rules
from pipeline.alerts.rules.rule import Rule
from pipeline.base import durations
from pipeline.base.nearest import nearest

_TEST_KEYS = ("name", "interval", "input_series", "baselines", "change_points", "drifts", "alert_rule_test")
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
    reader = Reader(place)
    document = reader.document()
    report = TestReport(str(place))
    tested = _rules(reader, document)
    for number, test in enumerate(reader.mappings(document, "tests", _TEST_KEYS), start=1):
        _run_test(reader, test, tested, str(test.get("name", f"test {number}")), report)
    return report


def _rules(reader: Reader, document: lined_yaml.Mapping) -> list[Rule]:
    files = document.get("rule_files", [])
    if not isinstance(files, list):
        raise reader.wrong(document, "rule_files", "rule_files must be a list of files")
    if not files:
        return rules.load()
    if not all(isinstance(name, str) for name in files):
        raise reader.wrong(document, "rule_files", "rule_files must be a list of files")
    return [rule for name in files for rule in rules.load(reader.path.parent / name)]


def _run_test(reader: Reader, test: lined_yaml.Mapping, tested: Sequence[Rule], name: str, report: TestReport) -> None:
    source, facts = source_of(reader, test)
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
        wanted_alerts = [(reader.texts(one, "exp_labels"), reader.texts(one, "exp_annotations")) for one in expected]
        result.failures += _differences(wanted_alerts, firing_at[str(case["alertname"])].at(at_ms))
        report.cases.append(result)


class _Timeline:
    """What fires when, tick by tick until ``until_ms``."""

    def __init__(self, rule: Rule, source: MemorySource, facts: Mapping[str, Any], until_ms: int) -> None:
        self._every_ms = rule.every_ms
        self._firing: list[list[_Firing]] = []
        alerts: Alerts = {}
        messages: dict[tuple[str, ...], str] = {}
        ticks = range(START_MS, START_MS + until_ms + 1, rule.every_ms)
        whole = SourceBatch(source, [rule], ticks[0], ticks[-1], {}).view_at(rule)
        for tick_ms in ticks:
            view = whole(tick_ms)
            if rule.fact or source.has_ended:  # the answer depends on when it is read
                now = {name: readings for name, at in facts.items() if (readings := readings_at(at, tick_ms))}
                view = SourceBatch(source, [rule], tick_ms, tick_ms, now).view_at(rule)(tick_ms)
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


def _differences(
    expected: Sequence[tuple[Mapping[str, str], Mapping[str, str]]], firing: Sequence[_Firing]
) -> list[str]:
    """How what fires differs from the (labels, annotations) that should."""
    found = {tuple(sorted(one.labels.items())): one for one in firing}
    failures = []
    for labels, texts in expected:
        one = found.pop(tuple(sorted(labels.items())), None)
        if one is None:
            failures.append(f"expected, but not firing: {_braces(labels)}")
            continue
        message = texts.get("message")
        if message is not None and message != one.message:
            failures.append(f"{_braces(labels)} says {one.message!r}, expected {message!r}")
    return failures + [f"firing, but not expected: {_braces(one.labels)}" for one in found.values()]


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"
