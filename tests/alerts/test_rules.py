"""Rules as people write them: what is valid, and what is said of mistakes."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.alerts.judge.facts import FACTS
from pipeline.alerts.rules import load as rules
from pipeline.alerts.rules.checks import MESSAGE_FIELDS
from pipeline.alerts.rules.rule import STATISTICS, Rule
from pipeline.base import durations
from pipeline.base.errors import RuleError

GOOD = """
rules:
  - name: slow
    metric: Duration
    statistic: p99.9
    window: 5m
    every: 1m
    by: [test_suite, browser]
    where: {environment: [staging, production], page: /cart}
    above: 3000
    clears_at: 2500
    for: 1h30m
    keep_firing_for: 90s
    min_samples: 5
    when_unsure: fire
    no_data: keep
    late: reevaluate
    severity: critical
    type: duration_threshold_exceeded
    labels: {team: checkout, level: 2}
    message: "{test_suite} in {browser}: {value:.1f} > {threshold:g} {team} for {for}"
"""


def written(tmp_path: Path, text: str) -> Path:
    """A rules file."""
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return path


def test_every_field_is_read(tmp_path: Path) -> None:
    """What is written is what the rule is, durations in milliseconds, metrics in lower case."""
    (rule,) = rules.load(written(tmp_path, GOOD))
    assert rule == Rule(
        name="slow",
        threshold=3000.0,
        clears_at=2500.0,
        metrics=("duration",),
        statistic="p99.9",
        window_ms=300_000,
        every_ms=60_000,
        by=("test_suite", "browser"),
        where={"environment": ("staging", "production"), "page": ("/cart",)},
        for_ms=5_400_000,
        keep_firing_for_ms=90_000,
        min_samples=5,
        when_unsure="fire",
        no_data="keep",
        late="reevaluate",
        severity="critical",
        type="duration_threshold_exceeded",
        labels={"team": "checkout", "level": "2"},
        message="{test_suite} in {browser}: {value:.1f} > {threshold:g} {team} for {for}",
        line=3,
    )
    assert rule.quantile == pytest.approx(0.999)


def test_shipped_rules_are_valid_and_say_what_they_are_about() -> None:
    """The rules that come with the product load, and each begins with a sentence for people."""
    assert rules.check() == []
    for rule in rules.load():
        assert rule.about.endswith("."), rule.name
        assert rule.message, rule.name


def test_shipped_rules_cover_the_schema_document() -> None:
    """Every threshold that redis-schema.md names has a rule with that number."""
    shipped = {rule.name: rule for rule in rules.load()}
    named = {
        "duration_threshold_exceeded": ("avg", 3000),
        "high_failure_rate": ("failure_rate", 10),
        "redis_memory_usage": ("redis_memory_pct", 90),
        "redis_connection_count": ("redis_connections", 80),
        "redis_slow_queries": ("redis_command_avg_ms", 10),
        "redis_keyspace_misses": ("redis_keyspace_miss_pct", 50),
        "redis_replication_lag": ("redis_replication_lag_s", 5),
        "web_vital_poor": ("poor_share", 25),
        "pipeline_unaccounted": ("unaccounted", 0),
    }
    for name, (subject, threshold) in named.items():
        rule = shipped[name]
        assert (rule.fact or rule.statistic, rule.threshold, rule.direction) == (subject, threshold, "above")
    watched = {rule.fact for rule in shipped.values()}
    assert {"drain_lag_s", "dead_letters_5min", "buffer_high_water_pct"} <= watched
    assert {"change_pct", "change_point"} <= {rule.statistic for rule in shipped.values()}


MISTAKES = [
    ("above: 3000", "abve: 3000", 10, "unknown field 'abve'; did you mean 'above'?"),
    ("metric: Duration", "metric: []", 4, "metric: expected at least one metric"),
    ("statistic: p99.9", "statistic: p955", 5, "'p955' is not known; did you mean 'p95'?"),
    ("statistic: p99.9", "statistic: p0", 5, "'p0' is not known; did you mean"),
    ("window: 5m", "window: 5 minutes", 6, "'5 minutes' is not a duration; write 30s, 5m, 1h30m or 7d"),
    ("window: 5m", "window: 5", 6, "5 has no unit; write 30s, 5m, 1h30m or 7d"),
    ("window: 5m", "window: 90s", 6, "window must be a multiple of 1m, the length of the stored windows"),
    ("window: 5m", "window: 2d", 6, "window may be 1d at most"),
    (
        "by: [test_suite, browser]",
        "by: [test_suit]",
        8,
        "'test_suit' is no dimension of p99.9; did you mean 'test_suite'?",
    ),
    ("by: [test_suite, browser]", "by: [page, page]", 8, "a name is repeated"),
    ("environment: [", "enviroment: [", 9, "'enviroment' is no dimension of p99.9; did you mean 'environment'?"),
    ("above: 3000", "above: .inf", 10, "expected a number, not inf"),
    ("above: 3000", "above: yes", 10, "expected a number, not True"),
    ("clears_at: 2500", "clears_at: 3500", 11, "clears_at must be at most 3000"),
    ("min_samples: 5", "min_samples: 0", 14, "expected a whole number from 1 to 1,000,000,000, not 0"),
    ("when_unsure: fire", "when_unsure: shoot", 15, "'shoot' is not known; it is one of wait, fire"),
    ("no_data: keep", "no_data: kep", 16, "'kep' is not known; did you mean 'keep'?"),
    ("severity: critical", "severity: criticle", 18, "'criticle' is not known; did you mean 'critical'?"),
    ("team: checkout", "browser: checkout", 20, "the label 'browser' is set by the alert itself"),
    ("{value:.1f}", "{vlaue:.1f}", 21, "{vlaue} is not known; did you mean 'value'?"),
    ("{value:.1f}", "{value.__class__}", 21, "{value.__class__} is not known"),
    ("{browser}", "{browser:.1f}", 21, "{browser:.1f}: Unknown format code 'f'"),
    ("for {for}", "{", 21, "message: Single '{' encountered"),
    ("    above: 3000\n", "", 3, "say either 'above' or 'below'"),
    ("    above: 3000", "    above: 3000\n    below: 1", 11, "say either 'above' or 'below'"),
    ("    every: 1m", "    window: 1m", 7, "'window' is written twice"),
    ("metric: Duration", "fact: unacounted", 4, "'unacounted' is not known; did you mean 'unaccounted'?"),
    ("metric: Duration", "fact: unaccounted", 5, "'statistic' has no meaning for a fact"),
    ("statistic: p99.9", "statistic: failure_rate", 10, "failure_rate is a percentage"),
    ("statistic: p99.9", "statistic: change_pct", 8, "baselines are kept for [test_suite]"),
    ("statistic: p99.9", "statistic: vital_p75", 4, "'duration' is no vital"),
    ("metric: Duration", "metric: [lcp, cls]", 8, "with several metrics 'by' must name metric_type"),
    ("rules:", "rule:", 2, "unknown key 'rule'; did you mean 'rules'?"),
    ("  - name: slow", "  - name: [", 3, "not YAML"),
]


@pytest.mark.parametrize(("right", "wrong", "line", "said"), MISTAKES, ids=[m[1].strip() or m[3] for m in MISTAKES])
def test_a_mistake_is_told_with_file_line_and_nearest_name(
    tmp_path: Path, right: str, wrong: str, line: int, said: str
) -> None:
    """What is said of a mistake names the file, the line and what would be right."""
    assert right in GOOD
    path = written(tmp_path, GOOD.replace(right, wrong))
    problems = rules.check(path)
    assert any(said in problem for problem in problems), problems
    if "not YAML" not in said:
        assert any(problem.startswith(f"{path}:{line}: ") and said in problem for problem in problems), problems
    with pytest.raises(RuleError, match=re.escape(str(path))):
        rules.load(path)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Two wrong rules and a repeated name are three findings, in the order of the file."""
    text = GOOD + GOOD.removeprefix("\nrules:\n").replace("keep", "kep") + GOOD.removeprefix("\nrules:\n")
    problems = rules.check(written(tmp_path, text))
    assert [int(problem.split(":")[1]) for problem in problems] == [32, 35, 41]
    assert "stands already in line 3" in problems[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "expected a mapping"), ("rules: 5", "must be a list"), ("rules: [5]", "rule 1 is not a mapping")],
)
def test_other_shapes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """A file that is no list of rules is refused in a sentence."""
    assert said in rules.check(written(tmp_path, text))[0]


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(RuleError, match=r"nowhere\.yaml: No such file"):
        rules.load(tmp_path / "nowhere.yaml")


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever stands in a file, the answer is findings, not an exception."""
    from pipeline.alerts.rules.fields import parse

    parse(text)


NAMES = ("name", "metric", "statistic", "window", "by", "above", "clears_at", "for", "labels", "message", "where")
FIELD = st.sampled_from(NAMES)
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("5m"))
VALUE = st.one_of(SCALAR, st.lists(SCALAR, max_size=3), st.dictionaries(st.text(max_size=5), SCALAR, max_size=2))


@given(st.dictionaries(FIELD, VALUE))
def test_no_value_breaks_the_reader(fields: dict[str, object]) -> None:
    """Whatever values fields have, the answer is a rule or findings."""
    from pipeline.alerts.rules.fields import parse

    found, problems = parse(yaml.safe_dump({"rules": [fields]}))
    assert bool(found) != bool(problems)


@given(st.integers(0, 10**10))
def test_durations_are_shown_as_they_are_read(milliseconds: int) -> None:
    """Every duration can be written and read again."""
    assert durations.parse_ms(durations.show(milliseconds)) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "m", "5m5m", "30s5m", "1.5h", "-5m", "5 m"])
def test_what_is_no_duration(text: str) -> None:
    """Units go from large to small, once each, with whole numbers."""
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse_ms(text)


@pytest.mark.parametrize("raw", [5, 0.0, True, None, ["5m"]])
def test_a_number_in_a_file_is_a_duration_only_if_it_is_zero(raw: object) -> None:
    """``for: 5`` may mean seconds or minutes; 0 is 0 in every unit."""
    if raw == 0:
        assert durations.read_ms(raw) == 0
    else:
        with pytest.raises(ValueError, match="has no unit"):
            durations.read_ms(raw)
    assert durations.read_ms("5m") == 300_000


def test_the_shipped_file_explains_every_statistic() -> None:
    """A reader of the shipped file knows what may be asked for."""
    text = rules.shipped_path().read_text()
    for name in STATISTICS:
        assert re.search(rf"\b{name}\b", text), name
    for fact in re.findall(r"fact: (\w+)", text):
        assert fact in FACTS
    assert "baseline" in MESSAGE_FIELDS
