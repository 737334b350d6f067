"""Junk for a rule file, or for a file of rule tests: a sentence with file and line, never an exception."""

import random
from pathlib import Path

import pytest

from pipeline.alerts.rule_tests.run import run_tests
from pipeline.alerts.rules.load import check
from pipeline.base.errors import RuleError

RULES = """
rules:
  - name: slow
    about: A test is slow.
    metric: [duration, lcp]
    statistic: p95
    window: 10m
    every: 1m
    by: [metric_type, test_suite]
    where: {environment: staging}
    above: 3000.5
    clears_at: 2700
    for: 1h30m
    keep_firing_for: 2m
    min_samples: 5
    when_unsure: wait
    no_data: alert
    remember: 6h
    late: ignore
    severity: critical
    labels: {team: shop}
    message: "{metric} {value:.0f} of {test_suite}"
  - {name: full, fact: redis_memory_pct, above: 90, every: 10s, type: memory, unit: "%"}
"""
TESTS = """
rule_files: [rules.yaml]
tests:
  - name: a
    interval: 1m
    input_series:
      - {series: 'duration{test_suite="a", status="passed"}', values: "900x5 4500+1x5 _x2 stale NaN", samples: "50"}
    baselines: [{centre: 100, spread: 2, test_suite: a, usual: {Sat-Sun: 0.8}}]
    change_points: [{at: 1m, change_pct: 20, metric_type: duration}]
    drifts: [{at: 1m, pct_per_week: 3, low: 2, high: 4}]
    alert_rule_test:
      - {eval_time: 7m, alertname: full, exp_alerts: [{exp_labels: {a: b}, exp_annotations: {message: m}}]}
"""
JUNK = [
    *("[", "{", "}", "&a [*a]", "*a", "<<: 5", "? [a]: b", "!!int x", "!!float y", "!!python/object:os.system {}"),
    *("!!timestamp 2025-13-45", "2025-02-31", "2025-01-01", "0x", "0b2", "1e400", "1.0e+400", ".nan", ".inf", "-.inf"),
    *("1" * 400, "9" * 5000, "1_000", "0o7", "12:30:45", "~", "null", "yes", "''", '" "', '"\\x00"', '"\\ud800"'),
    *('"\\u202e"', "\x00", "\x1b[2J", "\ufeff", "\ud800", "é", "٣", "-5m", "99999999999999d", "5", "0", "1.5m"),
    *("'{value:{x}}'", "'{value:9999999999f}'", "'{value!r:>999}'", "'{value.__class__}'", "'{0}'", "'{'", "'}'"),
    *("[" * 3000, "{a: " * 2000, "a: b: c", "\t", "- - - -", "|", ">", "%YAML 9.9", "---", "...", "# x", "p0", "p100"),
    *("p٣", "duration", "[[a]]", "[a, a]", "{a: {b: c}}", "{a: [b]}", "{1: 2}", "1x99999999", "Inf"),
    *("1+-1x2", "1000000x9"),
]  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    """The document with some values, lines or characters replaced by junk."""
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(4)
        lines = text.split("\n")
        number = chance.randrange(len(lines))
        junk = chance.choice(JUNK)
        if kind == 0 and ":" in lines[number]:
            lines[number] = lines[number].partition(":")[0] + ": " + junk
        elif kind == 1:
            lines.insert(number, " " * chance.randrange(8) + junk)
        elif kind == 2:
            place = chance.randrange(len(lines[number]) + 1)
            lines[number] = lines[number][:place] + junk + lines[number][place + chance.randrange(5) :]
        else:
            lines[number] = ""
        text = "\n".join(lines)
    return text


def check_fuzzed(tmp_path: Path, seeds: range) -> None:
    """Read mutated files; what is wrong must come as sentences that name the file."""
    rules, tests = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    valid = 0
    for seed in seeds:
        chance = random.Random(seed)
        rules.write_bytes(mutated(RULES, chance).encode("utf-8", "surrogatepass"))
        mistakes = check(rules)
        valid += not mistakes
        assert all(mistake.startswith(f"{rules}:") for mistake in mistakes)
        assert all(len(mistake) < 2000 and mistake.isprintable() for mistake in mistakes), mistakes
        rules.write_text(RULES)
        tests.write_bytes(mutated(TESTS, chance).encode("utf-8", "surrogatepass"))
        try:
            run_tests(tests)
        except RuleError as error:
            assert str(error).startswith((f"{tests}:", str(tmp_path))), error
    assert valid < len(seeds)


def test_junk_is_refused_in_sentences(tmp_path: Path) -> None:
    """Values, lines and characters of a rule file replaced by junk never give a traceback."""
    check_fuzzed(tmp_path, range(80))


@pytest.mark.long
def test_much_junk_is_refused_in_sentences(tmp_path: Path) -> None:
    """The same, twenty thousand times."""
    check_fuzzed(tmp_path, range(1000, 21_000))


@pytest.mark.parametrize("junk", JUNK)
def test_each_junk_alone(tmp_path: Path, junk: str) -> None:
    """Each piece of junk as the whole file, as the list of rules, as a rule, and as each field of a rule."""
    path = tmp_path / "rules.yaml"
    documents = [junk, f"rules: {junk}", f"rules: [{junk}]"]
    for field in ("name", "metric", "statistic", "window", "by", "where", "above", "min_samples", "labels", "message"):
        lines = [line for line in RULES.split("\n") if not line.strip(" -").startswith(f"{field}:")]
        documents.append("\n".join([lines[0], lines[1], f"  - {field}: {junk}", *lines[2:]]))
    for document in documents:
        path.write_bytes(document.encode("utf-8", "surrogatepass"))
        for mistake in check(path):
            assert mistake.startswith(f"{path}:")
            assert mistake.isprintable()


@pytest.mark.parametrize("path", ["", "nowhere.yaml", "\x00", "/proc/self/mem"])
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    """A directory, a missing file, a name with NUL, a file that gives an error: one sentence."""
    (mistake,) = check(f"{tmp_path}/{path}") if not path.startswith("/") else check(path)
    assert mistake.isprintable()


def test_a_bomb_of_aliases_is_not_unfolded(tmp_path: Path) -> None:
    """A small file whose aliases stand for billions of values is refused as quickly as any other."""
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
    )
    path = tmp_path / "rules.yaml"
    path.write_text(bomb + "rules:\n  - {name: n, metric: *y, statistic: avg, above: *y, by: *x, labels: {a: *z}}\n")
    assert len("".join(check(path))) < 20_000


def test_brackets_without_end_are_refused_where_they_stand(tmp_path: Path) -> None:
    """A hundred open brackets are read, and the next one is refused with its line, before reading takes long."""
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - name: " + "[" * 101)
    assert check(path) == [f"{path}:2: not YAML: nested too deeply"]
    path.write_text("rules:\n  - name: " + "[" * 100 + "]" * 100)
    assert not any("nested too deeply" in mistake for mistake in check(path))
