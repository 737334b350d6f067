"""What real tools wrote, kept in ``reports/`` with the version of the tool, and what it comes to."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from reports import NOW_MS, read, read_and_warn, refusal, rows, shown

from pipeline.client.identity import pytest_identity
from pipeline.client.importers.allure import allure
from pipeline.client.importers.json_node import Node
from pipeline.client.importers.report import Context

REPORTS = Path(__file__).parent / "reports"
ROOT = "/home/ci/shop"

JEST = [("cart adds", "passed"), ("cart fails", "failed"), ("cart waits", "skipped"), ("cart later", "skipped")]
MOCHA_HOOK = ('cart hooks "before all" hook for "never runs"', "failed")
MOCHA = [("cart adds", "passed"), ("cart fails", "failed"), ("cart flakes", "retried"), ("cart flakes", "flaky")]
PLAYWRIGHT = [
    *(("cart › pays", "passed"), ("cart › fails", "retried"), ("cart › fails", "failed"), ("cart › flakes", "retried")),
    *(("cart › flakes", "flaky"), ("cart › waits", "skipped"), ("cart › is known to fail", "passed")),
]
PYTEST = [
    *(("test_ok[a/b]", "passed"), ("test_ok[1]", "passed"), ("test_fails", "failed"), ("test_skipped", "skipped")),
    ("TestInside::test_method", "failed"),
]
CUCUMBER = [
    *(("Adds an item", "passed"), ("Fails", "failed"), ("Adds 3", "passed"), ("Adds 4", "passed")),
    *(("Same name", "passed"), ("Same name #2", "passed"), ("Undefined", "failed"), ("Pending", "failed")),
    *(("Skips", "skipped"), ("Flakes", "passed"), ("Pays", "passed"), ("Adds an item #2", "passed")),
    *(("Hook fails", "failed"), ("Ambiguous", "failed")),
]
EXPECTED = {
    "ctrf-jest-0.0.11.json": ("ctrf", "jest", JEST),
    "ctrf-mocha-0.0.11.json": ("ctrf", "mocha", [*MOCHA, ("cart waits", "skipped"), MOCHA_HOOK]),
    "ctrf-playwright-0.0.29.json": ("ctrf", "playwright", PLAYWRIGHT),
    "ctrf-pytest-0.6.json": ("ctrf", "pytest", PYTEST),
    "ctrf-vitest-1.3.json": (
        "ctrf",
        "vitest",
        [
            *(("cart adding adds one", "passed"), ("cart adding fails", "failed"), ("cart top of cart", "passed")),
            *(("cart later", "skipped"), ("outside", "passed")),
        ],
    ),
    # It keeps the last attempt alone.
    "cucumber-12.9.json": ("cucumber", "cucumber", CUCUMBER),
    "cucumber-messages-12.9.ndjson": (
        "cucumber-messages",
        "cucumber",
        [
            told
            for name, status in CUCUMBER
            for told in (
                *([(name, "retried")] if name in ("Fails", "Flakes", "Hook fails") else []),
                (name, "flaky" if name == "Flakes" else status),
            )
        ],
    ),
    "jest-29.7.json": ("jest", "jest", [*JEST, ("(suite)", "failed")]),
    "jest-junit-17.0.xml": (
        "junit",
        "jest-junit",
        # jest-junit writes a test that is still to be written as passed.
        [*JEST[:3], ("cart later", "passed")],
    ),
    "mocha-12.0.json": ("mocha", "mocha", [*MOCHA, ("cart waits", "skipped"), MOCHA_HOOK]),
    "mocha-junit-2.2.xml": (
        "junit",
        "mocha-junit",
        # It keeps no attempts.
        [
            *(("cart adds", "passed"), ("cart fails", "failed"), ("cart flakes", "passed"), ("cart waits", "skipped")),
            *(("cart is pending", "skipped"), MOCHA_HOOK),
        ],
    ),
    "mochawesome-8.1.json": (
        "mochawesome",
        "mocha",
        # It keeps no attempts.
        [
            *(("cart adds", "passed"), ("cart fails", "failed"), ("cart flakes", "passed"), ("cart waits", "skipped")),
            *(("cart hooks never runs", "skipped"), MOCHA_HOOK),
        ],
    ),
    "playwright-1.65.json": ("playwright", "playwright", PLAYWRIGHT),
    "playwright-blob-1.65.zip": ("playwright-blob", "playwright", PLAYWRIGHT),
    "playwright-junit-1.65.xml": (
        "junit",
        "playwright",
        # Its JUnit reporter adds attempts up.
        [(name, "passed" if status == "flaky" else status) for name, status in PLAYWRIGHT if status != "retried"],
    ),
    "pytest-json-report-1.5.json": ("pytest-json", "pytest", [("shop.test_bad", "failed"), *PYTEST]),
    "vitest-2.1.json": ("jest", "jest", [*JEST, ("flakes", "retried"), ("flakes", "flaky")]),
    "vitest-junit-2.1.xml": (
        "junit",
        "vitest-junit",
        [*JEST, ("flakes", "passed")],
    ),
    "wdio-junit-9.32.xml": (
        "junit",
        "wdio",
        [
            *(("cart adds 2 items fast", "passed"), ("cart fails", "failed"), ("cart flakes", "retried")),
            *(
                ("cart flakes", "flaky"),
                ("cart breaks", "retried"),
                ("cart breaks", "failed"),
                ("cart waits", "skipped"),
            ),
            ("cart hooks before all hook for never runs", "failed"),
        ],
    ),
}


@pytest.mark.parametrize(("file", "expected"), EXPECTED.items(), ids=EXPECTED)
def test_a_tool_s_report_has_its_tests(file: str, expected: tuple[str, str, list[tuple[str, str]]]) -> None:
    """Recognised from its content; every test, every attempt it tells of; no path of the machine it ran on."""
    report, warnings = read_and_warn((REPORTS / file).read_bytes(), root=ROOT, future_ms=10**12)
    found = report.rows(NOW_MS)
    assert (report.format, report.producer, [(row["test_name"], row["status"]) for row in found]) == expected
    assert warnings == []
    assert [row for row in found if "/home/" in row["test_id"] or "/home/" in row["test_suite"]] == []
    assert [row["test_id"] for row in found if row["status"] == "failed" and not row["tags"].get("error_message")] == []


def test_every_kept_report_is_tried() -> None:
    """No file lies there unread."""
    assert {path.name for path in REPORTS.iterdir()} == EXPECTED.keys()


def identities(file: str) -> set[tuple[str, str, str]]:
    found = rows((REPORTS / file).read_bytes(), root=ROOT)
    return {(row["test_id"], row["test_name"], row["test_suite"]) for row in found if row["test_id"] != "(run)"}


def test_one_test_has_one_identity_whichever_report_brings_it() -> None:
    """pytest's CTRF and JSON name tests as node ids say; Playwright's four reports agree, the browser included."""
    names = {identity for identity in identities("pytest-json-report-1.5.json") if "test_bad" not in identity[0]}
    assert names == identities("ctrf-pytest-0.6.json")
    assert names == {pytest_identity(test_id) for test_id, _, _ in names}
    files = [file for file in EXPECTED if "playwright" in file]
    assert len(files) == 4
    assert len({frozenset(identities(file)) for file in files}) == 1
    for file in files:
        assert {row["browser"] for row in rows((REPORTS / file).read_bytes())} == {"chromium"}


def test_a_test_of_mocha_has_one_identity() -> None:
    """Its JSON, CTRF, mochawesome, mocha-junit-reporter and @wdio/junit-reporter: the file, and all titles."""
    of_json = identities("mocha-12.0.json")
    assert of_json == identities("ctrf-mocha-0.0.11.json")
    assert of_json <= identities("mochawesome-8.1.json")
    for name in ("cart adds", "cart fails"):
        assert (f"msrc/a.spec.js::{name}", name, "msrc/a.spec.js") in of_json
        assert (f"spec/cart.js::{name}", name, "spec/cart.js") in identities("mocha-junit-2.2.xml")
    assert ("spec/cart.js::cart flakes", "cart flakes", "spec/cart.js") in identities("wdio-junit-9.32.xml")


def test_a_test_of_jest_or_vitest_has_one_identity() -> None:
    """JSON, CTRF and JUnit name the file and all titles; jest-junit once it is asked to name files, in either way."""
    of_json = {identity for identity in identities("jest-29.7.json") if identity[0] != "(suite)"}
    assert of_json == identities("ctrf-jest-0.0.11.json")
    assert ("src/sum.test.js::cart adds", "cart adds", "src/sum.test.js") in of_json
    assert identities("vitest-2.1.json") == identities("vitest-junit-2.1.xml")
    nested = ("vt/cart.test.mjs::cart adding fails", "cart adding fails", "vt/cart.test.mjs")
    assert nested in identities("ctrf-vitest-1.3.json")
    report = (REPORTS / "jest-junit-17.0.xml").read_text()
    with_attribute = report.replace("<testcase ", '<testcase file="src/sum.test.js" ')
    by_suite = report.replace('<testsuite name="cart"', '<testsuite name="src/sum.test.js"')
    own_parts = re.sub('classname="cart ([a-z]+)" name="cart ', r'classname="cart" name="', by_suite)
    assert 'classname="cart" name="adds"' in own_parts
    for changed in (with_attribute, by_suite, own_parts):
        found = {(row["test_id"], row["test_name"], row["test_suite"]) for row in rows(changed)}
        assert found == of_json
    assert {row["test_suite"] for row in rows(report)} == {"cart"}


@pytest.mark.parametrize(
    ("case", "suite"),
    [
        ('classname="Test suite failed to run" name="app.test.ts" time="0"', "app.test.ts"),
        ("name=\" Test execution failure: could be caused by test hooks like 'afterAll'.\"", "cart"),
    ],
)
def test_a_file_of_jest_that_ends_before_its_tests_is_a_failure_of_its_suite(case: str, suite: str) -> None:
    """As jest's JSON has it: one failed execution of ``(suite)``."""
    report = f"""<testsuites name="jest tests"><testsuite name="cart"><testcase {case}><error>no</error></testcase>
        </testsuite></testsuites>"""
    found = [(row["test_id"], row["test_suite"], row["status"]) for row in rows(report)]
    assert found == [("(suite)", suite, "failed")]


def test_tests_of_mocha_that_share_a_title_are_executions_each() -> None:
    """As many as the report lists, and as many of them failed; one that failed after it had passed counts once."""

    def test(title: str) -> dict[str, Any]:
        return {"title": title, "fullTitle": f"cart {title}", "file": "/repo/spec/cart.js", "duration": 5, "err": {}}

    late = test("ends twice")
    hook = test('"after all" hook')
    tests = [test("adds"), test("adds"), test("adds"), late]
    lists = {"passes": [test("adds"), test("adds"), late], "failures": [test("adds"), late, hook], "pending": []}
    report = json.dumps({"stats": {"tests": 4}, "tests": tests, **lists})
    found = sorted((row["test_name"], row["status"]) for row in rows(report))
    assert found == [
        ('cart "after all" hook', "failed"), ("cart adds", "failed"), ("cart adds", "passed"), ("cart adds", "passed"),
        ("cart ends twice", "failed"),
    ]  # fmt: skip


def test_attempts_have_durations_and_errors_of_their_own() -> None:
    """A flaky test of Playwright: the failed attempt's message, the passed attempt's time."""
    found = rows((REPORTS / "playwright-1.65.json").read_bytes(), future_ms=10**12)
    one, two = [r for r in found if r["test_name"] == "cart › flakes"]
    assert (one["attempt"], two["attempt"]) == (1, 2)
    assert one["tags"]["error_message"] == "boom <n> at <path>"
    assert one["value"] > two["value"] > 0
    assert one["timestamp"] < two["timestamp"]


# Playwright, in part


def playwright_with(**changes: Any) -> dict[str, Any]:
    result = {"status": "passed", "duration": 5, "startTime": "2026-11-27T22:56:10.000Z"}
    test = {"projectName": "webkit", "expectedStatus": "passed", "status": "expected", "results": [result]} | changes
    return {"suites": [{"file": "a.spec.ts", "specs": [{"title": "t", "tests": [test]}]}], "errors": []}


def test_an_error_of_the_run_is_a_failed_execution() -> None:
    """A file that does not parse: no tests, and yet no empty success."""
    (row,) = rows({"suites": [], "errors": [{"message": "SyntaxError: a.spec.ts: Unexpected token (3:7)"}]})
    assert (row["test_id"], row["status"], row["error_type"]) == ("(run)", "failed", "SyntaxError")
    assert row["tags"]["error_message"].startswith("a.spec.ts: Unexpected token")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": "unexpected", "results": []}, "failed"),
        ({"status": "skipped", "results": []}, "skipped"),
        ({"status": "skipped", "results": [{"status": "interrupted", "duration": 3}]}, "interrupted"),
        ({"status": "unexpected", "results": [{"status": "timedOut", "duration": 3}]}, "failed"),
        ({"expectedStatus": "failed", "status": "unexpected", "results": [{"status": "passed"}]}, "failed"),
        ({"expectedStatus": "failed", "results": [{"status": "failed"}]}, "passed"),
        ({"status": "odd", "results": [{"status": "failed"}]}, "failed"),
    ],
)
def test_what_playwright_says_of_a_test(changes: dict[str, Any], status: str) -> None:
    """Interrupted is neither passed nor skipped; a test that was to fail passed when it did."""
    assert shown(playwright_with(**changes), "status") == [(status,)]


def test_an_odd_detail_costs_itself() -> None:
    """A negative duration is 0, a text is none, a time that is none is the time of import; each is warned of."""
    for result, value in (({"duration": -1}, 0), ({"duration": "20"}, 0), ({"startTime": "noon", "duration": 7}, 7)):
        report, warnings = read_and_warn(playwright_with(results=[{"status": "passed", **result}]))
        assert [row["value"] for row in report.rows(NOW_MS)] == [value]
        assert len(warnings) == 1
        assert warnings[0].startswith("suites[0].specs[0].tests[0].results[0].")


# Lighthouse


def lighthouse_result(**changes: Any) -> dict[str, Any]:
    return {
        "lighthouseVersion": "12.8.0",
        "requestedUrl": "http://shop.test/",
        "finalDisplayedUrl": "https://shop.test/checkout?step=1#pay",
        "fetchTime": "2026-11-27T22:56:10.123Z",
        "configSettings": {"formFactor": "mobile"},
        "audits": {
            "largest-contentful-paint": {"numericValue": 10884.681, "numericUnit": "millisecond"},
            "cumulative-layout-shift": {"numericValue": 0.102},
            "server-response-time": {"score": 1, "details": {"items": [{"url": "u", "responseTime": 52.4}]}},
            "speed-index": {"score": None, "scoreDisplayMode": "error", "errorMessage": "no frames"},
        },
        "categories": {"performance": {"score": 0.62}},
    } | changes


def test_vitals_of_a_lighthouse_result() -> None:
    """Each vital that was measured, the score, the page's path, and where it was run."""
    found = rows(lighthouse_result())
    values = {"lcp": 10884.681, "cls": 0.102, "ttfb": 52.4, "performance_score": 62}
    assert {m["metric_type"]: m["value"] for m in found} == values
    for metric in found:
        assert (metric["page"], metric["timestamp"]) == ("/checkout", 1_795_820_170_123)
        assert metric["tags"] == {"origin": "https://shop.test", "form_factor": "mobile", "lighthouse": "12.8.0"}


def test_old_versions_lists_flows_and_pagespeed() -> None:
    """rawValue of versions 3 and 4; a CI list, a flow's steps and PageSpeed's wrapping."""
    old = {
        "lighthouseVersion": "3.2.1",
        "finalUrl": "https://shop.test/",
        "audits": {
            "first-contentful-paint": {"rawValue": 1234.5, "score": 0.9},
            "time-to-first-byte": {"rawValue": 40},
            "is-on-https": {"rawValue": True},
        },
    }
    assert {m["metric_type"]: m["value"] for m in rows(old)} == {"fcp": 1234.5, "ttfb": 40}
    one = lighthouse_result()
    single = rows(one)
    assert rows([one, one]) == single * 2
    assert rows({"lighthouseResult": one}) == single
    flow = {"steps": [{"lhr": one}, {"lhr": {"audits": {"interaction-to-next-paint": {"numericValue": 180}}}}]}
    assert [m["metric_type"] for m in rows(flow)] == [*(m["metric_type"] for m in single), "inp"]


def test_parts_of_a_user_flow_that_load_no_page_have_no_score() -> None:
    """Lighthouse counts audits that passed there; a snapshot measures no vital, and that is no trouble."""
    snapshot = lighthouse_result(gatherMode="snapshot", audits={"aria-roles": {"score": 1}})
    flow = {"steps": [{"lhr": lighthouse_result(gatherMode="timespan")}, {"lhr": snapshot}]}
    report = read(flow)
    assert {m["metric_type"] for m in report.rows(NOW_MS)} == {"lcp", "cls", "ttfb"}
    assert report.troubles == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"runtimeError": {"code": "NO_FCP", "message": "The page did not paint"}}, "NO_FCP: The page did not paint"),
        ({"finalDisplayedUrl": "chrome-error://chromewebdata/"}, "CHROME_ERROR"),
        ({"audits": {"is-on-https": {"score": 0}}, "categories": {}}, "no audit that is known"),
    ],
)
def test_a_run_that_measured_nothing_is_trouble_and_counted(changes: dict[str, Any], reason: str) -> None:
    """Never the vitals of an error page, never an empty success."""
    report = read(lighthouse_result(**changes))
    (trouble,) = report.troubles
    assert reason in trouble
    assert [(m["metric_type"], m["value"]) for m in report.rows(NOW_MS)] == [("lighthouse_error", 1)]


# Formats of which no tool runs here: files made by hand, with the version they follow

CYPRESS_13 = {
    "browserName": "chrome",
    "totalTests": 2,
    "runs": [
        {
            "spec": {"relative": "cypress/e2e/shop.cy.js"},
            "stats": {"startedAt": "2026-11-27T22:56:10.000Z"},
            "tests": [
                {
                    "title": ["shop", "pays"],
                    "state": "passed",
                    "attempts": [
                        {
                            "state": "failed",
                            "error": {"name": "AssertionError", "message": "no 3"},
                            "wallClockDuration": 9,
                        },
                        {"state": "passed", "wallClockDuration": 4},
                    ],
                },
                {"title": ["shop", "fails"], "state": "failed", "duration": 7, "displayError": "CypressError: x"},
                {"title": ["shop", "waits"], "state": "pending", "attempts": []},
            ],
        }
    ],
}


def test_mochawesome_before_version_4_is_read() -> None:
    """One root suite in ``suites`` instead of a list in ``results``; a hook that failed is a failed test."""
    tests = [{"fullTitle": "shop pays", "state": "passed", "pass": True, "duration": 4}]
    hooks = [{"title": "after all", "fullTitle": "shop after all", "fail": True, "err": {"message": "no 3"}}]
    inner = {"title": "shop", "file": "/shop.js", "tests": tests, "afterHooks": hooks}
    report = {"stats": {"tests": 1}, "suites": {"root": True, "suites": [inner]}, "copyrightYear": 2017}
    assert [(row["test_name"], row["status"]) for row in rows(report)] == [
        ("shop pays", "passed"),
        ("shop after all", "failed"),
    ]


def test_cypress_keeps_its_attempts() -> None:
    """The result of ``cypress.run()``, of the shape of version 13."""
    found = rows(CYPRESS_13)
    assert [(m["test_name"], m["status"], m["value"], m.get("error_type", "")) for m in found] == [
        ("shop pays", "retried", 9, "AssertionError"),
        ("shop pays", "flaky", 4, ""),
        ("shop fails", "failed", 7, "CypressError"),
        ("shop waits", "skipped", 0, ""),
    ]
    assert {(m["test_suite"], m["browser"]) for m in found} == {("cypress/e2e/shop.cy.js", "chrome")}


TRX_2010 = """<?xml version="1.0" encoding="utf-8"?>
<TestRun xmlns="http://microsoft.com/schemas/VisualStudio/TeamTest/2010">
 <Results>
  <UnitTestResult testId="1" testName="Shop.Tests.Cart.Adds" outcome="Passed" duration="00:00:00.0150000"
   startTime="2026-11-27T22:56:10.0000000+00:00" endTime="2026-11-27T22:56:10.0150000+00:00"/>
  <UnitTestResult testId="2" testName="Fails(a: 1)" outcome="Failed" duration="00:00:01">
   <Output><ErrorInfo><Message>System.ArgumentException : no 3</Message><StackTrace>x</StackTrace></ErrorInfo></Output>
   <InnerResults><UnitTestResult testId="2" testName="row" outcome="Failed"/></InnerResults>
  </UnitTestResult>
  <UnitTestResult testId="3" testName="Waits" outcome="NotExecuted"/>
  <UnitTestResult testId="4" testName="Odd" outcome="Timeout"/>
  <UnitTestResult testId="5" testName="Unclear" outcome="Inconclusive"/>
 </Results>
 <TestDefinitions>
  <UnitTest id="1"><TestMethod className="Shop.Tests.Cart" name="Adds"/></UnitTest>
  <UnitTest id="2"><TestMethod className="Shop.Tests.Cart, Shop.Tests" name="Fails"/></UnitTest>
 </TestDefinitions>
 <ResultSummary outcome="Failed"/>
</TestRun>"""


NUNIT_3 = """<test-run id="0" result="Failed" total="5" failed="2">
<test-suite type="Assembly" name="Shop.dll" result="Failed" site="Child">
<failure><message>One or more child tests</message></failure>
<test-suite type="TestFixture" name="Cart" fullname="Shop.Cart" result="Failed" site="TearDown">
<failure><message><![CDATA[TearDown : System.Exception : not closed]]></message></failure>
<test-case name="Pays(1.5)" fullname="Shop.Cart.Pays(1.5)" classname="Shop.Cart" result="Passed" duration="0.25"
 end-time="2026-11-27 22:56:10Z"/>
<test-case name="Fails" classname="Shop.Cart" result="Failed" label="Error" duration="0,5">
<failure><message>System.Exception : no</message></failure>
<assertions><assertion result="Failed"><message>no</message></assertion></assertions></test-case>
<test-case name="Waits" classname="Shop.Cart" result="Skipped" label="Ignored"/>
<test-case name="Warns" classname="Shop.Cart" result="Warning"/>
</test-suite>
<test-suite type="TestFixture" name="Torn" result="Failed" site="SetUp">
<failure><message>no database</message></failure>
<test-suite type="ParameterizedMethod" name="A" result="Failed" site="Parent">
<failure><message>OneTimeSetUp</message></failure>
</test-suite></test-suite></test-suite></test-run>"""
NUNIT_2 = """<test-results name="Pester" total="5" failures="1" date="2026-11-27" time="22:56:10">
<test-suite type="TestFixture" name="Cart" executed="True" result="Failure" time="0.4"><results>
<test-case description="pays 1.5" name="Cart.pays 1.5" time="0.25" executed="True" success="True" result="Success"/>
<test-case name="Shop.Cart.Fails(&quot;a.b&quot;)" executed="True" success="False" time="0.1">
<failure><message>no</message></failure></test-case>
<test-case name="Shop.Cart.Waits" executed="False"/>
<test-case name="Shop.Cart.Breaks" executed="True"><failure><message>no</message></failure></test-case>
<test-case name="Shop.Cart.Listed"/>
</results></test-suite></test-results>"""
XUNIT = """<assemblies timestamp="11/27/2026 22:56:10">
<assembly name="Shop.dll" run-date="2026-11-27" run-time="22:56:10" total="4" failed="1" errors="1">
<errors><error type="assembly-cleanup">
<failure exception-type="System.IOException"><message>locked</message></failure></error></errors>
<collection name="Cart" total="4" passed="1" failed="1" skipped="1">
<test name="Shop.Cart.Pays(n: 1)" type="Shop.Cart" method="Pays" time="0.25" result="Pass"/>
<test name="Shop.Cart.Fails" type="Shop.Cart" method="Fails" time="0.1" result="Fail"><failure
 exception-type="Xunit.Sdk.EqualException"><message>Assert.Equal() Failure</message></failure></test>
<test name="Shop.Cart.Waits" type="Shop.Cart" time="0" result="Skip"><reason>later</reason></test>
<test name="a title" type="Shop.Cart" time-rtf="00:00:01.5" result="NotRun"/>
</collection></assembly></assemblies>"""


def test_nunit_3() -> None:
    """A fixture's teardown and setup are failures of suites; a suite that its parent failed is none of its own."""
    assert shown(NUNIT_3, "test_id", "test_suite", "status", "value") == [
        ("Shop.Cart::Pays(1.5)", "Shop.Cart", "passed", 250.0),
        ("Shop.Cart::Fails", "Shop.Cart", "failed", 500.0),
        ("Shop.Cart::Waits", "Shop.Cart", "skipped", 0),
        ("Shop.Cart::Warns", "Shop.Cart", "passed", 0),
        ("(suite)", "Cart", "failed", 0),
        ("(suite)", "Torn", "failed", 0),
    ]
    found = rows(NUNIT_3)
    assert found[0]["timestamp"] == 1_795_820_170_000
    assert [row["tags"].get("error_message") for row in found] == [
        *(None, "no", None, None),
        *("TearDown : System.Exception : not closed", "no database"),
    ]


def test_nunit_2_as_pester_writes_it_too() -> None:
    """Classes stand in the names; before version 2.5 no word says how a test ended."""
    report, warnings = read_and_warn(NUNIT_2)
    found = report.rows(NOW_MS)
    assert [(row["test_id"], row["status"], row["timestamp"]) for row in found] == [
        ("Cart::pays 1.5", "passed", 1_795_820_170_000),
        ('Shop.Cart::Fails("a.b")', "failed", 1_795_820_170_000),
        ("Shop.Cart::Waits", "skipped", 1_795_820_170_000),
        ("Shop.Cart::Breaks", "failed", 1_795_820_170_000),
    ]
    assert warnings == ["line 8: this test has no result, as in a list of tests; left out"]


def test_xunit_net() -> None:
    """An error outside of any test is a failure of its suite; what was not run is skipped."""
    assert shown(XUNIT, "test_id", "test_name", "status", "value", "error_type") == [
        ("(suite)", "(suite)", "failed", 0, "System.IOException"),
        ("Shop.Cart::Pays(n: 1)", "Pays(n: 1)", "passed", 250.0, ""),
        ("Shop.Cart::Fails", "Fails", "failed", 100.0, "Xunit.Sdk.EqualException"),
        ("Shop.Cart::Waits", "Waits", "skipped", 0, ""),
        ("Shop.Cart::a title", "a title", "skipped", 1500.0, ""),
    ]


@pytest.mark.parametrize(
    "report",
    [
        '<test-run result="Failed" failed="2"/>',
        '<test-run result="Failed"><test-suite name="Shop.dll" result="Failed" label="Invalid"/></test-run>',
        '<test-results errors="1"/>',
        '<assemblies><assembly name="C:\\ci\\Shop.DLL" failed="1"/></assemblies>',
    ],
)
def test_a_dotnet_run_that_failed_before_its_tests_is_no_empty_success(report: str) -> None:
    """As where an assembly cannot be loaded; the path before it differs from machine to machine."""
    ((status, suite),) = shown(report, "status", "test_suite")
    assert (status, suite in ("", "Shop.dll", "Shop.DLL")) == ("failed", True)


def test_trx_of_an_ordered_test_and_of_a_web_test() -> None:
    """The first is a list, whose tests count; the second is a result of another name."""
    said = 'testName="{0}" outcome="{1}"'.format
    inner = f"<UnitTestResult {said('Login', 'Failed')}/><UnitTestResult {said('Buys', 'Passed')}/>"
    inside = f"<InnerResults>{inner}</InnerResults>"
    listed = f"<TestResultAggregation {said('All', 'Failed')}>{inside}</TestResultAggregation>"
    run = f"<TestRun><Results>{listed}<WebTestResult {said('Opens', 'Passed')}/></Results></TestRun>"
    assert shown(run, "test_name", "status") == [("Login", "failed"), ("Buys", "passed"), ("Opens", "passed")]


def test_trx() -> None:
    """The file of ``dotnet test --logger trx``: class, method, outcome, error; rows of data count with their test."""
    assert shown(TRX_2010, "test_id", "status", "value", "error_type") == [
        ("Shop.Tests.Cart::Adds", "passed", 15, ""),
        ("Shop.Tests.Cart::Fails(a: 1)", "failed", 1000, "System.ArgumentException"),
        ("Waits", "skipped", 0, ""),
        ("Odd", "failed", 0, ""),
        ("Unclear", "skipped", 0, ""),
    ]
    report, warnings = read_and_warn(TRX_2010.replace("Inconclusive", "Odd").replace("2026-11-27", "0001-01-01"))
    assert report.rows(NOW_MS)[0]["timestamp"] == NOW_MS
    assert warnings == ["line 12: this outcome is not known; counted in the total only ('Odd')"]
    aborted = (
        '<TestRun><ResultSummary outcome="Aborted"><RunInfos><RunInfo><Text>host crashed</Text></RunInfo></RunInfos>'
    )
    (row,) = rows(aborted + "</ResultSummary></TestRun>")
    assert (row["test_id"], row["status"], row["tags"]["error_message"]) == ("(run)", "failed", "host crashed")


# What is none


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1, column 2"),
        ('{"a":\n\n]}', "line 3, column 1"),
        (b'{"a":"\xff"}', "it holds a"),
        ("[]", "not a report that is known"),
        ('{"status": "ok", "failures": 0, "message": "healthy"}', "not a report that is known"),
        ('[{"url": "u", "jsonPath": "lhr.json"}]', "Lighthouse CI's manifest"),
        ('{"name": "shop", "version": "1"}', "it holds name, version"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "digit"),
        ("", "the file is empty"),
        (b"PK\x03\x04junk", "not a zip file"),
        ("<?xml version='1.0'?><coverage/>", "<coverage> is not the root"),
        ("<robot/>", "this is Robot Framework's output; `robot --xunit FILE` writes JUnit"),
        ("<testng-results/>", "this is TestNG's own results; push the JUnit reports beside them"),
        ('{"version": "3.13.0", "examples": [], "summary": {}}', "this is RSpec's JSON"),
        ('{"Time": "x", "Action": "run", "Package": "shop"}\n{"Action": "pass"}', "the output of go test; gotestsum"),
        ("TAP version 13\n1..1\nok 1 - a\n", "this is TAP"),
        ('{"uuid": "u", "children": [], "befores": []}', "an Allure container; push the directory"),
        ("just words", "line 1"),
        (
            '{"$schema": "sarif-2.1.0", "version": "2.1.0", "runs": [{"tool": {}, "results": []}]}',
            "it holds $schema, version, runs",
        ),
        ('{"title": "shop", "suites": [{"title": "a", "tests": []}], "tests": []}', "it holds title, suites, tests"),
        ('{"suites": "unit,e2e"}', "it holds suites"),
    ],
    ids=range(22),
)
def test_what_is_no_report_is_refused_with_a_sentence(content: str | bytes, words: str) -> None:
    """One sentence that says where, or what it holds instead."""
    assert words in refusal(content)


@pytest.mark.parametrize(
    "report",
    [
        "<testsuites/>",
        "<TestRun/>",
        {"stats": {"tests": 0}, "tests": [], "passes": [], "failures": [], "pending": []},
        {"results": {"tool": {"name": "jest"}, "tests": []}},
        {"numTotalTests": 0, "testResults": []},
    ],
)
def test_a_report_without_a_test_is_told_of(report: str | dict[str, Any]) -> None:
    """In every format alike: a filter that matches nothing passes in many runners."""
    _, warnings = read_and_warn(report)
    assert warnings == ["this report holds no test"]


PASSED_TESTS = [{"title": "x", "status": "passed"}]
PASSED_JEST = {"name": "a.js", "status": "passed", "assertionResults": PASSED_TESTS}
PASSED_PYTEST = {"collectors": [], "summary": {"passed": 1}, "tests": [{"nodeid": "a.py::t", "outcome": "passed"}]}


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"numFailedTests": 2, "testResults": [PASSED_JEST]}, "the report counts failures"),
        ({"numFailedTests": 0, "success": False, "testResults": [PASSED_JEST]}, "the report says success: false"),
        ({"stats": {"failures": 2}, "tests": [], "passes": [], "failures": []}, "the report counts failures"),
        ({"stats": {"suites": 1, "failures": 2}, "results": []}, "the report counts failures"),
        ({"totalTests": 3, "totalFailed": 2, "runs": []}, "the report counts failures"),
        ({"status": "failed", "failures": 1, "message": "no browser found"}, "no browser found"),
        ({"results": {"tool": {"name": "x"}, "summary": {"failed": 2}, "tests": []}}, "the report counts failures"),
        ({"config": {}, "suites": [], "stats": {"unexpected": 2}}, "the report counts failures"),
        (PASSED_PYTEST | {"exitcode": 3}, "the session ended with exit code <n>"),
        (PASSED_PYTEST | {"exitcode": 1, "summary": {"error": 1}}, "the report counts failures"),
    ],
    ids=range(10),
)
def test_failures_that_are_only_counted_are_one_failure(report: dict[str, Any], message: str) -> None:
    """A failed run never looks green, and never like one without tests."""
    found, warnings = read_and_warn(report)
    first = found.rows(NOW_MS)[0]
    assert (first["test_id"], first["status"]) == ("(run)", "failed")
    assert first["tags"]["error_message"].startswith(message)
    assert warnings == ["the report tells of failures, and no test failed: stored as one of the run"]


@pytest.mark.parametrize(
    "report",
    [
        {"numFailedTests": 0, "numPendingTests": 1, "success": True, "testResults": [PASSED_JEST]},
        {"numFailedTests": 0, "success": False, "testResults": [{"testFilePath": "a.js", "testResults": PASSED_TESTS}]},
        PASSED_PYTEST | {"exitcode": 0},
        PASSED_PYTEST,
    ],
    ids=range(4),
)
def test_a_report_that_counts_no_failure_has_none_of_its_run(report: dict[str, Any]) -> None:
    """Nothing is added."""
    assert [row["status"] for row in rows(report)] == ["passed"]


def test_what_jest_gives_its_own_reporters_is_read() -> None:
    """As jest-stare keeps it: other names than in the JSON that jest writes; a file that was not even compiled."""
    tests = [
        {"ancestorTitles": ["cart"], "title": title, "status": status, "duration": 5, "failureMessages": ["Error: no"]}
        for title, status in (("pays", "passed"), ("fails", "failed"))
    ]
    given = {"testFilePath": "/home/ci/shop/a.test.ts", "perfStats": {"start": NOW_MS - 1000}, "testResults": tests}
    broken = {"testFilePath": "/home/ci/shop/b.test.ts", "testResults": [], "testExecError": {"message": "TS2305"}}
    report = {
        "numFailedTests": 1,
        "testResults": [given, broken | {"failureMessage": "● Test suite failed to run\n\nTS2305"}],
    }
    tests[0]["failureMessages"] = []
    assert shown(report, "test_id", "status", "timestamp", root=ROOT) == [
        ("a.test.ts::cart pays", "passed", NOW_MS - 1000),
        ("a.test.ts::cart fails", "failed", NOW_MS - 1000),
        ("(suite)", "failed", NOW_MS),
    ]


def test_a_spec_that_cypress_could_not_load_failed() -> None:
    """Its tests are null."""
    run = {"spec": {"relative": "a.cy.js"}, "error": "Webpack Compilation Error", "tests": None}
    assert shown({"totalTests": 0, "totalFailed": 1, "runs": [run]}, "test_id", "test_suite", "status") == [
        ("(suite)", "a.cy.js", "failed")
    ]


def test_bytes_that_are_not_of_the_encoding_cost_nothing_else() -> None:
    """As in the message of a test that printed what it received."""
    test = b'{"title": "caf\xe9", "status": "passed"}'
    report, warnings = read_and_warn(b'{"testResults": [{"name": "a.js", "assertionResults": [' + test + b"]}]}")
    assert [(row["test_name"], row["status"]) for row in report.rows(NOW_MS)] == [("caf\ufffd", "passed")]
    assert warnings == ["byte 69: bytes that are not utf-8 are replaced"]


def test_a_stated_format_is_held_against_the_content() -> None:
    """Not read as something that it is not."""
    assert refusal({"suites": []}, "ctrf") == "this is not a report of the format ctrf"
    assert Context(0).warnings.lines() == []


@pytest.mark.parametrize("status", ["passed", "skipped"])
def test_a_file_that_failed_without_a_failed_test_is_a_failed_suite(status: str) -> None:
    """As jest writes of an afterAll that throws, and vitest of a beforeAll: exit 1, and no test of the file failed."""
    test = {"ancestorTitles": [], "title": "x", "status": status, "failureMessages": []}
    message = "\n\n  ● Test suite failed to run\n\n    db not closed\n\n    > 1 | afterAll(…)\n"
    file = {
        "name": "a.test.js",
        "status": "failed",
        "message": message,
        "startTime": NOW_MS,
        "assertionResults": [test],
    }
    found = rows({"success": False, "testResults": [file]})
    assert [(row["test_id"], row["status"]) for row in found] == [("a.test.js::x", status), ("(suite)", "failed")]
    assert found[1]["tags"]["error_message"].startswith("db not closed")


def test_a_rerun_of_pytest_json_report_is_an_attempt_before_the_last() -> None:
    """With pytest-rerunfailures the outcome is ``rerun``, and the phases are those of the last attempt."""
    phases = {phase: {"duration": 0.5, "outcome": "passed"} for phase in ("setup", "call", "teardown")}
    test = {"nodeid": "test_c.py::test_flaky", "outcome": "rerun", **phases}
    report = {"created": NOW_MS / 1000, "exitcode": 0, "collectors": [], "summary": {}, "tests": [test]}
    found = rows(report)
    assert [(row["status"], row["attempt"], row["value"]) for row in found] == [("retried", 1, 0), ("flaky", 2, 1500)]
    test["call"] = {"duration": 0.5, "outcome": "failed", "crash": {"message": "assert 0"}}
    assert [row["status"] for row in rows(report)] == ["retried", "failed"]


@pytest.mark.parametrize(
    ("content", "begins"),
    [
        ('npm WARN old\n\n<testsuite name="s"><testcase classname="c" name="n" time="1"/></testsuite>', "npm WARN"),
        (
            '> test\n{"testResults": [{"name": "a.js", "assertionResults": [{"title": "n", "status": "passed"}]}]}',
            "> test",
        ),
    ],
    ids=["junit", "jest"],
)
def test_what_other_tools_print_before_a_report_costs_a_warning(content: str, begins: str) -> None:
    """As in ``npm test > report.xml``."""
    report, warnings = read_and_warn(content)
    assert [row["test_name"] for row in report.rows(NOW_MS)] == ["n"]
    assert any("what stands before the report is left out" in warning and begins in warning for warning in warnings)


def test_a_compressed_report_is_told_to_be_one() -> None:
    """gzip: what it is, and what to do."""
    assert refusal(gzip.compress(b"<testsuites/>")) == "this is gzip; unpack it: gunzip -c FILE | pipeline push -"


def test_what_playwright_calls_flaky_is_flaky_whatever_its_last_try_was() -> None:
    """A test of a serial suite that passed, and failed when the suite was tried again for another one."""
    results = [{"retry": number, "status": status, "duration": 5} for number, status in enumerate(("passed", "failed"))]
    test = {"projectName": "p", "expectedStatus": "passed", "status": "flaky", "results": results}
    spec = {"title": "t", "file": "a.spec.ts", "tests": [test]}
    report = {"config": {}, "suites": [{"title": "a.spec.ts", "file": "a.spec.ts", "specs": [spec]}]}
    assert [row["status"] for row in rows(report)] == ["retried", "flaky"]


ALLURE: dict[str, tuple[dict[str, Any], tuple[str, str, str, str]]] = {
    "allure-pytest 2.16": (
        {
            "name": "test_param[a b]", "fullName": "shop.test_cart.TestA#test_param",
            "labels": {"framework": "pytest", "package": "shop.test_cart", "suite": "test_cart", "subSuite": "TestA"},
            "parameters": [{"name": "n", "value": "'a b'"}],
        },
        ("shop/test_cart.py::TestA::test_param[a b]", "TestA::test_param[a b]", "shop.test_cart", ""),
    ),
    "allure-pytest 2.16, a title": (
        {
            "name": "Takes a card", "fullName": "test_cart#test_param",
            "labels": {"framework": "pytest", "package": "test_cart"},
            "parameters": [{"name": "n", "value": "'visa'"}, {"name": "m", "value": "2"}],
        },
        ("test_cart.py::test_param[visa-2]", "test_param[visa-2]", "test_cart", ""),
    ),
    "allure-pytest 2.16, a title that begins like the function": (
        {
            "name": "test_param of a card", "fullName": "test_cart#test_param",
            "labels": {"framework": "pytest", "package": "test_cart"},
        },
        ("test_cart.py::test_param", "test_param", "test_cart", ""),
    ),
    "allure-jest 3.12": (
        {"name": "adds", "fullName": "shop:src/cart.test.js#cart deep adds", "labels": {"framework": "jest"}},
        ("src/cart.test.js::cart deep adds", "cart deep adds", "src/cart.test.js", ""),
    ),
    "allure-vitest 3.12": (
        {"name": "adds", "fullName": "shop:src/cart.test.js#cart deep adds", "labels": {"framework": "vitest"}},
        ("src/cart.test.js::cart deep adds", "cart deep adds", "src/cart.test.js", ""),
    ),
    "allure-mocha 3.12": (
        {"name": "adds", "fullName": "shop:test/cart.js: cart > deep > adds", "labels": {"framework": "mocha"}},
        ("test/cart.js::cart deep adds", "cart deep adds", "test/cart.js", ""),
    ),
    "allure-playwright 3.12": (
        {
            "name": "flakes", "fullName": "cart.spec.js › cart › flakes", "labels": {"framework": "playwright"},
            "parameters": [{"name": "Project", "value": "chromium"}, {"name": "Retry", "value": "1", "excluded": True}],
        },
        ("cart.spec.js::cart › flakes", "cart › flakes", "cart.spec.js", "chromium"),
    ),
    "a runner that is not known": (
        {
            "name": "adds", "fullName": "com.shop.Cart.adds", "labels": {"framework": "junit5", "suite": "Cart"},
            "parameters": [{"name": "n", "value": "7"}, {"name": "Retry", "value": "1", "excluded": True}],
        },
        ("com.shop.Cart.adds[7]", "adds", "Cart", ""),
    ),
    "parameters without names": (
        {
            "name": "adds", "fullName": "com.shop.Cart.adds", "labels": {"suite": "Cart"},
            "parameters": [{"value": "7"}, {"value": "8"}],
        },
        ("com.shop.Cart.adds[7, 8]", "adds", "Cart", ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("result", "expected"), ALLURE.values(), ids=ALLURE)
def test_allure_names_a_test_as_the_runner_s_own_report_does(
    result: dict[str, Any], expected: tuple[str, str, str, str]
) -> None:
    """Whichever runner wrote it; the number of a retry is no part of a name."""
    labels = [{"name": name, "value": value} for name, value in result["labels"].items()]
    told = {"uuid": "u", "historyId": "h", "status": "passed", "start": NOW_MS - 5, "stop": NOW_MS, **result}
    assert shown(told | {"labels": labels}, "test_id", "test_name", "test_suite", "browser") == [expected]


def allure_results(*given: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Id, status and message of what the files of one directory come to; results carry what all have."""
    common = {"start": NOW_MS, "stop": NOW_MS}
    files = [{**common, "start": NOW_MS + place, **one} if "status" in one else one for place, one in enumerate(given)]
    told = Context(NOW_MS)
    found = allure([Node(one, told, "a-result.json") for one in files]).rows(NOW_MS)
    return [(row["test_id"], row["status"], row["tags"].get("error_message", "")) for row in found]


def scenario(name: str, status: str = "passed", *steps: str | None, **more: Any) -> dict[str, Any]:
    labels = [{"name": "framework", "value": "cucumberjs"}, {"name": "feature", "value": "Cart"}]
    told = [{"name": "Given", "status": step} if step else {"statusDetails": {"message": "no step"}} for step in steps]
    return {"uuid": name, "historyId": name, "name": name, "status": status, "labels": labels, "steps": told, **more}


CUCUMBER_JUNIT = """<testsuite name="Cucumber"><testcase classname="Cart" name="Pays - as a guest"/>
    <testcase classname="Cart" name="Adds &lt;n> - #1.1: Adds 3"/><testcase classname="Cart" name="Row - #1.1"/>
    <testcase classname="Cart" name="Row - #1.2"><failure message="no"/></testcase></testsuite>"""


def test_a_scenario_of_cucumber_has_one_identity() -> None:
    """Its JUnit report, allure-cucumberjs and CTRF: the feature, and the title with its values; rows are counted."""
    of_junit = shown(CUCUMBER_JUNIT, "test_id", "status")
    assert of_junit == [
        ("Cart::Pays - as a guest", "passed"), ("Cart::Adds 3", "passed"), ("Cart::Row", "passed"),
        ("Cart::Row #2", "failed"),
    ]  # fmt: skip
    row = scenario("Row", "broken", "broken", statusDetails={"message": "no"})
    found = allure_results(scenario("Pays - as a guest"), scenario("Adds 3"), scenario("Row"), row)
    assert [(test_id, status) for test_id, status, _ in found] == of_junit
    ctrf = {"name": "Adds 3", "suite": "Cart", "status": "passed", "duration": 1}
    report = {"results": {"tool": {"name": "cucumber"}, "tests": [ctrf]}}
    assert shown(report, "test_id", "test_name", "test_suite") == [("Cart::Adds 3", "Adds 3", "Cart")]


def test_a_scenario_has_the_same_identity_in_cucumber_s_json_and_messages() -> None:
    """As in its JUnit report: ``Cart::Adds 3`` of suite ``Cart``."""
    found = identities("cucumber-12.9.json")
    assert found == identities("cucumber-messages-12.9.ndjson")
    assert ("Cart::Adds 3", "Adds 3", "Cart") in found


def test_behave_s_json_names_tests_as_its_junit_report_does() -> None:
    """Seconds, a status of the scenario, which a hook can fail; a file before the feature's name."""
    passed, failed = (
        {"status": status, "duration": 0.25, "error_message": ["ASSERT FAILED: no way", "x"]}
        for status in ("passed", "failed")
    )
    elements = [
        {"type": "background", "name": "", "steps": [{"name": "a cart"}]},
        {"type": "scenario", "name": "passes", "status": "passed", "steps": [{"result": passed}, {"result": passed}]},
        {"type": "scenario", "name": "fails", "status": "failed", "steps": [{"result": failed}]},
        {"type": "scenario", "name": "hook", "status": "hook_error", "steps": [{}]},
        {"type": "scenario", "name": "waits", "status": "skipped", "steps": [{}]},
    ]
    feature = {"keyword": "Feature", "name": "Cart", "location": "features/shop/a.feature:1", "elements": elements}
    assert shown([feature], "test_id", "test_suite", "status", "value") == [
        ("shop.a.Cart::passes", "shop.a.Cart", "passed", 500.0),
        ("shop.a.Cart::fails", "shop.a.Cart", "failed", 250.0),
        ("shop.a.Cart::hook", "shop.a.Cart", "failed", 0),
        ("shop.a.Cart::waits", "shop.a.Cart", "skipped", 0),
    ]
    assert rows([feature])[1]["tags"]["error_message"] == "ASSERT FAILED: no way"


def test_java_s_hooks_and_backgrounds_are_parts_of_a_scenario() -> None:
    """Beside the steps, inside of them, and as an element before it; its time is told."""

    def step(status: str, **more: Any) -> dict[str, Any]:
        return {"name": "s", "result": {"status": status, "duration": 2_000_000}, **more}

    background = {"type": "background", "name": "", "steps": [step("passed")]}
    hooked = {"name": "a", "type": "scenario", "steps": [step("passed")], "after": [step("failed")]}
    inside = {"name": "b", "type": "scenario", "steps": [step("passed", before=[step("undefined")])]}
    fine = {"name": "c", "type": "scenario", "steps": [step("passed")], "start_timestamp": "2026-11-27T22:56:10.000Z"}
    skipped = {"name": "d", "type": "scenario", "steps": [step("skipped"), step("skipped")]}
    elements = [background, hooked, inside, background, fine, skipped, {"name": "e", "steps": []}]
    report = [{"uri": "a.feature", "name": "F", "elements": elements}]
    assert shown(report, "test_name", "status", "value", "timestamp") == [
        ("a", "failed", 6, NOW_MS), ("b", "failed", 4, NOW_MS), ("c", "passed", 4, 1_795_820_170_000),
        ("d", "skipped", 4, NOW_MS), ("e", "skipped", 0, NOW_MS),
    ]  # fmt: skip


MESSAGES = [
    {"meta": {"implementation": {"name": "cucumber-js"}}},
    {"gherkinDocument": {"uri": "a.feature", "feature": {"name": "F"}}},
    {"pickle": {"id": "p", "uri": "a.feature", "name": "a"}},
    {"testCase": {"id": "c", "pickleId": "p"}},
    {"testCaseStarted": {"id": "s", "testCaseId": "c", "timestamp": {"seconds": 1_795_820_170, "nanos": 5_000_000}}},
    {"testStepFinished": {"testCaseStartedId": "s", "testStepResult": {"status": "PASSED"}}},
    {"testCaseFinished": {"testCaseStartedId": "s", "timestamp": {"seconds": 1_795_820_171, "nanos": 0}}},
    {"testRunFinished": {"success": True}},
]
HOOK_FAILED = {"testRunHookFinished": {"result": {"status": "FAILED", "message": "Error: no db"}}}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (MESSAGES, [("F::a", "passed", "")]),
        (MESSAGES[:-1], [("(run)", "failed", "the report ends before the run does"), ("F::a", "passed", "")]),
        (MESSAGES[:-2], [("F::a", "interrupted", "")]),
        (MESSAGES[:1], [("(run)", "failed", "the report ends before the run does")]),
        ([*MESSAGES[:1], HOOK_FAILED, MESSAGES[-1]], [("(run)", "failed", "no db")]),
        ([*MESSAGES[:1], {"testRunFinished": {"success": False}}], [("(run)", "failed", "the run failed")]),
        ([{"parseError": {"message": "(2:1): expected a title"}}], [("(run)", "failed", "(<n>): expected a title")]),
    ],
)
def test_a_run_of_cucumber_that_broke_off_did_not_pass(messages: list[Any], expected: list[tuple[str, ...]]) -> None:
    """Whatever its messages tell of it."""
    found = rows("\n".join(map(json.dumps, messages)))
    assert [(row["test_id"], row["status"], row["tags"].get("error_message", "")) for row in found] == expected
    assert all(row["value"] in (0, 995) for row in found)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("passed", None), ("Cart::x", "failed", "no step")),
        (("passed", "skipped"), ("Cart::x", "skipped", "")),
        (("passed", "passed"), ("Cart::x", "passed", "")),
    ],
)
def test_a_scenario_that_did_not_pass_is_not_passed(steps: tuple[str | None, ...], expected: tuple[str, ...]) -> None:
    """allure-cucumberjs 3.12 writes those as passed whose steps are not defined, pending or skipped."""
    assert allure_results(scenario("x", "passed", *steps)) == [expected]


@pytest.mark.parametrize("kind", ["befores", "afters"])
def test_a_hook_that_failed_fails_the_last_of_its_tests(kind: str) -> None:
    """Allure writes it into a container; the tests stand there as passed or skipped, unless one of them shows it."""
    hook = {"status": "broken", "statusDetails": {"message": "Error: no db"}}
    container = {"uuid": "c", "children": ["a", "b", "gone"], kind: [hook]}
    one, two = scenario("a"), scenario("b", "skipped")
    assert allure_results(one, two, container) == [("Cart::a", "passed", ""), ("Cart::b", "failed", "no db")]
    shown_already = scenario("a", "broken", statusDetails={"message": "no db"})
    assert [status for _, status, _ in allure_results(shown_already, two, container)] == ["failed", "skipped"]
    fine = container | {kind: [{"status": "passed"}]}
    assert [status for _, status, _ in allure_results(one, two, fine)] == ["passed", "skipped"]


def test_an_error_of_the_run_is_a_failure_where_nothing_else_is() -> None:
    """Allure 3's globals."""
    run = {"attachments": [], "errors": [{"message": "Error: hook broke"}]}
    assert allure_results(scenario("a"), run)[1] == ("(run)", "failed", "hook broke")
    assert len(allure_results(scenario("a", "failed"), run)) == 1


def test_what_passed_was_not_tried_again() -> None:
    """Two tests of one name share their history; Playwright tries again what passed, with the others of its suite."""
    told = [("t", "passed", ""), ("t", "passed", "")]
    one: dict[str, Any] = {"historyId": "h", "name": "t", "fullName": "t", "status": "passed"}
    assert allure_results(one, one) == told
    retry = {"parameters": [{"name": "Retry", "value": "1", "excluded": True}]}
    assert [status for _, status, _ in allure_results(one, one | retry)] == ["retried", "passed"]
    assert [status for _, status, _ in allure_results(one | {"status": "broken"}, one)] == ["retried", "flaky"]
