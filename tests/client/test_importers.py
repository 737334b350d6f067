import io
import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import UsageError
from pipeline.client import importers

NOW_MS = 1_750_000_000_000


def read(format: str, content: str | bytes, **options: Any) -> list[Any]:
    stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
    stream.name = "report"  # type: ignore[misc]
    return list(importers.read(format, stream, now_ms=NOW_MS, **options))


# NDJSON


def test_ndjson_lines_are_passed_on_to_the_byte() -> None:
    """Valid or not, with their spaces; only line ends and blank lines go."""
    content = b'{"a":1}\r\n\n  \t\n not json \n\xff\xfe\n{"b" : 2 }'
    assert read("ndjson", content) == [b'{"a":1}', b" not json ", b"\xff\xfe", b'{"b" : 2 }']


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and line.strip() and line[-1:] != b"\r")))
def test_ndjson_gives_back_whatever_was_joined_by_newlines(lines: list[bytes]) -> None:
    """Joining lines and reading them is the identity."""
    assert read("ndjson", b"\n".join(lines)) == lines


def test_ndjson_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first item is there before the second line was written; an endless line is refused by its number."""
    monkeypatch.setattr(importers, "MAX_LINE_BYTES", 10)
    items = importers.read("ndjson", io.BytesIO(b"{}\n" + b"x" * 11), now_ms=0)
    assert next(items) == b"{}"
    with pytest.raises(UsageError, match="line 2 is longer"):
        next(items)


def test_ndjson_takes_no_defaults() -> None:
    """What is passed on to the byte cannot have fields added."""
    with pytest.raises(UsageError, match="environment cannot be added"):
        read("ndjson", "{}", defaults={"environment": "staging"})


# JUnit


JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites>
 <testsuite name="auth" timestamp="2025-01-11T13:00:00.123+01:00" hostname="ci-7">
  <properties><property name="browser" value="firefox"/><property name="build" value="17"/></properties>
  <testcase classname="auth.login" name="ok" time="1.25"/>
  <testcase classname="auth.login" name="fails" time="0.5"><failure message="no"/><system-out>x</system-out></testcase>
  <testcase classname="auth.login" name="errors" time="0.5"><error/></testcase>
  <testcase classname="auth.login" name="skips" time="0"><skipped/></testcase>
  <testsuite name="inner">
   <properties><property name="build" value="18"/></properties>
   <testcase name="ä &amp; ö" time="1,234.5"><properties><property name="team" value="web"/></properties></testcase>
  </testsuite>
  <testcase classname="auth.login" name="after" time="2" timestamp="2025-01-11T12:30:00"/>
 </testsuite>
 <testsuite name="plain"><testcase name="bare"/>
  <testcase name="flaky" time="3"><flakyFailure/><flakyError/></testcase>
  <testcase name="rerun" time="3"><failure/><rerunFailure/></testcase>
  <testcase name="never" status="notrun" time="0"/>
 </testsuite>
</testsuites>
"""


def test_junit_executions() -> None:
    """Suite, name, seconds to milliseconds, status, time of the suite, properties as tags, browser as browser."""
    metrics = {metric["test_name"]: metric for metric in read("junit", JUNIT)}
    assert metrics["ok"] == {
        "timestamp": 1_736_596_800_123,
        "metric_type": "duration",
        "value": 1250.0,
        "test_id": "auth.login::ok",
        "test_name": "ok",
        "test_suite": "auth",
        "status": "passed",
        "browser": "firefox",
        "tags": {"build": "17"},
    }
    statuses = {name: metric["status"] for name, metric in metrics.items()}
    assert statuses == {
        "ok": "passed",
        "fails": "failed",
        "errors": "failed",
        "skips": "skipped",
        "ä & ö": "passed",
        "after": "passed",
        "bare": "passed",
        "flaky": "passed",
        "rerun": "failed",
        "never": "skipped",
    }
    inner = metrics["ä & ö"]
    assert (inner["test_suite"], inner["test_id"], inner["value"]) == ("inner", "ä & ö", 1_234_500.0)
    assert (inner["timestamp"], inner["tags"]) == (1_736_596_800_123, {"build": "18", "team": "web"})
    assert metrics["after"]["timestamp"] == 1_736_598_600_000
    assert metrics["after"]["tags"] == {"build": "17"}
    assert (metrics["bare"]["timestamp"], metrics["bare"]["value"], "browser" in metrics["bare"]) == (NOW_MS, 0, False)
    assert metrics["flaky"]["tags"] == {"retries": "2", "flaky": "true"}
    assert metrics["rerun"]["tags"] == {"retries": "1"}


def test_a_report_s_own_fields_win_over_defaults() -> None:
    """Defaults fill gaps only."""
    metrics = {m["test_name"]: m for m in read("junit", JUNIT, defaults={"browser": "msedge", "environment": "ci"})}
    assert metrics["ok"]["browser"] == "firefox"
    assert metrics["bare"]["browser"] == "msedge"
    assert {m["environment"] for m in metrics.values()} == {"ci"}


def test_junit_agrees_with_the_report_pytest_writes(tmp_path: Path) -> None:
    """A real run of real tests: count, failures, skips and total time as in the report's own totals."""
    (tmp_path / "test_sample.py").write_text(
        "import pytest, time\n"
        "@pytest.mark.parametrize('i', range(5))\ndef test_ok(i): time.sleep(0.001)\n"
        "def test_fails(): assert 0\n"
        "@pytest.fixture\ndef broken(): 1 / 0\n"
        "def test_errors(broken): pass\n"
        "@pytest.mark.skip\ndef test_skipped(): pass\n"
        "@pytest.mark.xfail\ndef test_xfail(): assert 0\n"
        "class TestInside:\n    def test_method(self): pass\n"
    )
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    subprocess.run(run, cwd=tmp_path, stdout=subprocess.DEVNULL, check=False)
    content = (tmp_path / "report.xml").read_bytes()
    totals = ET.fromstring(content).find("testsuite")
    assert totals is not None
    metrics = read("junit", content)
    assert len(metrics) == int(totals.attrib["tests"]) == 10
    failed = [m["test_id"] for m in metrics if m["status"] == "failed"]
    assert failed == ["test_sample::test_fails", "test_sample::test_errors"]
    assert len(failed) == int(totals.attrib["failures"]) + int(totals.attrib["errors"])
    assert sum(m["status"] == "skipped" for m in metrics) == int(totals.attrib["skipped"])
    times = [float(case.attrib["time"]) * 1000 for case in totals.iter("testcase")]
    assert [m["value"] for m in metrics] == pytest.approx(times)
    assert "test_sample.TestInside::test_method" in {m["test_id"] for m in metrics}


BOMB = """<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<testsuite name="&c;"/>"""


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (BOMB, "line 1: a DTD is refused"),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'>\n<testsuite/>", "a DTD is refused"),
        ("<testsuites>\n<testsuite>\n</testsuites>", "line 3, column 2: mismatched tag"),
        ("<html/>", "line 1: <html> is not the root"),
        ("", "line 1, column 0: no element found"),
        ("<testsuite>\n<testcase time='fast'/></testsuite>", "line 2: time='fast' is no number"),
        ("<testsuite><testcase time='inf'/></testsuite>", "time='inf'"),
        ("<testsuite>\n\n<testsuite timestamp='yesterday'/></testsuite>", "line 3: timestamp='yesterday'"),
        ("<testsuite>&undefined;</testsuite>", "undefined entity"),
        ("<?xml version='1.0' encoding='klingon'?><testsuite/>", "unknown encoding"),
    ],
)
def test_a_broken_junit_report_is_refused_with_its_place(content: str, place: str) -> None:
    """Nothing is read from it, and the sentence names file and line."""
    with pytest.raises(UsageError) as caught:
        read("junit", content)
    assert str(caught.value).startswith("report: ")
    assert place in str(caught.value)


# Playwright


def playwright_test(project: str, outcome: str, *attempts: tuple[str, int]) -> dict[str, Any]:
    results = [
        {"status": status, "duration": duration, "retry": i, "startTime": f"2025-01-11T12:0{i}:00.000Z", "errors": []}
        for i, (status, duration) in enumerate(attempts)
    ]
    return {"projectName": project, "expectedStatus": "passed", "status": outcome, "results": results}


PLAYWRIGHT = {
    "config": {"projects": [{"name": "chromium"}, {"name": "webkit"}]},
    "suites": [
        {
            "title": "checkout.spec.ts",
            "file": "checkout.spec.ts",
            "specs": [
                {
                    "title": "pays",
                    "tests": [
                        playwright_test("chromium", "expected", ("passed", 1500)),
                        playwright_test("webkit", "flaky", ("failed", 900), ("timedOut", 30_000), ("passed", 1100)),
                    ],
                }
            ],
            "suites": [
                {
                    "title": "guest",
                    "file": "checkout.spec.ts",
                    "suites": [{"title": "empty cart", "specs": [{"title": "warns", "tests": []}]}],
                    "specs": [
                        {
                            "title": "fails",
                            "tests": [playwright_test("chromium", "unexpected", ("failed", 10), ("failed", 20))],
                        },
                        {"title": "waits", "tests": [playwright_test("", "skipped")]},
                    ],
                }
            ],
        }
    ],
    "errors": [],
}


def test_playwright_executions() -> None:
    """One per test and project: file, titles, project, sum of the attempts, end of the last, flaky as passed."""
    metrics = read("playwright", json.dumps(PLAYWRIGHT))
    assert metrics[1] == {
        "timestamp": 1_736_596_921_100,
        "metric_type": "duration",
        "value": 32_000.0,
        "test_id": "checkout.spec.ts::pays",
        "test_name": "pays",
        "test_suite": "checkout.spec.ts",
        "browser": "webkit",
        "status": "passed",
        "tags": {"retries": "2", "flaky": "true"},
    }
    shown = [(m["test_name"], m.get("browser"), m["status"], m["value"], m["tags"].get("retries")) for m in metrics]
    assert shown == [
        ("pays", "chromium", "passed", 1500, None),
        ("pays", "webkit", "passed", 32_000, "2"),
        ("guest › fails", "chromium", "failed", 30, "1"),
        ("guest › waits", None, "skipped", 0, None),
    ]
    assert metrics[3]["timestamp"] == NOW_MS


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (["suites"], None, "it has no 'suites'"),
        (["suites"], 3, "suites must be a list, not 3"),
        (["suites", 0, "specs", 0, "tests", 1, "status"], "odd", "suites[0].specs[0].tests[1].status must be one of"),
        (
            ["suites", 0, "suites", 0, "specs", 0, "tests", 0, "results", 1, "duration"],
            "20",
            'suites[0].suites[0].specs[0].tests[0].results[1].duration must be a finite number, not "20"',
        ),
        (["suites", 0, "specs", 0, "tests", 0, "results", 0, "duration"], 10**400, "results[0].duration must be"),
        (
            ["suites", 0, "specs", 0, "tests", 0, "results", 0, "startTime"],
            "noon",
            "startTime must be an ISO-8601 time",
        ),
        (["suites", 0, "specs", 0], [], "suites[0].specs[0] must be an object, not []"),
    ],
)
def test_a_broken_playwright_report_is_refused_with_its_place(path: list[Any], value: Any, place: str) -> None:
    """The sentence names the path inside the report."""
    report = json.loads(json.dumps(PLAYWRIGHT))
    node = report
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    with pytest.raises(UsageError) as caught:
        read("playwright", json.dumps(report))
    assert place in str(caught.value)


# Lighthouse


def lighthouse_result(**changes: Any) -> dict[str, Any]:
    return {
        "lighthouseVersion": "12.8.0",
        "requestedUrl": "http://shop.test/",
        "finalDisplayedUrl": "https://shop.test/checkout?step=1#pay",
        "fetchTime": "2025-01-11T12:00:00.123Z",
        "configSettings": {"formFactor": "mobile"},
        "audits": {
            "largest-contentful-paint": {"numericValue": 10884.681, "numericUnit": "millisecond"},
            "cumulative-layout-shift": {"numericValue": 0.102},
            "first-contentful-paint": {"numericValue": 6795.362},
            "server-response-time": {"score": 1, "details": {"items": [{"url": "u", "responseTime": 52.4}]}},
            "total-blocking-time": {"numericValue": 1221},
            "speed-index": {"score": None, "scoreDisplayMode": "error", "errorMessage": "no frames"},
            "is-on-https": {"score": 0},
        },
        "categories": {"performance": {"score": 0.62}},
    } | changes


def test_lighthouse_vitals() -> None:
    """Each vital that was measured, the score, the page's path, and where it was run."""
    metrics = read("lighthouse", json.dumps(lighthouse_result()), defaults={"browser": "chrome"})
    assert {m["metric_type"]: m["value"] for m in metrics} == {
        "lcp": 10884.681,
        "cls": 0.102,
        "fcp": 6795.362,
        "ttfb": 52.4,
        "tbt": 1221,
        "performance_score": 62,
    }
    for metric in metrics:
        assert (metric["page"], metric["timestamp"], metric["browser"]) == ("/checkout", 1_736_596_800_123, "chrome")
        assert metric["tags"] == {"origin": "https://shop.test", "form_factor": "mobile", "lighthouse": "12.8.0"}


def test_lighthouse_lists_flows_and_pagespeed() -> None:
    """A CI list, a flow's steps (where INP occurs) and PageSpeed's wrapping give the metrics of their results."""
    one = lighthouse_result()
    flow = {"steps": [{"lhr": one}, {"lhr": {"audits": {"interaction-to-next-paint": {"numericValue": 180}}}}]}
    single = read("lighthouse", json.dumps(one))
    assert read("lighthouse", json.dumps([one, one])) == single * 2
    assert read("lighthouse", json.dumps({"lighthouseResult": one})) == single
    inp = {"timestamp": NOW_MS, "metric_type": "inp", "value": 180.0, "tags": {}}
    assert read("lighthouse", json.dumps(flow)) == [*single, inp]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("{", "line 1, column 2"),
        ('{"a":\n\n]}', "line 3, column 1"),
        (b'{"a":"\xff"}', "byte 6: not utf-8"),
        ('[{"url": "u", "jsonPath": "lhr.json"}]', "[0].audits must be the audits of a Lighthouse result, not null"),
        ('{"audits": {"speed-index": {"numericValue": "8"}}}', "audits.speed-index.numericValue must be"),
        ('{"audits": {"speed-index": {"numericValue": NaN}}}', "audits.speed-index.numericValue must be"),
        ('{"audits": {}, "finalUrl": "http://["}', "finalUrl must be a URL"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "digit"),
    ],
    ids=lambda part: str(part)[:20],
)
def test_a_broken_lighthouse_report_is_refused_with_its_place(content: str | bytes, place: str) -> None:
    """The sentence names line and column, or the path inside the report."""
    with pytest.raises(UsageError) as caught:
        read("lighthouse", content)
    assert place in str(caught.value)


def test_an_unknown_format_is_named_with_the_known_ones() -> None:
    """The sentence lists what there is."""
    with pytest.raises(UsageError, match=r"'trx'.*ndjson, junit, playwright, lighthouse"):
        read("trx", "")


SEEDS = {
    "junit": JUNIT,
    "playwright": json.dumps(PLAYWRIGHT, indent=1),
    "lighthouse": json.dumps(lighthouse_result(), indent=1),
}


@pytest.mark.parametrize("format", SEEDS)
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_report_is_read_or_refused_but_never_a_crash(format: str, seed: int) -> None:
    """Random damage: every outcome is a list of metrics the client can encode, or a UsageError."""
    chance = random.Random(seed)
    replacements = [
        b"",
        b"null",
        b"[]",
        b"-1",
        b'"\\ud800"',
        b"<",
        b">",
        b"\x00",
        b"1e999",
        b"{}",
        b"\xc3",
        b"http://[",
    ]
    content = bytearray(SEEDS[format].encode())
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(content))
        content[at : at + chance.randint(0, 12)] = chance.choice(replacements)
    try:
        metrics = read(format, bytes(content))
    except UsageError:
        return
    for metric in metrics:
        json.dumps(metric, allow_nan=False).encode()
        json.dumps(metric, ensure_ascii=False).encode()
