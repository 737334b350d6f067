"""Unit tests of rules: promtool's notation and examples, then what our rules add."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from pipeline.alerts.rule_tests.run import run_tests
from pipeline.alerts.rule_tests.series_notation import Gap, series, values
from pipeline.base import resources
from pipeline.base.errors import RuleError

GOLDEN = Path(__file__).parent / "golden"
NOTATION = yaml.safe_load((GOLDEN / "promtool.yaml").read_text())


@pytest.mark.parametrize("text", NOTATION["expansions"])
def test_series_expand_as_in_promtool(text: str) -> None:
    """promtool's documented expansions."""
    found = [value.value if isinstance(value, Gap) else value for value in values(text)]
    assert found == NOTATION["expansions"][text]


@pytest.mark.parametrize("text", NOTATION["refused"])
def test_other_notation_is_refused(text: str) -> None:
    """What cannot be read is named."""
    with pytest.raises(ValueError, match="is not a value"):
        values(text)


def test_series_are_named_as_in_promtool() -> None:
    """A name, labels in braces, escapes, or either of them alone."""
    assert series('up{job="a, b", instance="x:0",}') == ("up", {"job": "a, b", "instance": "x:0"})
    assert series('{page="say \\"hi\\""}') == ("", {"page": 'say "hi"'})
    assert series("unaccounted") == ("unaccounted", {})
    for wrong in ("", "up{job=a}", "up{job", 'up{job="a" x="b"}'):
        with pytest.raises(ValueError):
            series(wrong)


def test_promtools_examples_pass() -> None:
    """The alerts that promtool's examples expect are those that our rules give."""
    report = run_tests(GOLDEN / "promtool_test.yaml")
    assert [(case.name, case.failures) for case in report.cases if case.failures] == []
    assert len(report.cases) == 8


RULES = """
rules:
  - {name: slow, metric: duration, statistic: p95, window: 5m, by: [test_suite], above: 3000, clears_at: 2500,
     for: 1m, keep_firing_for: 2m, min_samples: 50, message: "{test_suite}: {samples} runs"}
  - {name: failing, metric: duration, statistic: failure_rate, by: [test_suite], above: 10, for: 0}
  - {name: poor, metric: lcp, statistic: poor_share, by: [page], above: 25, for: 0}
  - {name: regressed, metric: duration, statistic: change_pct, by: [test_suite], above: 50}
  - {name: moved, metric: duration, statistic: change_point, window: 1h, by: [test_suite], above: 20}
  - {name: full, fact: redis_memory_pct, above: 90, clears_at: 80, every: 10s, for: 30s, labels: {team: infra}}
  - {name: gone, metric: duration, statistic: avg, by: [test_suite], above: 9999, no_data: alert, for: 2m}
"""

TESTS = """
rule_files: [rules.yaml]
tests:
  - name: durations
    input_series:
      - {series: 'duration{test_suite="a", browser="x"}', values: "1000x9 4000x5 1000x12", samples: "30"}
      - {series: 'duration{test_suite="a", browser="y"}', values: "1000x9 4000x5 1000x12", samples: "30"}
      - {series: 'duration{test_suite="few"}', values: "4000x30", samples: "9"}
    alert_rule_test:
      - {eval_time: 10m, alertname: slow, exp_alerts: []}
      - eval_time: 11m
        alertname: slow
        exp_alerts: [{exp_labels: {test_suite: a, severity: warning}, exp_annotations: {message: "a: 300 runs"}}]
      - {eval_time: 21m, alertname: slow, exp_alerts: [{exp_labels: {test_suite: a, severity: warning}}]}
      - {eval_time: 22m, alertname: slow, exp_alerts: []}
      - {eval_time: 9m, alertname: gone}
      - {eval_time: 30m, alertname: gone}
      - eval_time: 31m
        alertname: gone
        exp_alerts: [{exp_labels: {test_suite: a, severity: warning}}]
  - name: failures
    input_series:
      - {series: 'duration{test_suite="a", status="passed"}', values: "1x5", samples: "90 80x4"}
      - {series: 'duration{test_suite="a", status="failed"}', values: "1x5", samples: "2 20x4"}
      - {series: 'duration{test_suite="a", status="skipped"}', values: "1x5", samples: "500"}
    alert_rule_test:
      - {eval_time: 0, alertname: failing}
      - {eval_time: 1m, alertname: failing, exp_alerts: [{exp_labels: {test_suite: a, severity: warning}}]}
  - name: vitals
    interval: 5m
    input_series:
      - {series: 'lcp{page="/"}', values: "1000x3", samples: "50"}
      - {series: 'LCP{page="/", browser="edge"}', values: "9000x3", samples: "10 50"}
    alert_rule_test:
      - {eval_time: 0, alertname: poor}
      - {eval_time: 5m, alertname: poor, exp_alerts: [{exp_labels: {page: /, severity: warning}}]}
  - name: baselines and changes
    input_series:
      - {series: 'duration{test_suite="a"}', values: "100x5 160x5"}
    baselines:
      - {test_suite: a, centre: 100, spread: 10}
    change_points:
      - {at: 6m, change_pct: 60, metric_type: duration, test_suite: a}
    alert_rule_test:
      - {eval_time: 5m, alertname: regressed}
      - {eval_time: 6m, alertname: regressed, exp_alerts: [{exp_labels: {test_suite: a, severity: warning}}]}
      - {eval_time: 5m, alertname: moved}
      - {eval_time: 6m, alertname: moved, exp_alerts: [{exp_labels: {test_suite: a, severity: warning}}]}
  - name: facts
    interval: 1m
    input_series:
      - {series: redis_memory_pct, values: "50 95 95 85 79"}
    alert_rule_test:
      - {eval_time: 1m20s, alertname: full}
      - {eval_time: 1m30s, alertname: full, exp_alerts: [{exp_labels: {team: infra, severity: warning}}]}
      - {eval_time: 3m50s, alertname: full, exp_alerts: [{exp_labels: {team: infra, severity: warning}}]}
      - {eval_time: 4m, alertname: full}
  - name: a stale series is gone at once
    input_series:
      - {series: 'duration{test_suite="a"}', values: "4000x5 stale"}
    alert_rule_test:
      - {eval_time: 7m, alertname: slow, exp_alerts: [{exp_labels: {test_suite: a, severity: warning}}]}
      - {eval_time: 8m, alertname: slow}
"""


def files(tmp_path: Path, tests: str, rules: str = RULES) -> Path:
    """A rules file and a file of tests beside it."""
    (tmp_path / "rules.yaml").write_text(rules)
    (tmp_path / "tests.yaml").write_text(tests)
    return tmp_path / "tests.yaml"


def test_shipped_rules_on_the_platforms_keys_fire() -> None:
    """Queue age, stuck tests and locks, cost, health: each fires on bad data and not on good data."""
    report = run_tests(GOLDEN / "platform_rules.yaml")
    assert [(case.name, case.failures) for case in report.cases if case.failures] == []
    assert len(report.cases) == 12


def test_every_kind_of_rule_can_be_tested(tmp_path: Path) -> None:
    """Percentiles, rates, vitals, baselines, changes, facts, missing data: expectations that hold pass."""
    report = run_tests(files(tmp_path, TESTS))
    assert [(case.test, case.name, case.failures) for case in report.cases if case.failures] == []
    assert len(report.cases) == 21


def test_what_does_not_hold_is_told(tmp_path: Path) -> None:
    """A missing, an unexpected and a differently worded alert are failures, in the report and in JUnit XML."""
    wrong = TESTS.replace('message: "a: 300 runs"', 'message: "other"')
    wrong = wrong.replace("eval_time: 10m, alertname: slow", "eval_time: 12m, alertname: slow")
    unexpected = "eval_time: 22m, alertname: slow, exp_alerts: ["
    wrong = wrong.replace(unexpected, unexpected + "{exp_labels: {x: y}}")
    report = run_tests(files(tmp_path, wrong))
    assert report.failed == 3
    assert [failure for case in report.cases for failure in case.failures] == [
        'firing, but not expected: {severity="warning", test_suite="a"}',
        "{severity=\"warning\", test_suite=\"a\"} says 'a: 300 runs', expected 'other'",
        'expected, but not firing: {x="y"}',
    ]
    suite = ElementTree.fromstring(report.junit_xml())
    assert (suite.get("tests"), suite.get("failures")) == ("21", "3")
    first = suite.findall("testcase")[0]
    assert (first.get("classname"), first.get("name")) == ("durations", "slow at 12m")
    assert first.find("failure") is not None


CYCLES_AND_DRIFTS = """
rule_files: [rules.yaml]
tests:
  - name: Saturdays are a fifth faster, and are compared with Saturdays
    input_series:
      - {series: 'duration{test_suite="a"}', values: "80x5 130x10"}
    baselines:
      - {test_suite: a, centre: 100, spread: 10, usual: {Sat-Sun: 0.8, "22:00-23:30": 0.7}}
    alert_rule_test:
      - {eval_time: 5m, alertname: regressed}
      - eval_time: 14m
        alertname: regressed
        exp_alerts:
          - exp_labels: {test_suite: a, severity: warning}
            exp_annotations: {message: "62 % above 80"}
  - name: it becomes slower bit by bit
    drifts:
      - {at: 10m, pct_per_week: 3, low: 2.5, high: 3.5, metric_type: duration, test_suite: a, level_before: 200}
    alert_rule_test:
      - {eval_time: 9m, alertname: drifting}
      - {eval_time: 10m, alertname: moved}
      - eval_time: 10m
        alertname: drifting
        exp_alerts:
          - exp_labels: {test_suite: a, severity: warning}
            exp_annotations: {message: "3 % a week from 200"}
"""


def test_a_test_may_give_cycles_and_drifts(tmp_path: Path) -> None:
    """A baseline's usual times of the week are compared like with like, and a drift is seen by its own statistic.

    Time 0 is a Saturday, so that 80 is what is usual; 130 is 62 % above it, and 30 % above the centre.
    """
    path = files(tmp_path, CYCLES_AND_DRIFTS)
    (tmp_path / "rules.yaml").write_text(
        RULES.replace("above: 50}", 'above: 50, message: "{value:.0f} % above {baseline:.0f}", window: 1m, for: 0}')
        + """
  - {name: drifting, metric: duration, statistic: drift, window: 1h, by: [test_suite], above: 2,
     message: "{value:.0f} % a week from {baseline:.0f}"}
"""
    )
    report = run_tests(path)
    assert [(case.name, case.failures) for case in report.cases if case.failures] == []
    assert len(report.cases) == 5


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("Sat-Sun: 0.8", "Someday: 0.8", "'Someday' is no time of the week"),
        ("Sat-Sun: 0.8", "Sat-Sun: 0", "Sat-Sun: a factor must be above 0"),
        ("Sat-Sun: 0.8", "Sat-Sun: fast", "expected a number"),
        ("{Sat-Sun: 0.8", "[1], no: {Sat-Sun: 0.8", "unknown key 'no'"),
        ('usual: {Sat-Sun: 0.8, "22:00-23:30": 0.7}', "usual: 0.8", "usual must be a mapping of times to factors"),
        ("low: 2.5", "low: 4", "pct_per_week is 3, outside of low 4 and high 3.5"),
    ],
)
def test_mistakes_in_cycles_and_drifts_are_told(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    """A sentence with file and line, as for all else."""
    assert right in CYCLES_AND_DRIFTS
    path = files(tmp_path, CYCLES_AND_DRIFTS.replace(right, wrong, 1))
    with pytest.raises(RuleError, match=rf"{tmp_path}.*:\d+: ") as error:
        run_tests(path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("alertname: slow", "alertname: slwo", "no rule is named 'slwo'; did you mean 'slow'?"),
        ("eval_time: 10m", "eval_time: ten", "'ten' is not a duration"),
        ('values: "1000x9', 'values: "1000y9', "'1000y9' is not a value"),
        ('browser="x"', 'brwoser="x"', "'brwoser' is not a dimension of a series; did you mean 'browser'?"),
        ("input_series:", "input_serie:", "unknown key 'input_serie'; did you mean 'input_series'?"),
        ("interval: 5m", "interval: 30s", "interval must be a multiple of 1m"),
        ("[rules.yaml]", "[rule.yaml]", "rule.yaml: No such file"),
        ("tests:\n  - name: durations", "tests:\n  name: durations", "not YAML"),
    ],
)
def test_mistakes_in_a_test_file_are_told_with_their_line(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    """A file that cannot be read is a sentence with file and line, not a failed expectation."""
    path = files(tmp_path, TESTS.replace(right, wrong, 1))
    with pytest.raises(RuleError, match=rf"{tmp_path}") as error:
        run_tests(path)
    assert said in str(error.value)


def test_without_rule_files_the_shipped_rules_are_tested(tmp_path: Path) -> None:
    """A file may test the rules that come with the product: a real regression fires within its minute."""
    report = run_tests(
        files(
            tmp_path,
            """
tests:
  - input_series:
      - series: 'duration{test_suite="auth", test_id="auth-001", test_name="login-flow", status="passed"}'
        values: "2340x5 4500x10"
        samples: 30
    alert_rule_test:
      - {eval_time: 6m, alertname: duration_threshold_exceeded}
      - eval_time: 7m
        alertname: duration_threshold_exceeded
        exp_alerts:
          - exp_labels: {test_suite: auth, test_id: auth-001, test_name: login-flow, severity: warning}
            exp_annotations: {message: "login-flow (auth) takes 4500 ms on average, more than 3000 ms (60 runs)"}
""",
        )
    )
    assert [case.failures for case in report.cases] == [[], []]


def test_the_documented_example_passes(tmp_path: Path) -> None:
    """The example in the documentation runs as it stands, beside the shipped rules."""
    documented = (resources.path("config") / "README.md").read_text()
    (example,) = (block for block in re.findall(r"```yaml\n(.*?)```", documented, re.DOTALL) if "rule_files" in block)
    report = run_tests(files(tmp_path, example, resources.path("config/rules.yaml").read_text()))
    assert [case.failures for case in report.cases] == [[]]
