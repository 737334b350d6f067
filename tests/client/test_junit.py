import random
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import NOW_MS, read, read_and_warn, refusal, rows, shown

from pipeline.client.checkout import places_in
from pipeline.client.importers.report import ReportRefused
from pipeline.client.importers.xml_events import MAX_DEPTH

TODAY = 1_795_820_170_000
"""2026-11-27T22:56:10Z, a few minutes before the import."""


def suite(inside: str, **attributes: str) -> str:
    said = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<testsuites><testsuite name="s"{said}>\n{inside}</testsuite></testsuites>'


JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites>
 <testsuite name="auth" timestamp="2026-11-27T23:56:10.123+01:00" hostname="ci-7">
  <properties><property name="browser" value="firefox"/><property name="build" value="17"/></properties>
  <testcase classname="auth.login" name="ok" time="1.25"/>
  <testcase classname="auth.login" name="fails" time="0.5"><failure message="no"/><system-out>x</system-out></testcase>
  <testcase classname="auth.login" name="errors" time="0.5"><error/></testcase>
  <testcase classname="auth.login" name="skips" time="0"><skipped/></testcase>
  <testsuite name="inner">
   <properties><property name="build" value="18"/></properties>
   <testcase name="ä &amp; ö" time="1,234.5"><properties><property name="commit" value="abc"/></properties></testcase>
  </testsuite>
  <testcase classname="auth.login" name="after" time="2" timestamp="2026-11-27T22:30:00"/>
 </testsuite>
 <testsuite name="plain"><testcase name="bare"/>
  <testcase name="flaky" time="3"><flakyFailure/><flakyError/></testcase>
  <testcase name="rerun" time="3"><failure/><rerunFailure/></testcase>
  <testcase name="never" status="notrun" time="0"/>
 </testsuite>
</testsuites>
"""


def test_executions_of_a_report() -> None:
    """Suite, name, seconds to milliseconds, status, time of the suite, properties as tags, browser as browser."""
    report = rows(JUNIT)
    metrics = {metric["test_name"]: metric for metric in report}
    assert metrics["ok"] == {
        "timestamp": TODAY + 123,
        "metric_type": "duration",
        "value": 1250.0,
        "test_id": "auth.login::ok",
        "test_name": "ok",
        "test_suite": "auth",
        "status": "passed",
        "attempt": 1,
        "browser": "firefox",
        "tags": {"build": "17"},
    }
    assert [(m["test_name"], m["status"]) for m in report] == [
        *(("ok", "passed"), ("fails", "failed"), ("errors", "failed"), ("skips", "skipped"), ("ä & ö", "passed")),
        *(("after", "passed"), ("bare", "passed"), ("flaky", "retried"), ("flaky", "retried"), ("flaky", "flaky")),
        *(("rerun", "retried"), ("rerun", "failed"), ("never", "skipped")),
    ]
    inner = metrics["ä & ö"]
    assert (inner["test_suite"], inner["test_id"], inner["value"]) == ("inner", "ä & ö", 1_234_500.0)
    assert (inner["timestamp"], inner["tags"]) == (TODAY + 123, {"build": "18", "commit": "abc"})
    assert metrics["after"]["timestamp"] == TODAY - (26 * 60 + 10) * 1000
    assert (metrics["bare"]["timestamp"], metrics["bare"]["value"]) == (NOW_MS, 0)
    assert metrics["bare"]["tags"] == {"duration": "unknown"}


# Times

TIMES = [
    "Fri, 27 Nov 2026 22:56:10 GMT",
    "27 Nov 2026 22:56:10 GMT",
    "Fri Nov 27 22:56:10 UTC 2026",
    "Fri Nov 27 22:56:10 2026",
    "Fri Nov 27 2026 23:56:10 GMT+0100 (Central European Standard Time)",
    "1795820170000",
    "1795820170",
    "1795820170.000",
    "2026-11-27T22:56:10",
    "2026-11-27T22:56:10Z",
    "2026-11-27T22:56:10.0000000+00:00",
    "2026-11-27T23:56:10,000+0100",
    "2026-11-27 22:56:10 UTC",
    "2026-11-27 22:56:10 +0000 UTC",
    "2026-11-27T22:56:10Z[UTC]",
    "20261127T225610Z",
    "2026/11/27 22:56:10",
]


@pytest.mark.parametrize("text", TIMES)
def test_times_of_all_tools_are_read(text: str) -> None:
    """Mail dates (mocha, TestCafe, TestNG), JavaScript's, C's, ISO in every form, epoch seconds and milliseconds."""
    report, warnings = read_and_warn(suite('<testcase name="t"/>', timestamp=text))
    assert [row["timestamp"] for row in report.rows(NOW_MS)] == [TODAY]
    assert warnings == []


def test_a_time_that_cannot_be_read_is_the_time_of_import_and_said_once() -> None:
    """The report is read all the same; one warning names the line."""
    report, warnings = read_and_warn(suite('<testcase name="t" timestamp="yesterday"/>' * 3, timestamp="soon"))
    assert {row["timestamp"] for row in report.rows(NOW_MS)} == {NOW_MS}
    assert warnings == ["line 1: this time cannot be read; the time of import is used ('soon'), 4 times"]


def test_the_root_s_time_is_used_and_the_epoch_is_no_time() -> None:
    """A timestamp on <testsuites> only; jest-junit's 1970 is a clock that was never set: now."""
    root = (
        '<testsuites timestamp="2026-11-27T22:56:10Z"><testsuite name="s"><testcase name="t"/></testsuite></testsuites>'
    )
    assert shown(root, "timestamp") == [(TODAY,)]
    jest = suite(
        '<testcase classname="Test suite failed to run" name="app.test.ts" time="0"><error/></testcase>',
        timestamp="1970-01-01T00:00:00",
    )
    assert shown(jest, "timestamp", "status") == [(NOW_MS, "failed")]


@pytest.mark.parametrize(
    "zero",
    ["0001-01-01T00:00:00", "0001-01-01T00:00:00.0000000+00:00", "1601-01-01T01:00:00Z", "1970-01-01T01:00:00+02:00"],
)
def test_a_clock_that_was_never_set_tells_no_time(zero: str) -> None:
    """Of a class that failed in its setup unittest-xml-reporting writes year 1, as .NET and Go do: now."""
    report, warnings = read_and_warn(suite('<testcase name="t"><error/></testcase>', timestamp=zero))
    assert [row["timestamp"] for row in report.rows(NOW_MS)] == [NOW_MS]
    assert warnings == []


def test_the_time_behind_a_suite_s_name_is_no_part_of_it() -> None:
    """unittest-xml-reporting's: each run would be a suite of its own."""
    report = '<testsuite name="tests.T-20261127225610"><testcase classname="tests.T" name="n"/></testsuite>'
    assert shown(report, "test_id", "test_suite") == [("tests.T::n", "tests.T")]


def test_a_time_without_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """UTC; --timezone's; where it lies ahead this machine's local time; where that does too, the time of import."""
    from pipeline.client.importers.times import zone_named

    ahead = suite('<testcase name="t"/>', timestamp="2026-11-28T00:56:10")
    assert shown(ahead, "timestamp", zone=zone_named("Europe/Helsinki")) == [(TODAY,)]
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        report, warnings = read_and_warn(ahead)
        assert report.rows(NOW_MS)[0]["timestamp"] == NOW_MS
        assert "--timezone" in warnings[0]
        monkeypatch.setenv("TZ", "Europe/Helsinki")
        time.tzset()
        report, warnings = read_and_warn(ahead)
        assert report.rows(NOW_MS)[0]["timestamp"] == TODAY
        assert "read as local time" in warnings[0]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert zone_named("Nowhere/Land") is None


# Durations


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0,160", 160),
        ("12,5", 12_500),
        ("1,234.56", 1_234_560),
        ("1.234,56", 1_234_560),
        ("1,234,567", 1_234_567_000),
        ("1.234.567,8", 1_234_567_800),
        ("1 234,5", 1_234_500),
        ("1\u202f234,5", 1_234_500),
        ("3", 3_000),
        (" 0.5 ", 500),
        ("1e-3", 1),
        ("12.5s", 12_500),
        ("12ms", 12),
        ("00:01:02.5", 62_500),
    ],
)
def test_seconds_of_all_countries(text: str, milliseconds: float) -> None:
    """A lone comma or point is decimal, of both the last one is, a separator that repeats groups."""
    assert rows(suite(f'<testcase name="t" time="{text}"/>'))[0]["value"] == pytest.approx(milliseconds)


def test_one_unreadable_time_costs_one_duration() -> None:
    """50 are stored as they are, 1 without a duration, and one warning names its line."""
    cases = '<testcase name="t" time="1"/>\n' * 25
    report, warnings = read_and_warn(suite(f'{cases}<testcase name="odd" time="fast"/>\n{cases}'))
    found = report.rows(NOW_MS)
    assert len(found) == 51
    (odd,) = [row for row in found if row["test_name"] == "odd"]
    assert (odd["value"], odd["tags"]) == (0, {"duration": "unknown"})
    assert warnings == ["line 27: the time cannot be read as seconds; stored without a duration ('fast')"]


def test_negative_times_are_zero_and_counted() -> None:
    """One warning for all of them."""
    report, warnings = read_and_warn(suite('<testcase name="t" time="-0.001"/>' * 3))
    assert [row["value"] for row in report.rows(NOW_MS)] == [0, 0, 0]
    assert warnings == ["line 2: a negative time is taken as 0 ('-0.001'), 3 times"]


# Outcomes


@pytest.mark.parametrize(
    ("case", "status"),
    [
        ('<testcase name="t" status="run" result="skipped"/>', "skipped"),
        ('<testcase name="t" status="run" result="completed"/>', "passed"),
        ('<testcase name="t" status="failed"/>', "failed"),
        ('<testcase name="t" status="FAIL"/>', "failed"),
        ('<testcase name="t" status="notrun"/>', "skipped"),
        ('<testcase name="t" status="disabled"/>', "skipped"),
        ('<testcase name="t" executed="false"/>', "skipped"),
        ('<testcase name="t" success="False"/>', "failed"),
        ('<testcase name="t"><disabled/></testcase>', "skipped"),
        ('<testcase name="t"><ignored/></testcase>', "skipped"),
        ('<testcase name="t"><skipped/><failure/></testcase>', "failed"),
        ('<testcase name="t"><failure/><skipped/></testcase>', "failed"),
        ('<testcase name="t" status="passed"><error/></testcase>', "failed"),
        ('<testcase name="t"><skipped type="todo"/><failure/></testcase>', "skipped"),
    ],
)
def test_what_did_not_pass_is_not_passed(case: str, status: str) -> None:
    """By an element or by an attribute, in any case of letters."""
    assert shown(suite(case), "status") == [(status,)]


def test_a_suite_s_own_error_is_a_failed_execution_of_the_suite() -> None:
    """<error> outside of a testcase, or failures counted of which none is there: never an empty success."""
    told = '<testsuite name="s" errors="1"><error message="ValueError: no 3">trace</error></testsuite>'
    (row,) = rows(told)
    assert (row["test_id"], row["test_suite"], row["status"], row["error_type"]) == (
        "(suite)",
        "s",
        "failed",
        "ValueError",
    )
    assert row["tags"]["error_message"] == "no <n>"
    report, warnings = read_and_warn('<testsuites><testsuite name="s" failures="2" tests="2"/></testsuites>')
    assert [row["status"] for row in report.rows(NOW_MS)] == ["failed"]
    assert "failures are counted here and no test failed" in warnings[0]
    assert read_and_warn("<testsuites/>")[1] == ["this report holds no test"]


@pytest.mark.parametrize(
    "report",
    [
        '<testsuites tests="5" failures="2"/>',
        '<testsuites failures="1"><testsuite name="s"><testcase name="n" time="1"/></testsuite></testsuites>',
        '<testsuite name="s" tests="3" failures="2"><testcase name="n" time="1"/></testsuite>',
        '<testsuite name="o" errors="1"><testsuite name="i"><testcase name="n"/></testsuite></testsuite>',
    ],
)
def test_failures_that_are_only_counted_are_one_failure(report: str) -> None:
    """What a suite or the run counts as failed, and no test shows, never looks like success."""
    found, warnings = read_and_warn(report)
    statuses = [row["status"] for row in found.rows(NOW_MS)]
    assert statuses.count("failed") == 1
    assert any("failures are counted here and no test failed" in warning for warning in warnings)


def test_counted_failures_that_stand_there_are_no_more() -> None:
    """A failed test, an attempt that failed and a suite's own error are what their suites count."""
    failed = '<testcase name="n"><failure/></testcase>'
    repeated = '<testcase name="n"><flakyFailure message="m"/></testcase>'
    for inside in (failed, repeated, "<error/>"):
        report = f'<testsuites failures="1"><testsuite name="s" failures="1">{inside}</testsuite></testsuites>'
        found = rows(report)
        assert "(run)" not in {row["test_id"] for row in found}
        assert [row["status"] for row in found].count("failed") == (inside != repeated)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("aborted", "interrupted"), ("cancelled", "interrupted"), ("flaky", "flaky"), ("NOT_RUN", "skipped"),
        ("Error", "failed"), ("run", "passed"), ("completed", "passed"), ("OK", "passed"), ("KO", "ko"),
        ("blocked", "blocked"),
    ],
)  # fmt: skip
def test_a_status_in_an_attribute_is_what_its_word_means(word: str, status: str) -> None:
    """A word that is not known is warned of and counts as nothing, least of all as passed."""
    report, warnings = read_and_warn(f'<testsuite name="s"><testcase name="n" time="1" status="{word}"/></testsuite>')
    assert [row["status"] for row in report.rows(NOW_MS)] == [status]
    assert len(warnings) == (status in ("ko", "blocked"))


def test_a_test_that_pytest_broke_off_did_not_pass() -> None:
    """After Ctrl-C and ``pytest.exit`` pytest writes a testcase without a name."""
    cases = '<testcase classname="test_c" name="test_a" time="0.002"/><testcase time="0.001"/>'
    report = f'<testsuites name="pytest tests"><testsuite name="pytest">{cases}</testsuite></testsuites>'
    assert [row["status"] for row in rows(report)] == ["passed", "interrupted"]


def test_tests_of_pytest_without_a_name_are_no_attempts_of_each_other() -> None:
    """pytest-xdist with --reruns leaves one of each test in which a worker died."""
    report = '<testsuite name="pytest"><testcase time="0.1"/><testcase time="0.2"/></testsuite>'
    assert shown(report, "test_id", "status", "attempt") == [("(suite)", "interrupted", 1)] * 2


def test_mocha_s_own_xunit_names_tests_as_its_json_does() -> None:
    """Suites stand in the class name there, and the same title in two of them is two tests."""
    cases = "".join(f'<testcase classname="{suite}" name="x" file="a.js" time="0.1"/>' for suite in ("ah", "ae deep"))
    found = rows(f'<testsuite name="Mocha Tests" tests="2" failures="0">{cases}</testsuite>')
    assert [row["test_id"] for row in found] == ["a.js::ah x", "a.js::ae deep x"]


def test_what_stands_behind_a_report_costs_a_warning() -> None:
    """A line of a log; but another report behind it is refused, since it may hold what failed."""
    one = suite('<testcase name="n" time="1"/>')
    report, warnings = read_and_warn(one + "\n##[debug] done\n")
    assert len(report.rows(NOW_MS)) == 1
    assert "what stands behind the report is left out" in warnings[0]
    assert "another report begins behind the first" in refusal(one + "\n" + one)
    assert "another report begins behind the first" in refusal(one + "\n" + "x" * 600_000 + one)


@pytest.mark.parametrize(
    ("file", "classname", "expected"),
    [
        ("test_a.py", "test_a.login_tests", "test_a.py::login_tests::n"),
        ("my-app/v1.2/test_v.py", "my-app.v1.2.test_v", "my-app/v1.2/test_v.py::n"),
        ("Pkg/TestThing.py", "Pkg.TestThing", "Pkg/TestThing.py::n"),
        ("docs.d/a.b.md", "docs.d.a.b.md", "docs.d/a.b.md::n"),
        ("elsewhere.py", "test_a.TestForm", "test_a.py::TestForm::n"),
        ("a.py", "a./etc/passwd", "a//etc/passwd.py::n"),
    ],
)
def test_the_checkout_tells_a_module_from_a_class(tmp_path: Path, file: str, classname: str, expected: str) -> None:
    """JUnit's class name has dots for everything; where the file exists, the id is that of the plugin."""
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    case = f'<testcase classname="{classname}" name="n" time="1"/>'
    report = f'<testsuites name="pytest tests"><testsuite name="pytest">{case}</testsuite></testsuites>'
    assert [row["test_id"] for row in rows(report, place_of=places_in(tmp_path))] == [expected]


def test_attempts_of_nextest_and_surefire_are_rows() -> None:
    """Each with the duration of its own; the last one carries the verdict."""
    nextest = """<testsuites name="nextest-run"><testsuite name="s">
    <testcase name="t" classname="c" timestamp="2026-11-27T22:56:10Z" time="0.1">
     <flakyFailure timestamp="2026-11-27T22:56:00Z" time="3.0" message="panicked" type="test failure"/></testcase>
    <testcase name="u" classname="c" timestamp="2026-11-27T22:56:00Z" time="1">
     <failure message="m"/><rerunFailure timestamp="2026-11-27T22:56:10Z" time="2"/></testcase>
    </testsuite></testsuites>"""
    assert shown(nextest, "test_name", "status", "attempt", "value", "timestamp") == [
        ("t", "retried", 1, 3000, TODAY - 10_000),
        ("t", "flaky", 2, 100, TODAY),
        ("u", "retried", 1, 1000, TODAY - 10_000),
        ("u", "failed", 2, 2000, TODAY),
    ]
    surefire = suite(
        '<testcase name="t" time="0.5"><flakyError type="java.io.IOException">gone</flakyError></testcase>'
    )
    found = rows(surefire)
    assert [(row["status"], row["value"], row["tags"].get("duration")) for row in found] == [
        ("retried", 0, "unknown"),
        ("flaky", 500, None),
    ]
    assert (found[0]["error_type"], found[0]["tags"]["error_message"]) == ("java.io.IOException", "gone")


# Properties


def test_only_properties_that_name_the_run_are_kept() -> None:
    """No class path, no password, 256 bytes at most; --property asks for others; the text is a value too."""
    properties = {"java.class.path": "x" * 97_000, "db.password": "secret", "git.commit": "abc", "branch": "b" * 999}
    inside = "".join(f'<property name="{name}" value="{value}"/>' for name, value in properties.items())
    report = suite(f'<properties>{inside}<property name="build">17 </property></properties><testcase name="t"/>')
    (row,) = rows(report)
    assert row["tags"] == {"git.commit": "abc", "branch": "b" * 256, "build": "17", "duration": "unknown"}
    (row,) = rows(report, properties=frozenset({"db.password"}))
    assert row["tags"]["db.password"] == "secret"


# Producers

SAMPLE = """
import pytest, time
@pytest.mark.parametrize('i', ['a/b', 'c::d', '[e]'])
def test_ok(i): time.sleep(0.001)
def test_fails(): assert 0
@pytest.fixture
def broken(): 1 / 0
def test_errors(broken): pass
@pytest.fixture
def torn():
    yield
    raise ValueError('after')
def test_fails_twice(torn): assert 0
@pytest.mark.skip
def test_skipped(): pass
class TestInside:
    class TestDeeper:
        def test_method(self): pass
"""


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_pytest_s_own_report_names_tests_as_the_plugin_does(family: str, tmp_path: Path) -> None:
    """A real run: node ids, modules as suites, failures and skips as in the report's totals."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/test_cart.py").write_text(SAMPLE)
    (tmp_path / "shop/test_bad.py").write_text("import nothing_here\n")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--continue-on-collection-errors", "--junitxml=r.xml"]
    run = [sys.executable, "-m", "pytest", *options, "-o", f"junit_family={family}"]
    subprocess.run(run, cwd=tmp_path, stdout=subprocess.DEVNULL, check=False)
    content = (tmp_path / "r.xml").read_bytes()
    report = read(content)
    assert (report.format, report.producer) == ("junit", "pytest")
    found = {row["test_id"]: row for row in report.rows(NOW_MS)}
    prefix = "shop/test_cart.py::"
    assert {name: row["status"] for name, row in found.items()} == {
        "shop/test_bad.py": "failed",
        **{f"{prefix}test_ok[{i}]": "passed" for i in ("a/b", "c::d", "[e]")},
        f"{prefix}test_fails": "failed",
        f"{prefix}test_errors": "failed",
        f"{prefix}test_fails_twice": "failed",
        f"{prefix}test_skipped": "skipped",
        f"{prefix}TestInside::TestDeeper::test_method": "passed",
    }
    method = found[f"{prefix}TestInside::TestDeeper::test_method"]
    assert (method["test_name"], method["test_suite"]) == ("TestInside::TestDeeper::test_method", "shop.test_cart")
    assert found["shop/test_bad.py"]["error_type"] == "ModuleNotFoundError"
    assert found[f"{prefix}test_errors"]["error_type"] == "ZeroDivisionError"
    totals = ET.fromstring(content).find("testsuite")
    assert totals is not None
    assert sum(row["status"] == "skipped" for row in found.values()) == int(totals.attrib["skipped"])


def test_pytest_s_repeated_elements_are_attempts() -> None:
    """rerunfailures from 16.6 on leaves an element without a child for each attempt that it repeats."""
    report = """<testsuites name="pytest tests"><testsuite name="pytest">
    <testcase classname="m.test_a" name="test_a" time="0.010"/>
    <testcase classname="m.test_a" name="test_a" time="0.008"/>
    <testcase classname="m.test_a" name="test_a" time="0.001"><failure message="assert 0"/></testcase>
    <testcase classname="m.test_a" name="test_f" time="1"/><testcase classname="m.test_a" name="test_f" time="2"/>
    <testcase classname="m.test_a" name="test_b" time="1"><failure message="assert 0"/></testcase>
    <testcase classname="m.test_a" name="test_b" time="1">
     <error message='failed on teardown with "ValueError: x"'/></testcase>
    </testsuite></testsuites>"""
    assert shown(report, "test_id", "status", "attempt", "value") == [
        ("m/test_a.py::test_a", "retried", 1, 10),
        ("m/test_a.py::test_a", "retried", 2, 8),
        ("m/test_a.py::test_a", "failed", 3, 1),
        ("m/test_a.py::test_f", "retried", 1, 1000),
        ("m/test_a.py::test_f", "flaky", 2, 2000),
        ("m/test_a.py::test_b", "failed", 1, 2000),
    ]


def test_playwright_s_report_names_tests_as_its_json_does() -> None:
    """File and titles, the project as browser."""
    report = """<testsuites id="" name="" tests="1" failures="0" skipped="0" errors="0" time="1">
    <testsuite name="a.spec.ts" timestamp="2026-11-27T22:56:10Z" hostname="webkit" tests="1" errors="0">
    <testcase name="cart › pays" classname="a.spec.ts" time="1.5"/></testsuite></testsuites>"""
    assert shown(report, "test_id", "test_name", "test_suite", "browser") == [
        ("a.spec.ts::cart › pays", "cart › pays", "a.spec.ts", "webkit")
    ]


def test_mocha_s_report_names_tests_as_its_json_does() -> None:
    """Whichever attribute holds all titles; the file that Cypress names at the root suite alone; else the suite."""
    report = """<testsuites name="Mocha Tests">
    <testsuite name="Root Suite" file="cypress/e2e/a.cy.js"/>
    <testsuite name="cart"><testcase name="cart pays" classname="pays"/></testsuite>
    <testsuite name="Root Suite" file="cypress/e2e/b.cy.js"/>
    <testsuite name="cart"><testcase name="pays" classname="cart pays"/></testsuite></testsuites>"""
    assert shown(report, "test_id", "test_name", "test_suite") == [
        ("cypress/e2e/a.cy.js::cart pays", "cart pays", "cypress/e2e/a.cy.js"),
        ("cypress/e2e/b.cy.js::cart pays", "cart pays", "cypress/e2e/b.cy.js"),
    ]
    without_file = '<testsuite name="cart"><testcase name="cart pays" classname="pays"/></testsuite>'
    assert shown(f'<testsuites name="Mocha Tests">{without_file}</testsuites>', "test_id") == [("cart::cart pays",)]


def test_wdio_s_repeated_tests_are_attempts() -> None:
    """Skipped with an error and there again is a failed attempt; skipped without one is skipped, there again or not."""
    properties = {"specId": "0", "suiteName": "a b", "capabilities": "firefox.133", "file": "./a.js"}
    told = "".join(f'<property name="{name}" value="{value}"/>' for name, value in properties.items())
    case = '<testcase classname="firefox.133.cart_a_b" name="%s" time="%s">%s</testcase>'
    error = "<skipped/><system-err>\nTypeError: no 3\n  at x</system-err>"
    report = f"<testsuites><testsuite name='a b'><properties>{told}</properties>" + "".join(
        (
            *(case % ("pays", "2", error), case % ("pays", "3", error), case % ("pays", "1", "")),
            *(case % ("waits", "0", "<skipped/>"), case % ("waits", "1", "")),
        )
    )
    found = [("retried", 1, 2000, "TypeError"), ("retried", 2, 3000, "TypeError"), ("flaky", 3, 1000, "")]
    found += [("skipped", 1, 0, ""), ("passed", 1, 1000, "")]
    report += "</testsuite></testsuites>"
    assert shown(report, "status", "attempt", "value", "error_type") == found
    assert set(shown(report, "test_id", "browser")) == {
        ("a.js::cart a b pays", "firefox"),
        ("a.js::cart a b waits", "firefox"),
    }


def test_a_test_without_any_name_is_its_suite_s_or_the_run_s() -> None:
    """wdio writes so what ended the run before any suite began."""
    case = '<testcase classname="" name=""><failure message="SyntaxError: x"/></testcase>'
    assert shown(f"<testsuites><testsuite>{case}</testsuite></testsuites>", "test_id", "status") == [
        ("(run)", "failed")
    ]
    assert shown(suite(case), "test_id", "test_suite", "status") == [("(suite)", "s", "failed")]


def test_tests_of_node_have_the_titles_around_them() -> None:
    """``node --test``: suites stand in suites; Node 20 has one class name for all tests, 24 theirs, and the file."""
    report = """<testsuites><testsuite name="cart"><testsuite name="adding">
        <testcase name="one" classname="CLASS"FILE/></testsuite></testsuite>
        <testcase name="alone" classname="test"FILE/></testsuites>"""
    node_20 = report.replace("CLASS", "test").replace("FILE", "")
    assert shown(node_20, "test_id", "test_name", "test_suite") == [
        ("cart::cart adding one", "cart adding one", "cart"),
        ("alone", "alone", ""),
    ]
    node_24 = report.replace("CLASS", "cart.adding").replace("FILE", ' file="/repo/test/a.test.mjs"')
    assert shown(node_24, "test_id", "test_name", "test_suite", root="/repo") == [
        ("test/a.test.mjs::cart adding one", "cart adding one", "test/a.test.mjs"),
        ("test/a.test.mjs::alone", "alone", "test/a.test.mjs"),
    ]
    broken = '<testsuites><testcase name="/repo/test/b.mjs" classname="test"><failure/></testcase></testsuites>'
    assert shown(broken, "test_id", "test_name", "test_suite", root="/repo") == [("test/b.mjs",) * 3]
    todo = '<testcase name="one" classname="test"><skipped type="todo"/><failure/></testcase>'
    todo = f'<testsuites><testsuite name="cart" failures="1">{todo}</testsuite></testsuites>'
    assert shown(todo, "status") == [("skipped",)]
    phpunit = report.replace("CLASS", "cart.adding").replace("FILE", ' file="/repo/tests/CartTest.php"')
    assert shown(phpunit, "test_id")[0] == ("cart.adding::one",)


def test_identity_follows_a_rule_that_was_given() -> None:
    """One template of one producer, the others as they are."""
    given_rule = {"jest-junit": {"test_suite": "{classname}"}}
    report = (
        '<testsuites name="jest tests"><testsuite name="s"><testcase name="t" classname="c"/></testsuite></testsuites>'
    )
    assert shown(report, "test_id", "test_suite", identity=given_rule) == [("s::c t", "c")]
    assert shown(report, "test_id", "test_suite") == [("s::c t", "s")]


# What cannot be read

BOMB = """<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<testsuite name="&c;"/>"""


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (BOMB, "line 1: a DTD is refused"),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'>\n<testsuite/>", "a DTD is refused"),
        ("<testsuites>\n<testsuite>\n</testsuites>", "line 3, column 2: mismatched tag"),
        ("<testsuites>\n<testsuite>\n<testcase name='cut", "line 3"),
        ("<html/>", "<html> is not the root"),
        ("", "the file is empty"),
        ("<testsuite>&undefined;</testsuite>", "undefined entity"),
        ("<?xml version='1.0' encoding='klingon'?><testsuite/>", "unknown encoding"),
        ("<testsuite>" * (MAX_DEPTH + 1), "nested deeper than"),
    ],
    ids=lambda part: part[:20],
)
def test_what_is_no_report_is_refused_with_its_place(content: str, place: str) -> None:
    """One sentence, and nothing is read."""
    assert place in refusal(content)


def encoded(encoding: str, declared: str = "") -> bytes:
    declaration = f'<?xml version="1.0" encoding="{declared or encoding}"?>'
    text = f'{declaration}\n<testsuite name="套件"><testcase name="テスト"/></testsuite>'
    return text.encode(encoding, "replace")


@pytest.mark.parametrize(
    "encoding", ["gbk", "shift_jis", "utf-8", "utf-16", "utf-8-sig", "utf-16-le", "gb18030", "euc-jp"]
)
def test_reports_in_every_encoding_are_read(encoding: str) -> None:
    """Also those that expat does not know, with and without a mark at the beginning."""
    declared = {"utf-8-sig": "utf8", "utf-16-le": "utf-16"}.get(encoding, "")
    name = "テスト".encode(encoding, "replace").decode(encoding)
    assert shown(encoded(encoding, declared), "test_name") == [(name,)]


@pytest.mark.parametrize("odd", ["&#27;[31mred", "&#x1b;", "\x1b[31m", "\x00", "&#55357;", "&#99999999;"])
def test_characters_that_no_xml_may_carry_cost_nothing_else(odd: str) -> None:
    """Replaced, in text and in attributes; the report is read."""
    report = suite(f'<testcase name="a{odd.replace("&", "&")}b"><failure>{odd}x</failure></testcase>')
    (row,) = rows(report)
    assert row["status"] == "failed"
    assert row["test_name"].startswith("a\ufffd")


def test_bytes_that_are_not_of_the_encoding_cost_nothing_else() -> None:
    """Latin-1 in a file that says UTF-8."""
    assert shown(b'<testsuite name="s"><testcase name="caf\xe9"/></testsuite>', "test_name") == [("caf\ufffd",)]


class _Endless:
    """A report of many megabytes, made as it is read."""

    def __init__(self, tests: int, filler: int) -> None:
        self._left = tests
        self._filler = b"x" * filler
        self._begun = False

    def read(self, size: int = -1) -> bytes:
        if not self._begun:
            self._begun = True
            return b'<testsuites><testsuite name="s">'
        if self._left < 0:
            return b""
        self._left -= 1
        if self._left < 0:
            return b"</testsuite></testsuites>"
        return b'<testcase name="t%d"><failure>%b</failure></testcase>' % (self._left, self._filler)


def test_a_large_report_takes_little_memory() -> None:
    """100 MB of messages: what is held is names and first lines."""
    import tracemalloc

    from pipeline.client.importers.junit import junit
    from pipeline.client.importers.report import Context

    tracemalloc.start()
    try:
        report = junit(_Endless(200, 500_000), Context(NOW_MS))  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(report.executions) == 200
    assert peak < 20_000_000


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_report_is_read_or_refused_but_never_a_crash(seed: int) -> None:
    """Random damage: every outcome is rows, or a sentence."""
    chance = random.Random(seed)
    replacements = [b"", b"null", b"-1", b"<", b">", b"\x00", b"1e999", b"\xc3", b"&#0;", b'"', b"timestamp='x'"]
    content = bytearray(JUNIT.encode())
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(content))
        content[at : at + chance.randint(0, 12)] = chance.choice(replacements)
    try:
        found: list[Any] = rows(bytes(content))
    except ReportRefused:
        return
    assert all(row["metric_type"] == "duration" for row in found)


TRACEBACK = """Traceback (most recent call last):
  File "/usr/lib/python3.11/unittest/case.py", line 57, in testPartExecutor
    yield

  File "/home/ci/test_shop.py", line 5, in test_pays
    raise ValueError("no cart\\nof 3")
ValueError: no cart
of 3"""


@pytest.mark.parametrize(
    ("failed", "error_type", "message"),
    [
        (f'<failure message="test failure">{TRACEBACK}</failure>', "ValueError", "no cart"),
        (f'<error type="failure">{TRACEBACK}</error>', "ValueError", "no cart"),
        (f"<failure>{TRACEBACK.replace('yield', 'y' * 9_000)}</failure>", "ValueError", "no cart"),
        (
            f'<failure type="testtools.testresult.real._StringException">_StringException: {TRACEBACK}</failure>',
            *("ValueError", "no cart"),
        ),
        (
            '<failure message="cart.cc:7&#10;Expected equality of these values:&#10;  1&#10;  2"/>',
            *("", "Expected equality of these values: <n>"),
        ),
        ('<failure type="failure">(in test file t.bats, line 2)\n  `false\' failed</failure>', "", "`false' failed"),
        (
            '<failure message="Failed">=== RUN   TestPays\n    a_test.go:3: no cart\n--- FAIL: TestPays</failure>',
            *("", "a_test.go:<n>: no cart"),
        ),
        (
            '<failure type="PHPUnit\\Failed">CartTest::testPays with data set "two" (2)\nFailed asserting</failure>',
            *("PHPUnit\\Failed", "Failed asserting"),
        ),
        (
            '<failure message="Parent suite setup failed:&#10;no database"/>',
            "",
            "Parent suite setup failed: no database",
        ),
        ('<error type="NoneType" message="None">\nStep is undefined</error>', "", "Step is undefined"),
        ('<failure message="cart.cc:7"/>', "", "cart.cc:<n>"),
    ],
    ids=range(11),
)
def test_the_line_that_tells_one_failure_from_another(failed: str, error_type: str, message: str) -> None:
    """Whatever a runner writes before it; otherwise all its failures were one pattern."""
    (row,) = rows(suite(f'<testcase name="n" time="1">{failed}</testcase>'))
    assert (row["status"], row.get("error_type", ""), row["tags"]["error_message"]) == ("failed", error_type, message)


def test_a_failure_is_told_where_an_attribute_says_failed_too() -> None:
    """As behave writes it; a word that is not known is nothing to warn of where an element says how it ended."""
    cases = (
        '<testcase name="a" status="failed"><failure type="AssertionError" message="no way"/></testcase>'
        '<testcase name="b" status="hook_error"><error type="RuntimeError" message="hook"/></testcase>'
    )
    report, warnings = read_and_warn(suite(cases))
    found = [(row["status"], row["error_type"], row["tags"]["error_message"]) for row in report.rows(NOW_MS)]
    assert found == [("failed", "AssertionError", "no way"), ("failed", "RuntimeError", "hook")]
    assert warnings == []


@pytest.mark.parametrize("message", ["Unable to find executable", "Fixture dependency failed"])
def test_what_ctest_could_not_run_failed(message: str) -> None:
    """It writes <skipped>, prints the test among those that failed, and fails."""
    case = f'<testcase name="a" status="notrun"><skipped message="{message}"/></testcase>'
    assert [(row["status"], row["tags"]["error_message"]) for row in rows(suite(case))] == [("failed", message)]


def test_node_tap_says_in_a_property_what_it_skipped() -> None:
    """And no other producer does: a property is no verdict."""
    case = '<testcase name="a"><properties><property name="skip" value="later"/></properties></testcase>'
    assert [row["status"] for row in rows(suite(case))] == ["passed"]
    assert [row["status"] for row in rows(suite(case).replace("<testsuites", '<testsuites name="TAP Tests"'))] == [
        "skipped"
    ]


def test_karma_s_browser_and_its_version_are_no_part_of_a_test_s_name() -> None:
    """Else each update of a browser began a new history of every test."""
    report = """<testsuite name="Chrome Headless 156.0.0.0 (Linux 0.0.0)" tests="1">
    <properties><property name="browser.fullName" value="Mozilla/5.0"/></properties>
    <testcase name="cart pays" classname="Chrome_Headless_156_0_0_0_(Linux_0_0_0).cart" time="1"/>%s</testsuite>"""
    expected = ("cart::cart pays", "cart pays", "cart", "Chrome Headless")
    fields = ("test_id", "test_name", "test_suite", "browser")
    assert shown(report % "", *fields) == [expected]
    assert shown((report % "").replace("156", "157"), *fields) == [expected]
    broken = shown(report.replace("<testsuite ", '<testsuite errors="1" ') % "", "test_id", "test_suite", "browser")
    assert broken[0] == ("(suite)", "", "Chrome Headless")


def test_testcafe_s_browsers_and_their_versions_are_no_part_of_a_suite_s_name() -> None:
    """A fixture is the suite."""
    named = "TestCafe Tests: Chrome 41.0.2227 / macOS 10.10.1, Firefox 47 / macOS 10.10.1"
    case = '<testcase classname="Cart" file="a.js" name="Cart - pays" time="1"/>'
    expected = ("Cart::Cart - pays", "Cart", "Chrome, Firefox")
    report = f'<testsuite name="{named}" tests="1">{case}</testsuite>'
    assert shown(report, "test_id", "test_suite", "browser") == [expected]


def test_tests_of_bun_have_their_file_and_the_titles_around_them() -> None:
    """Blocks of one name in two files are no tests of each other."""
    file = 'file="a.test.ts"'
    inner = f'<testsuite name="inner" {file}><testcase name="deep" classname="inner" {file}/></testsuite>'
    outer = f'<testsuite name="outer" {file}>{inner}</testsuite><testcase name="alone" {file}/>'
    report = f'<testsuites name="bun test"><testsuite name="a.test.ts" {file}>{outer}</testsuite></testsuites>'
    assert shown(report, "test_id", "test_name", "test_suite") == [
        ("a.test.ts::outer inner deep", "outer inner deep", "a.test.ts"),
        ("a.test.ts::alone", "alone", "a.test.ts"),
    ]
