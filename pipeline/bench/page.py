"""``pipeline bench page``: how soon the page's figures answer over many raw rows, and how a browser finds the page.

A day of raw rows and of their windows is made once and copied, day by day, until the table is full: 640 tests in
browsers, pages with vitals; hours and days are merged from the windows by the job that does it in service. Then every
figure of ``sql/page.sql`` is asked for spans of three hours, a day, a week and four weeks, each a few times, as the
page asks it. Beside the time stand the CPU it took and the rows it read: on a busy machine time alone means little. Where
Chromium and Playwright are installed, the page is opened and clicked in, and reports its own Web Vitals as in the demo.
"""

# ruff: noqa: E501  statements of SQL read best on lines of their own

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

from pipeline.base import resources
from pipeline.bench.drain import Bench, private
from pipeline.jobs.coarser import CoarserJob
from pipeline.store.client import Store
from pipeline.web import figures
from pipeline.web.parts import Parts
from pipeline.web.site import Site

DAYS = 30
SPANS_S = {"3h": 3 * 3600, "1d": 86_400, "7d": 7 * 86_400, "28d": 28 * 86_400}
REPEATS = 5
BUDGET_MS = 100
VISITS = 5
LCP_MS, CLS, INP_MS = 800, 0.0, 100
_VIEWS = ("now", "tests", "vitals", "alerts")
_DAY_S = 86_400
_TESTS, _BROWSERS, _SUITES, _PAGES = 640, 4, 8, 12

Say = Callable[[str], None]


def run(settings: Any, rows: int, say: Say) -> dict[str, Any]:
    """Figures over ``rows`` raw rows, and the page in a browser."""
    with private(settings) as bench:
        end_s = int(time.time()) // 300 * 300
        say(f"making {rows:,} raw rows and their windows")
        began = time.perf_counter()
        fill(bench.store, rows, end_s, say)
        made_s = time.perf_counter() - began
        asked = ask_all(bench.store, end_s, say)
        slow = sorted(
            f"{name} {span}" for name, spans in asked.items() for span, cost in spans.items() if cost["ms"] > BUDGET_MS
        )
        counted = bench.store.rows(
            "SELECT (SELECT count() FROM metrics), (SELECT count() FROM metrics_5min), (SELECT count() FROM web_vitals)"
        )[0]
        return {
            "rows": counted[0],
            "window_rows": counted[1],
            "vitals_rows": counted[2],
            "made_s": round(made_s, 1),
            "budget_ms": BUDGET_MS,
            "slower_than_budget": ", ".join(slow) or "none",
            "figures": {name: json.dumps(spans) for name, spans in asked.items()},
            "browser": visit(bench, say),
        }


def fill(store: Store, rows: int, end_s: int, say: Say) -> None:
    """``rows`` raw rows in ``DAYS`` days that end at ``end_s``, and the windows that they would have made."""
    a_day = max(1, rows // DAYS)
    store.command("CREATE TABLE one_day AS metrics")
    store.command(
        "INSERT INTO one_day (timestamp, metric_type, environment, browser, test_suite, test_id, test_name, status, value, "
        "segment, position, ingested_at, run_id, branch, commit, job) "
        f"SELECT toDateTime64({end_s - _DAY_S}, 3, 'UTC') + toIntervalMillisecond(intDiv(number * {_DAY_S * 1000}, {a_day})), "
        f"'duration', 'staging', {_names('browser')}, {_names('suite')}, {_names('test')}, {_names('test')}, "
        "if(cityHash64(number) % 50 = 0, 'failed', 'passed'), 500 + cityHash64(number, 1) % 1000, 'bench', number, "
        f"now64(3), concat('r', toString(intDiv(number * 48, {a_day}))) AS run, 'main', run, "
        "concat('shard-', toString(number % 100)) FROM "
        f"(SELECT number, cityHash64(number, 2) % {_TESTS} AS t FROM numbers({a_day}))"
    )
    for day in range(DAYS):
        store.command(
            "INSERT INTO metrics (timestamp, metric_type, environment, browser, test_suite, test_id, test_name, status, "
            f"value, segment, position, ingested_at, run_id, branch, commit, job) SELECT timestamp - toIntervalDay({day}), metric_type, "
            f"environment, browser, test_suite, test_id, test_name, status, value, 'bench{day}', position, ingested_at, "
            f"concat(run_id, '-{day}') AS run, branch, run, job FROM one_day"
        )
        _windows(store, end_s - (day + 1) * _DAY_S)
        if day % 10 == 9:
            say(f"  {day + 1} of {DAYS} days")
    store.command(
        "INSERT INTO runs (run_id, jobs, branch, started, ended, executions, passed, raw_rows, revision, is_final) "
        f"SELECT concat('r', toString(number % 48), '-', toString(intDiv(number, 48))), ['shard-0'], 'main', "
        f"toDateTime64({end_s - _DAY_S} + 1800 * (number % 48), 3, 'UTC') - toIntervalDay(intDiv(number, 48)) AS began, "
        f"began + 1799, {a_day // 48}, {a_day // 48}, {a_day // 48}, 1, true FROM numbers({48 * DAYS})"
    )
    store.command("DROP TABLE one_day SYNC")
    for table in ("metrics_5min", "web_vitals"):
        store.command(f"OPTIMIZE TABLE {table} FINAL")
    say("  merging hours and days")
    coarser = CoarserJob(store, delay_s=0.0)
    while coarser.fill(end_s * 1000).written:
        pass


def _names(what: str) -> str:
    return {
        "browser": f"['chromium', 'firefox', 'webkit', 'msedge'][t % {_BROWSERS} + 1]",
        "suite": f"concat('suite-', toString(intDiv(t, {_BROWSERS}) % {_SUITES}))",
        "test": f"concat('test-', toString(intDiv(t, {_BROWSERS})))",
    }[what]


def _windows(store: Store, from_s: int) -> None:
    """The 5-minute windows of a day: for every test one, with a histogram of a dozen buckets."""
    histogram = (
        "mapFromArrays(arrayMap(i -> toInt32(35708 + i * 5 + cityHash64(number, i) % 5), range(12)), "
        "arrayMap(i -> toUInt64(1 + i % 3), range(12)))"
    )
    store.command(
        "INSERT INTO metrics_5min (window_start, metric_type, environment, browser, test_suite, test_id, test_name, samples, "
        "total, passed, failed, flaky, retried, sum, avg, min, max, p50, p75, p90, p95, p99, histogram, revision, is_final) "
        f"SELECT toDateTime({from_s} + 300 * intDiv(number, {_TESTS}), 'UTC'), 'duration', 'staging', {_names('browser')}, "
        f"{_names('suite')}, {_names('test')}, {_names('test')}, 24, 24, 23, 1, 0, 0, 24000, 1000, 500, 1500, 1000, 1200, "
        f"1300, 1400, 1490, {histogram}, 1, true FROM (SELECT number, number % {_TESTS} AS t FROM numbers({288 * _TESTS}))"
    )
    store.command(
        "INSERT INTO web_vitals (window_start, vital, environment, browser, page, samples, avg, p75, good, "
        "needs_improvement, poor, rating, p75_rated, histogram, revision, is_final) "
        f"SELECT toDateTime({from_s} + 300 * intDiv(number, {5 * _BROWSERS * _PAGES}), 'UTC'), "
        "['lcp', 'inp', 'cls', 'fcp', 'ttfb'][t % 5 + 1], 'staging', ['chrome', 'firefox', 'safari', 'edge'][intDiv(t, 5) % 4 + 1], "
        f"concat('/page-', toString(intDiv(t, 20))), 24, 1, 2, 20, 3, 1, 'good', 2, {histogram}, 1, true "
        f"FROM (SELECT number, number % {5 * _BROWSERS * _PAGES} AS t FROM numbers({288 * 5 * _BROWSERS * _PAGES}))"
    )


def ask_all(store: Store, end_s: int, say: Say) -> dict[str, dict[str, dict[str, float]]]:
    """By figure and span the medians of a few answers: milliseconds, those of CPU, and rows read."""
    handles = figures.ReaderPool(store.clone)
    chosen = {"suite": "suite-1", "test": "test-1", "run": "r47-0", "other": "r46-0", "vital": "lcp", "alert": "none"}
    asked: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for name, query in resources.queries(figures.FILE).items():
            say(f"asking {name}")
            own = {key: text for key, text in chosen.items() if key != "suite" or name.startswith("test_")}
            asked[name] = {}
            for span, span_s in SPANS_S.items():
                given = {"from": str(end_s - span_s), "to": str(end_s), **own}
                values = figures.parameters(given, end_s)
                costs = [_cost(store, handles, name, values) for _ in range(REPEATS)]
                asked[name][span] = {
                    key: round(statistics.median(cost[key] for cost in costs), 1)
                    for key in ("ms", "cpu_ms", "read_rows")
                }
                if "{from:" not in query.sql and "{since:" not in query.sql:
                    break
    finally:
        handles.close()
    return asked


def _cost(store: Store, handles: figures.ReaderPool, name: str, values: dict[str, Any]) -> dict[str, float]:
    """What one answer cost; the engine is this process and has nothing else to read."""
    read, began = _rows_selected(store), time.process_time()
    told = figures.figure(handles, name, values)
    cpu_s = time.process_time() - began
    return {"ms": told["took_ms"], "cpu_ms": 1000 * cpu_s, "read_rows": _rows_selected(store) - read}


def _rows_selected(store: Store) -> int:
    found = store.rows("SELECT value FROM system.events WHERE event = 'SelectedRows'")
    return int(found[0][0]) if found else 0


def visit(bench: Bench, say: Say) -> dict[str, Any]:
    """The page's own Web Vitals, as its own beacons report them from headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {"not_measured": "Playwright is not installed"}
    if chromium is None:
        return {"not_measured": "Chromium is not installed"}
    say("opening the page in Chromium")
    bench.clear()
    parts = Parts(
        bench.settings, bench.link, [bench.buffer], store=bench.store.clone, reader=bench.store.clone, beacons=True
    )
    site = Site(parts, "127.0.0.1", 0)
    try:
        site.pulse.look()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for number in range(VISITS * len(_VIEWS)):
                context = browser.new_context(viewport={"width": 1360, "height": 900})
                page = context.new_page()
                page.goto(f"{site.url}/?view={_VIEWS[number % len(_VIEWS)]}")
                page.wait_for_selector("main h1")
                page.wait_for_selector("main .loading", state="detached")
                page.click("#theme")
                page.wait_for_timeout(300)
                page.goto("about:blank")
                context.close()
            browser.close()
        return _reported(bench)
    finally:
        site.close()


def _reported(bench: Bench) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for item in bench.buffer.peek(bench.buffer.waiting()):
        metric = json.loads(item)
        found.setdefault(metric["metric_type"], []).append(float(metric["value"]))
    told: dict[str, Any] = {"visits": VISITS * len(_VIEWS)}
    for vital, values in sorted(found.items()):
        told[f"{vital}_p75"] = round(statistics.quantiles(values, n=4)[2], 4) if len(values) > 1 else values[0]
        told[f"{vital}_worst"] = round(max(values), 4)
    told["as_promised"] = (
        told.get("lcp_p75", LCP_MS + 1) <= LCP_MS
        and told.get("cls_p75", 0.0) <= CLS
        and told.get("inp_p75", 0.0) <= INP_MS
    )
    return told
