"""The page's JSON, and what may be done from it."""

import contextlib
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3

from pipeline.alerts.judge.facts import FACTS
from pipeline.base import resources
from pipeline.jobs.coarser import CoarserJob
from pipeline.web.figures import FILE, BadRequest, ReaderPool, figure, parameters
from pipeline.web.spans import MergedSpans, written_out
from web.conftest import World
from web.seeding import seed

OpenSite = Callable[..., World]
NAMES = list(resources.queries(FILE))


@pytest.fixture
def world(open_site: OpenSite) -> World:
    """A site over seeded tables, acting from it allowed to those who sign in."""
    world = open_site()
    seed(world.store, world.buffer)
    return world


def ask(world: World, name: str, **values: str) -> dict[str, Any]:
    query = "&".join(f"{key}={value}" for key, value in values.items())
    answer = world.get(f"/api/figures/{name}?{query}")
    assert answer.status == 200, answer.data
    told: dict[str, Any] = json.loads(answer.data)
    return told


def as_dicts(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(told["columns"], row, strict=True)) for row in told["rows"]]


def test_every_figure_answers(world: World) -> None:
    """On seeded tables each query of sql/page.sql runs and says where it comes from; most have rows."""
    more = {"suite": "checkout", "test": "checkout-001", "run": "run-7", "vital": "lcp", "alert": "a1"}
    empty = []
    for name in NAMES:
        told = ask(world, name, **(more if name.startswith(("test_", "run_", "vitals_", "alert_")) else {}))
        assert told["source"]
        assert told["sql"]
        assert len(told["columns"]) == len(told["kinds"])
        empty += [name] if not told["rows"] else []
    assert set(empty) <= {
        *("stored_by_minute", "regressed", "run_twins"),
        *("test_changes", "test_baseline", "flakiest_before"),
    }


def test_figures_are_what_sql_says(world: World) -> None:
    """Pass rates, percentiles and counts are those of the tables, filters included."""
    suites = {row["test_suite"]: row for row in as_dicts(ask(world, "suites"))}
    counted = world.store.rows(
        "SELECT test_suite, sum(total), sum(passed), sum(failed) FROM metrics_5min WHERE metric_type = 'duration' "
        "GROUP BY test_suite"
    )
    for suite, total, passed, failed in counted:
        row = suites[suite]
        assert (row["executions"], row["failures"]) == (total, failed)
        assert row["pass_rate"] == pytest.approx(passed / total)
    assert [row["test_suite"] for row in as_dicts(ask(world, "suites", suite="auth"))] == ["auth"]
    assert ask(world, "suites", environment="nowhere")["rows"] == []
    lcp = next(row for row in as_dicts(ask(world, "vitals")) if row["vital"] == "lcp")
    assert (lcp["views"], lcp["good_views"], lcp["poor_views"]) == (120, 90, 12)
    assert as_dicts(ask(world, "letters"))[0]["items"] == 3


def test_flakiest_answers_as_the_query_does(world: World) -> None:
    """Saved by a retry, or back and forth on one commit while another is tested: the page and flakiest_tests agree."""
    now_s = int(time.time())
    world.store.command(
        "INSERT INTO metrics (timestamp, metric_type, environment, browser, test_suite, test_id, status, value, "
        "run_id, commit, segment, position, ingested_at) "
        f"SELECT toDateTime64({now_s - 600} + number, 3, 'UTC'), 'duration', 'staging', 'firefox', 'auth', "
        "if(number < 6, 'auth-003', 'auth-004'), if(number IN (0, 4) OR number > 8, 'failed', 'passed'), 1, "
        "concat('r', toString(number)), ['a', 'b'][number % 2 + 1], 't', number, now64(3) FROM numbers(12)"
    )
    rows = as_dicts(ask(world, "flakiest", **{"from": str(now_s - 3600), "to": str(now_s + 300)}))
    query = resources.queries()["flakiest_tests"]
    values = query.values({"since": str(now_s - 3600), "until": str(now_s + 300)}, now_s * 1000)
    same = ("test_suite", "test_id", "executions", "failures", "passed_after_retry", "retried_attempts")
    same = (*same, "changes_on_one_commit", "flakiness")
    named = world.store.query(query.sql, values).to_pylist()
    assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in named]
    found = {row["test_id"]: (row["passed_after_retry"], row["changes_on_one_commit"]) for row in rows}
    # auth-004 fails from some run on, on either commit: one change each, and no other.
    assert found == {"auth-001": (0, 1), "auth-002": (1, 0), "auth-003": (0, 2), "auth-004": (0, 2)}


def test_of_very_many_executions_only_the_newest_are_looked_at_one_by_one(world: World) -> None:
    """The page says since when; before it, what windows count as flaky counts."""
    now_s = int(time.time()) // 300 * 300
    world.store.command(
        "INSERT INTO metrics_5min (window_start, metric_type, environment, browser, test_suite, test_id, samples, "
        f"total, passed, failed, flaky, revision) SELECT toDateTime({now_s - 3000}, 'UTC'), 'duration', 'staging', "
        "'safari', 'mass', 'mass-001', 24990, 24990, 24990, 0, 2499, 1"
    )
    world.store.command(
        "INSERT INTO metrics (timestamp, metric_type, environment, browser, test_suite, test_id, status, value, "
        f"segment, position, ingested_at) SELECT toDateTime64({now_s - 2700} - 5 + number, 3, 'UTC'), 'duration', "
        "'staging', 'safari', 'mass', 'mass-001', 'flaky', 1, 't', number, now64(3) FROM numbers(15)"
    )
    told = ask(world, "flakiest", **{"from": str(now_s - 3600), "to": str(now_s + 300)})
    assert told["parameters"]["since"] == now_s - 2700
    mass = next(row for row in as_dicts(told) if row["test_suite"] == "mass")
    # Of the 15 rows five lie before, in windows.
    assert (mass["executions"], mass["passed_after_retry"]) == (24990 + 10, 2499 + 10)
    assert mass["flakiness"] == pytest.approx(2509 / 25000, abs=0.0001)


def test_how_far_back_single_executions_reach_is_asked_once_a_minute(world: World) -> None:
    """A page that shows a span again, a moment later too, is answered without counting; never beyond the own span."""
    now_s = int(time.time()) // 300 * 300
    mass = (
        "INSERT INTO metrics_5min (window_start, metric_type, environment, browser, test_suite, test_id, samples, "
        "total, passed, revision) SELECT toDateTime({} - {}, 'UTC'), 'duration', 'staging', 'safari', 'mass', "
        "'mass-001', 24999, 24999, 24999, 1"
    )
    world.store.command(mass.format(now_s, 3000))
    values = parameters({"from": str(now_s - 3590), "to": str(now_s + 200)}, now_s)
    with contextlib.closing(ReaderPool(world.store.clone)) as handles:
        told = figure(handles, "flakiest", values)
        assert told["parameters"]["since"] == now_s - 2700
        with handles.take():  # its two statements come one after the other where no second handle is free
            assert figure(handles, "flakiest", values)["rows"] == told["rows"]
        world.store.command(mass.format(now_s, 2400))
        later = parameters({"from": str(now_s - 3400), "to": str(now_s + 290)}, now_s)
        assert figure(handles, "flakiest", later)["parameters"]["since"] == now_s - 2700
        brief = parameters({"from": str(now_s - 2390), "to": str(now_s + 200)}, now_s)
        assert figure(handles, "flakiest", brief)["parameters"]["since"] == now_s - 2100
    with contextlib.closing(ReaderPool(world.store.clone)) as fresh:
        assert figure(fresh, "flakiest", values)["parameters"]["since"] == now_s - 2100


def test_a_view_written_out_is_that_view(world: World) -> None:
    """What is asked of a span without the tables that it cannot need has the rows of the view."""
    now_s = int(time.time()) // 86400 * 86400 + 1500
    world.store.command(
        "INSERT INTO metrics_5min (window_start, metric_type, environment, test_suite, samples, total, passed, "
        f"histogram, revision) SELECT toDateTime({now_s} - 1500 - 300 * number, 'UTC'), 'duration', 'past', 'auth', "
        "1, 1, 1, map(toInt32(number), toUInt64(1)), 1 FROM numbers(620)"
    )
    CoarserJob(world.store, delay_s=0.0).fill(now_s * 1000)
    merged = MergedSpans().of(world.store)
    hole = now_s // 86400 * 86400 - 86400 - 7200
    knowing = {
        "all": merged,
        "nothing yet": lambda _table, _from_s: set(),
        "some": lambda table, from_s: merged(table, from_s) - {hole, hole - 3 * 3600, hole // 86400 * 86400},
    }
    days_read = set()
    for hours in (3, 30, 24 * 8):
        values = parameters({"from": str(now_s - 3600 * hours), "to": str(now_s), "suite": "auth"}, now_s)
        for name in ("suites", "slowest", "vitals"):
            query = resources.queries(FILE)[name]
            used = {name: value for name, value in values.items() if "{" + name + ":" in query.sql}
            expected = world.store.query(query.sql, used)
            for known, of in knowing.items():
                text = written_out(query.sql, values, of)
                assert world.store.query(text, used) == expected, (name, hours, known)
                assert "_of(" not in text
                if "_1d AS w FINAL" in text:
                    days_read.add((name, hours, known))
    assert {("slowest", 24 * 8, "all"), ("suites", 24 * 8, "all")} <= days_read
    assert not {hours for _, hours, _ in days_read} & {3}, "no days within three hours"


def test_parameters_are_bound_and_bounded(world: World) -> None:
    """Text stays text whatever it holds; spans are whole numbers in order, and not endless."""
    assert ask(world, "suites", suite="%27%20OR%201%3D1%20--")["rows"] == []
    for wrong in (
        {"from": "1; DROP"},
        {"from": "-1"},
        {"from": "99999999999"},
        {"from": "9", "to": "8"},
        {"from": "0"},
        {"to": "0"},
        {"from": "4294967296", "to": "4294967297"},
    ):
        with pytest.raises(BadRequest):
            parameters(wrong, 1_800_000_000)
    assert world.get("/api/figures/nonsense").status == 400


def test_now_has_the_books_and_the_last_hour(world: World) -> None:
    """One object: the same keys as ``pipeline status``, history as columns, findings with their fix."""
    world.site.pulse.look()
    told = json.loads(world.get("/api/now").data)
    assert told["unaccounted"] == 0
    assert told["alerts"] == {"firing": 1}
    assert told["dead_letters"] == {"missing field": 3}
    assert len(told["history"]["at"]) == len(told["history"]["waiting"]) > 0


def test_events_are_a_stream(world: World) -> None:
    """Server-sent events: a whole picture first, then one with each look; they end when the site does."""
    answer = world.http.request("GET", world.site.url + "/api/events", preload_content=False)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    first = answer.read(6)
    assert first == b"data: "
    world.site.close()
    answer.drain_conn()


def test_questions_of_ones_own(world: World) -> None:
    """Answered with an analyst's rights: rows, an error in ClickHouse's words, files to download."""
    before = world.store.rows("SELECT count() FROM metrics")
    told = json.loads(world.post("/api/ask", json.dumps({"sql": "SELECT 1 AS a, now() AS t"})).data)
    assert (told["columns"], told["rows"][0][0], told["row_count"]) == (["a", "t"], 1, 1)
    wrong = world.post("/api/ask", json.dumps({"sql": "SELECT nonsense"}))
    assert wrong.status == 422
    for refused in ("SELECT file('/etc/passwd')", "DROP TABLE metrics", "INSERT INTO metrics VALUES (1)"):
        assert world.post("/api/ask", json.dumps({"sql": refused})).status == 422
    assert world.store.rows("SELECT count() FROM metrics") == before
    asked = {"sql": "SELECT {n:UInt8} AS n, {since:DateTime('UTC')} AS s", "parameters": {"n": 3, "since": "7d"}}
    told = json.loads(world.post("/api/ask", json.dumps(asked)).data)
    assert told["rows"][0][0] == 3
    assert abs(told["rows"][0][1] / 1000 - (time.time() - 7 * 86_400)) < 120
    asked["parameters"] = {"n": 3, "since": "soon"}
    assert world.post("/api/ask", json.dumps(asked)).status == 400
    asked["parameters"] = {"n": "\ud800", "since": "1d"}
    assert world.post("/api/ask", json.dumps(asked)).status == 400
    asked["parameters"] = {"n": 3, "since": ""}
    assert "'since'" in json.loads(world.post("/api/ask", json.dumps(asked)).data)["error"]
    filled = world.get("/api/download?format=CSVWithNames&sql=SELECT%20%7Bn%3AUInt8%7D%20AS%20n&param_n=4")
    assert filled.data == b'"n"\n4\n'
    csv = world.get("/api/download?format=CSVWithNames&sql=SELECT%201%20AS%20a")
    assert (csv.data, csv.headers["Content-Disposition"]) == (b'"a"\n1\n', 'attachment; filename="answer.csv"')
    assert world.get("/api/download?format=Parquet&sql=SELECT%201%20AS%20a").data[:4] == b"PAR1"
    assert world.get("/api/download?format=Null&sql=SELECT%201").status == 400


ENDLESS = "SELECT count() FROM numbers(100000000000) WHERE cityHash64(number) = 1"
EVERY_TYPE = """
SELECT toDate('2026-01-02') AS day, toDateTime('2026-01-02 03:04:05', 'Asia/Tokyo') AS tokyo,
    toDateTime64('1950-01-01 00:00:00.5', 3, 'UTC') AS old, CAST(NULL AS Nullable(DateTime)) AS never,
    toUInt64(18446744073709551615) AS large, toInt256('-99') AS wide, nan AS nothing, unhex('ff00') AS bytes,
    CAST('a', 'Enum8(''a'' = 1)') AS word, toIPv4('1.2.3.4') AS address, [1, 2] AS many, true AS yes -- every one
"""


def test_answers_of_any_type_are_what_clickhouse_writes(world: World) -> None:
    """Days stay days, times are moments, integers keep their digits, and bytes that are no text are told."""
    told = json.loads(world.post("/api/ask", json.dumps({"sql": EVERY_TYPE + ";"})).data)
    tokyo_ms, old_ms = 1_767_290_645_000, -631_151_999_500
    assert told["rows"][0] == ["2026-01-02", tokyo_ms, old_ms, None, "18446744073709551615", -99, None, "\\xff\0",
                               "a", "1.2.3.4", [1, 2], True]  # fmt: skip
    assert told["kinds"][:5] == ["day", "time", "time", "time", "number"]
    fixed = "SELECT toDateTime(1767225600, 'Fixed/UTC+01:00:00') AS at, toDateTime(1767225600, 'Asia/Kolkata') AS there"
    zones = json.loads(world.post("/api/ask", json.dumps({"sql": fixed})).data)
    assert zones["rows"] == [["2026-01-01 01:00:00", 1_767_225_600_000]]
    assert zones["kinds"] == ["text", "time"]
    many = json.loads(world.post("/api/ask", json.dumps({"sql": "SELECT number FROM numbers(5000)"})).data)
    assert (len(many["rows"]), many["row_count"]) == (2000, 5000)


def test_a_question_that_is_too_much_says_so(open_site: OpenSite) -> None:
    """Its own limit is no outage: nothing is tried again, and the answer says what may be asked instead."""
    world = open_site(web={"query_max_s": 1})
    answer = world.post("/api/ask", json.dumps({"sql": ENDLESS}))
    assert answer.status == 422
    assert "shorter span" in json.loads(answer.data)["error"]


def test_a_question_whose_reader_has_gone_is_ended(open_site: OpenSite) -> None:
    """More of them than there are handles, as answers and as files, and the next question is answered."""
    world = open_site(web={"query_max_s": 3600})
    quick = urllib3.PoolManager(retries=False, timeout=1.0)
    file = "/api/download?" + urlencode({"format": "CSVWithNames", "sql": ENDLESS})
    for number in range(4):
        with pytest.raises(urllib3.exceptions.ReadTimeoutError), contextlib.ExitStack() as leaving:
            leaving.callback(quick.clear)
            if number % 2:
                quick.request("GET", world.site.url + file)
            else:
                quick.request("POST", world.site.url + "/api/ask", body=json.dumps({"sql": ENDLESS}))
    while world.post("/api/ask", json.dumps({"sql": "SELECT 1"})).status != 200:
        time.sleep(0.1)  # the handles are busy


def test_links_of_notifications_lead_to_the_alert(world: World) -> None:
    """``alerts.page_url`` is the site's address: what a notification links to opens the alert, also signed out."""
    led = world.http.request("GET", world.site.url + "/alerts/a1", redirect=False)
    assert (led.status, led.headers["Location"]) == (302, "/?view=alerts&alert=a1")
    assert as_dicts(ask(world, "alert_one", alert="a1"))[0]["rule"] == "slow_suite"


def test_the_schema_names_every_table(world: World) -> None:
    """Tables and views with their columns, as the box beside the question shows them."""
    tables = {one["name"]: one["columns"] for one in json.loads(world.get("/api/schema").data)["tables"]}
    assert {"metrics", "metrics_5min", "web_vitals", "alerts", "slowest_tests"} <= set(tables)
    assert {column["name"] for column in tables["metrics"]} >= {"timestamp", "value", "tags"}


def signed_in(world: World, token: str) -> str:
    answer = world.post("/api/login", json.dumps({"token": token}))
    assert answer.status == 200
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie.replace("Strict", "strict")
    assert token not in cookie
    return str(cookie.split(";")[0])


def test_changing_something_needs_signing_in(world: World) -> None:
    """Looking is open on loopback, acting is not: without a token it is the key in the address that was printed."""
    asked = json.dumps({"matchers": ["severity=critical"], "duration_s": 3600, "comment": "planned"})
    assert world.post("/api/silences", asked).status == 403
    assert world.post("/api/login", json.dumps({"token": "wrong"})).status == 403
    cookie = signed_in(world, world.site.secret)
    assert world.post("/api/silences", asked, Cookie=cookie, Origin="https://evil.example.org").status == 403
    assert world.post("/api/silences", asked, Cookie=cookie, Origin=world.site.url).status == 201
    listed = json.loads(world.get("/api/silences").data)["silences"]
    assert listed[0]["comment"] == "planned"
    window = {"scheduled": True, "start": "2026-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z", "reason": "disks"}
    world.parts.link.database("environment").set("maintenance:staging", json.dumps(window))
    told = json.loads(world.get("/api/silences").data)["maintenance"]
    assert [(one["environment"], one["reason"]) for one in told] == [("staging", "disks")]
    url = f"{world.site.url}/api/silences/{listed[0]['id']}"
    assert world.http.request("DELETE", url).status == 403
    assert json.loads(world.http.request("DELETE", url, headers={"Cookie": cookie}).data) == {"ended": True}
    assert world.post("/api/silences", json.dumps({"matchers": "x"}), Cookie=cookie).status == 400


def test_dead_letters_are_looked_ahead_then_replayed(world: World) -> None:
    """A preview says what would happen and changes nothing; a replay pushes the payloads and marks the letters."""
    samples = json.loads(world.get("/api/letters?reason=missing").data)["letters"]
    assert [one["would_be"] for one in samples] == ["refused again: missing field"] * 3
    asked = {"action": "replay", "reason": "missing field"}
    ahead = json.loads(world.post("/api/letters", json.dumps({**asked, "preview": True})).data)
    assert (ahead["chosen"], ahead["would_be_accepted"], ahead["would_be_refused"]) == (3, 0, 3)
    assert world.buffer.client.llen(world.buffer.key) == 0
    assert world.post("/api/letters", json.dumps(asked)).status == 403
    done = world.post("/api/letters", json.dumps(asked), Cookie=signed_in(world, world.site.secret))
    assert json.loads(done.data)["done"] == 3
    assert world.buffer.client.llen(world.buffer.key) == 3
    assert json.loads(world.get("/api/letters").data)["letters"] == []


def test_with_credentials_the_page_is_a_form(open_site: OpenSite) -> None:
    """The files hold no data and are open; every figure asks who one is."""
    world = open_site(web={"token": "t0ken"})
    assert world.get("/").status == 200
    for path in ("/api/now", "/api/session", "/api/figures/suites", "/api/events", "/api/letters"):
        assert world.get(path).status == 401
    assert world.get("/api/now", Cookie=signed_in(world, "t0ken")).status == 200
    assert world.get("/static/../site.py").status in (401, 404)
    assert world.get("/static/..%2fsite.py").status in (401, 404)


def test_the_page_is_light(world: World) -> None:
    """All files together are at most 200 KB as they travel, and a browser that has them asks for nothing twice."""
    from pipeline.web.statics import load

    assert sum(len(file.packed) for name, file in load().items() if not name.endswith(".txt")) <= 200_000
    first = world.get("/static/app.js", **{"Accept-Encoding": "gzip"})
    again = world.get("/static/app.js", **{"If-None-Match": first.headers["ETag"]})
    assert (first.status, again.status, again.data) == (200, 304, b"")
    page = world.get("/").data.decode()
    assert "<script>" not in page
    assert "style=" not in page
    assert "https://" not in page


@pytest.mark.parametrize("view", ["now", "tests", "runs", "vitals", "alerts", "platform", "letters", "ask"])
def test_the_page_arrives_with_the_heading_of_its_view_and_names_the_module_it_needs(world: World, view: str) -> None:
    """A reader sees what a view is about before any script has run; the page itself holds no data."""
    page = world.get(f"/?view={view}").data.decode()
    heading = re.search(r'<h1 id="heading">([^<]+)</h1>\s*<p id="lead" class="lead">([^<]{80,})</p>', page)
    assert heading is not None
    current = re.findall(
        r'<a href="\?view=(\w+)" [^>]*data-heading="([^"]+)" data-lead="([^"]+)" aria-current=page>', page
    )
    assert current == [(view, *heading.groups())]
    assert f'rel="modulepreload" href="/static/views/{view}.js"' in page
    assert world.get(f"/static/views/{view}.js").status == 200
    for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        assert world.get(address).status == 200, address


def test_each_figure_of_redis_has_a_name_of_its_own_on_the_page(world: World) -> None:
    """What rules watch of the server, in words; no two in the same ones."""
    script = world.get("/static/views/platform.js").data.decode()
    named = re.search(r"const CALLED = \{(.*?)\};", script, re.DOTALL)
    assert named is not None
    called = dict(re.findall(r"(\w+): '([^']+)'", named[1]))
    of_server = {name.removeprefix("redis_") for name in FACTS if re.match("redis_(?!db_)", name)}
    assert of_server <= called.keys()
    assert len(set(called.values())) == len(called)


def test_an_unknown_view_in_the_address_is_the_first_one(world: World) -> None:
    """Whatever stands in the address, the page answers, and repeats none of it."""
    for view in ("", "nothing", "<b>", "../app", "now&view=tests"):
        answer = world.http.request("GET", world.site.url + "/", fields={"view": view})
        assert answer.status == 200
        assert answer.data == world.get("/").data


def test_a_run_is_shown_before_the_table_of_runs_has_it(world: World) -> None:
    """Its executions come from raw rows; the table of runs, written later, only says where to look."""
    at = time.time() - 600
    for run in ("fresh-1", "fresh-2"):
        world.store.command(
            "INSERT INTO metrics (timestamp, metric_type, test_suite, test_id, status, value, run_id, attempt) SELECT "
            f"fromUnixTimestamp64Milli({int(at * 1000)}), 'Duration', 'auth', 'auth-1', "
            f"if(number = 2, 'passed', 'retried'), 100 + number, '{run}', number FROM numbers(1, 2)"
        )
    assert [(row["verdict"], row["duration_ms"]) for row in as_dicts(ask(world, "run_tests", run="fresh-1"))] == [
        ("passed", 102.0)
    ]
    pair = as_dicts(ask(world, "run_pair", run="fresh-1", other="fresh-2"))
    assert [(row["left_ms"], row["right_ms"], row["right_verdict"]) for row in pair] == [(102.0, 102.0, "passed")]


def test_a_filter_that_is_not_set_is_not_asked() -> None:
    """An empty filter is left out, with the columns that only it names; one that is set stays a parameter."""
    sql = resources.queries(FILE)["durations"].sql
    now_s = 1_700_000_000
    for chosen in ("", "auth' OR 1"):
        text = written_out(sql, parameters({"suite": chosen}, now_s), lambda _table, _from_s: set())
        assert ("test_suite = {suite:String}" in text) == bool(chosen)
        assert ("w.test_suite" in text or "test_suite," in text) == bool(chosen)
        assert "{environment:String}" not in text
        assert "auth'" not in text


def test_a_figure_without_any_filter_set_answers(world: World) -> None:
    """Every query of sql/page.sql runs where nothing is chosen, also one that only filters would be filled in."""
    for name in NAMES:
        assert ask(world, name)["sql"], name
