"""The page in a real browser: headless Chromium, on real data."""

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import missing

from pipeline.base.config import DrainerSettings, Settings
from pipeline.deliver.drainer import Drainer
from pipeline.jobs.vitals import VitalsJob
from pipeline.metric import Limits
from pipeline.web.site import Site
from web.conftest import World
from web.seeding import seed

OpenSite = Callable[..., World]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
VIEWS = ("now", "tests", "runs", "vitals", "alerts", "platform", "letters", "ask")
PATIENCE_MS = 60_000
AXE = "axe-core@4.10.3"
SCREENSHOTS = os.environ.get("PIPELINE_SCREENSHOTS")
"""Where pictures are kept; read here, because every test runs without the pipeline's variables."""


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    directory = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm") or missing("npm is not installed")
    packed = subprocess.run([npm, "pack", "--silent", AXE], cwd=directory, capture_output=True, text=True)
    if packed.returncode:
        missing(f"axe-core cannot be fetched: {packed.stderr[-200:]}")
    with tarfile.open(directory / packed.stdout.strip().splitlines()[-1]) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member
        return member.read().decode()


@pytest.fixture(scope="module")  # Playwright keeps an event loop running, in which asyncio.run fails
def browser() -> Iterator[Any]:
    """Chromium; without it the test is skipped at a desk and fails in CI."""
    if CHROMIUM is None:
        missing("Chromium is not installed")
    sync = pytest.importorskip("playwright.sync_api") if not os.environ.get("CI") else __import__(
        "playwright.sync_api", fromlist=["sync_playwright"]
    )  # fmt: skip
    with sync.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Reader:
    """A browser with the page open, and what it complained of."""

    def __init__(self, browser: Any, world: World, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self._note(said.type, said.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))
        self.page.goto(world.site.address)
        self.page.wait_for_selector("main h1")

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def open(self, query: str) -> None:
        """One view, loaded."""
        self.page.goto(self.page.url.split("?")[0] + f"?{query}")
        self.page.wait_for_selector("main h1")
        self.page.wait_for_selector("main .loading", state="detached")
        self.page.wait_for_selector("#live.good")

    def close(self) -> None:
        """Leave."""
        self.context.close()


@pytest.fixture
def world(open_site: OpenSite) -> World:
    """A site over seeded tables."""
    world = open_site()
    seed(world.store, world.buffer)
    world.site.pulse.look()
    return world


def violations(reader: Reader, axe: str) -> list[str]:
    reader.page.evaluate(axe)
    found = reader.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_every_view_renders_and_can_be_used_by_everybody(browser: Any, world: World, axe: str, scheme: str) -> None:
    """Each view with real data: no console error, no violation of accessibility rules, in light and dark."""
    reader = Reader(browser, world, color_scheme=scheme, viewport={"width": 1360, "height": 900})
    for view in VIEWS:
        reader.open(f"view={view}")
        # What was asked while the page still loaded is what the view asks.
        assert reader.page.evaluate("[...window.early.answers.keys()]") == [], view
        assert violations(reader, axe) == [], view
        if SCREENSHOTS:
            reader.page.screenshot(path=Path(SCREENSHOTS) / f"{view}-{scheme}.png", full_page=True)
    assert reader.complaints == []
    reader.close()


def test_numbers_are_those_of_the_tables(browser: Any, world: World) -> None:
    """What stands in the page is what SQL says, filters live in the address, and a test's history opens."""
    reader = Reader(browser, world)
    reader.open("view=tests")
    failed, passed, total = world.store.rows(
        "SELECT sum(failed), sum(passed), sum(total) FROM metrics_5min WHERE test_suite = 'checkout'"
    )[0]
    row = reader.page.locator("section[aria-label=Suites] tbody tr", has_text="checkout").inner_text().split("\t")
    assert row[1].strip() == f"{100 * passed / total:.1f} %"
    assert (row[2].strip(), row[3].strip()) == (f"{total:,}", f"{failed:,}")
    reader.page.select_option("select[name=suite]", "auth")
    reader.page.wait_for_url("**suite=auth**")
    reader.page.wait_for_selector("section[aria-label=Suites] tbody tr >> nth=0")
    reader.page.reload()
    reader.page.wait_for_selector("section[aria-label=Suites] tbody tr")
    assert reader.page.locator("section[aria-label=Suites] tbody tr").count() == 1
    reader.open("view=tests&suite=checkout&test=checkout-001")
    assert reader.page.locator("section[aria-label=Attempts] tbody tr").count() == 5
    assert reader.page.locator(".chart canvas").count() == 1
    reader.open("view=runs&run=run-7")
    assert reader.page.locator("section[aria-label='What ran'] tbody tr").first.inner_text().count("failed") == 1
    assert reader.complaints == []
    reader.close()


def test_by_keyboard_alone(browser: Any, world: World) -> None:
    """Tab reaches the views, Enter opens one; a silence is made without a pointer; Escape leaves a dialog."""
    reader = Reader(browser, world)
    page = reader.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("nav a[data-view=alerts]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("section[aria-label=Now] tbody tr")
    page.get_by_role("button", name="Silence").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.locator("dialog input[name=comment]").focus()
    page.keyboard.type("planned")
    page.keyboard.press("Enter")
    page.wait_for_selector("section[aria-label=Silences] tbody tr")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    assert "planned" in page.locator("section[aria-label=Silences] tbody").inner_text()
    reader.close()


def test_a_question_and_its_answer(browser: Any, world: World) -> None:
    """Ctrl+Enter runs it, the answer is a table, the link reproduces it, an error is ClickHouse's own sentence."""
    reader = Reader(browser, world)
    reader.open("view=ask")
    reader.page.fill("#sql", "SELECT test_suite, sum(total) AS n FROM metrics_5min GROUP BY test_suite ORDER BY n")
    reader.page.press("#sql", "Control+Enter")
    reader.page.wait_for_selector("[aria-label^=Answer] tbody tr")
    shared = reader.page.url
    reader.page.goto(shared)
    reader.page.wait_for_selector("[aria-label^=Answer] tbody tr")
    assert "checkout" in reader.page.locator("[aria-label^=Answer] tbody").inner_text()
    assert reader.complaints == []
    reader.page.fill("#sql", "SELECT file('/etc/passwd')")
    reader.page.press("#sql", "Control+Enter")
    reader.page.wait_for_selector("pre.error")
    reader.close()


SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => list.getEntries().forEach((shift) => window.shifts.push(
  [shift.value, shift.sources.map(({ node }) => node?.outerHTML?.slice(0, 100) || String(node?.nodeName))],
))).observe({ type: 'layout-shift', buffered: true });
"""


WITHOUT_BUTTONS = """(() => {
  const tools = document.querySelector('.tools'), before = tools.getBoundingClientRect();
  for (const button of tools.querySelectorAll('button')) button.remove();
  const after = tools.getBoundingClientRect();
  return [after.x - before.x, after.y - before.y];
})()"""


LAPTOP = {"viewport": {"width": 1360, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DEVICES = [pytest.param(LAPTOP, id="laptop", marks=pytest.mark.thorough), pytest.param(PHONE, id="phone")]


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_moves_while_a_view_loads_or_sticks_out(browser: Any, world: World, device: dict[str, Any]) -> None:
    """CLS is 0: what was seen once stays where it is while figures come in, and no view scrolls sideways; on a phone
    (390 pixels) and, with ``--thorough``, on a laptop."""
    reader = Reader(browser, world, **device)
    reader.context.add_init_script(SHIFTS)
    for view in VIEWS:
        reader.open(f"view={view}")
        reader.page.wait_for_selector("main .is-loading", state="detached")
        assert reader.page.evaluate("window.shifts") == [], view
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= device["viewport"]["width"], view
    assert reader.page.evaluate(WITHOUT_BUTTONS) == [0, 0], "painted before its end is read, the header is the same"
    reader.close()


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_moves_when_something_goes_wrong(
    browser: Any, world: World, monkeypatch: pytest.MonkeyPatch, device: dict[str, Any]
) -> None:
    """What the doctor finds while the page is looked at appears on top, and what stands below it stays where it is."""
    monkeypatch.setattr("pipeline.web.pulse.EXAMINE_S", 0.0)
    reader = Reader(browser, world, **device)
    reader.context.add_init_script(SHIFTS)
    try:
        for view in ("now", "platform"):
            world.parts.link.database("metrics").config_set("maxmemory-policy", "noeviction")
            world.site.pulse.look()
            reader.open(f"view={view}")
            reader.page.wait_for_selector("main .is-loading", state="detached")
            world.parts.link.database("metrics").config_set("maxmemory-policy", "allkeys-lru")
            reader.page.get_by_text("allkeys-lru").first.wait_for()
            assert reader.page.evaluate("window.shifts") == [], view
    finally:
        world.parts.link.database("metrics").config_set("maxmemory-policy", "noeviction")
    reader.close()


def test_fields_for_the_parameters_of_a_question(browser: Any, world: World) -> None:
    """Each {name:Type} of the question is a field; what is typed fills it, and stands in the link and comes back."""
    reader = Reader(browser, world)
    reader.open("view=ask")
    reader.page.fill("#sql", "SELECT sum(total) AS n FROM metrics_5min WHERE test_suite = {suite:String}")
    field = reader.page.get_by_role("group", name="Parameters").get_by_label("suite")
    field.fill("checkout")
    field.press("Enter")
    answer = reader.page.locator("[aria-label^=Answer] tbody")
    answer.wait_for()
    counted = world.store.rows("SELECT sum(total) FROM metrics_5min WHERE test_suite = 'checkout'")[0][0]
    assert answer.inner_text().strip() == f"{counted:,}"
    assert "param_suite=checkout" in reader.page.url
    reader.page.goto(reader.page.url)
    answer.wait_for()
    assert field.input_value() == "checkout"
    assert answer.inner_text().strip() == f"{counted:,}"
    reader.close()


def test_names_of_any_length_leave_room(browser: Any, world: World) -> None:
    """A suite of 300 letters hides no figure, and a test without a suite has a history, opened by click or by link."""
    columns = (
        "window_start, metric_type, test_suite, test_id, samples, total, passed, failed, flaky, sum, avg, "
        "min, max, histogram, revision"
    )
    world.store.command(
        f"INSERT INTO metrics_5min ({columns}) SELECT toStartOfFiveMinutes(now('UTC')) - 300, 'duration', "
        "if(number = 0, repeat('x', 300), ''), if(number = 0, 'long', 'lone'), 1, 1, 1, 0, 0, 1e12, 1e12, 1e12, 1e12, "
        "map(toInt32(36000), toUInt64(1)), 1 FROM numbers(2)"
    )
    reader = Reader(browser, world, **LAPTOP)
    reader.open("view=tests")
    suites = reader.page.locator("section[aria-label=Suites] .scroll")
    assert suites.evaluate("box => box.scrollWidth <= box.clientWidth")
    link = reader.page.locator("section[aria-label='Slowest tests'] a", has_text="lone")
    address = link.evaluate("one => one.search")
    link.click()
    reader.page.get_by_text("← All tests").wait_for()
    assert reader.page.evaluate("location.search") == address
    reader.open(address[1:])
    assert reader.page.locator("section[aria-label='Duration over time'] canvas").count() == 1
    back = reader.page.get_by_text("← All tests").evaluate("one => one.search")
    assert "test=" not in back
    assert reader.complaints == []
    reader.close()


def test_what_chooses_a_vital_stands_above_what_it_chooses(browser: Any, world: World) -> None:
    """On a phone, too, where the links to the views go below the name of the page."""
    reader = Reader(browser, world, **PHONE)
    reader.open("view=vitals")
    top = "box => box.getBoundingClientRect().top"
    chooser = reader.page.locator("nav.pick").evaluate(top)
    assert chooser < reader.page.locator("section[aria-label='LCP over time']").evaluate(top)
    reader.close()


BY_DAY = "SELECT toDate('2024-01-01') + number AS day, toDecimal32(number, 1) AS n FROM numbers(4)"
DRAWN = """(() => { const { data, axes } = document.querySelector('.chart').plot;
  return { at: data[0].map((at) => new Date(at * 1000).toString().slice(4, 21)), values: data[1],
    ticks: axes[0]._values }; })()"""


def test_days_are_drawn_as_days(browser: Any, world: World) -> None:
    """A result by day is a chart whose points stand below the names of their days, also west of Greenwich."""
    reader = Reader(browser, world, **LAPTOP, timezone_id="America/New_York", locale="en-US")
    reader.open("view=ask")
    reader.page.fill("#sql", BY_DAY)
    reader.page.press("#sql", "Control+Enter")
    reader.page.wait_for_selector(".chart canvas")
    drawn = reader.page.evaluate(DRAWN)
    assert (drawn["at"][0], drawn["values"]) == ("Jan 01 2024 00:00", [0, 1, 2, 3])
    assert "2024-01-01" in reader.page.locator("[aria-label^=Answer] tbody").inner_text()
    # Within minutes labels neither repeat nor run into each other.
    reader.page.fill(
        "#sql", "SELECT toDateTime('2024-01-01 12:00:00', 'UTC') + 20 * number AS t, number FROM numbers(20)"
    )
    reader.page.press("#sql", "Control+Enter")
    reader.page.get_by_text("20 rows").wait_for()
    reader.page.wait_for_selector(".chart canvas")
    ticks = [one for one in reader.page.evaluate(DRAWN)["ticks"] if one]
    assert len(set(ticks)) == len(ticks) <= 1360 // 84
    assert reader.complaints == []
    reader.close()


def test_a_question_can_be_stopped_and_saved(browser: Any, world: World) -> None:
    """A later question is not overwritten by an earlier one; files are saved; a wrong question keeps the page."""
    reader = Reader(browser, world)
    reader.open("view=ask")
    endless = "SELECT count() FROM numbers(100000000000) WHERE cityHash64(number) = 1"
    reader.page.fill("#sql", endless)
    reader.page.press("#sql", "Control+Enter")
    reader.page.get_by_role("button", name="Stop").click()
    reader.page.get_by_text("Stopped").wait_for()
    reader.page.press("#sql", "Control+Enter")
    reader.page.fill("#sql", "SELECT 'later' AS it")
    reader.page.press("#sql", "Control+Enter")
    reader.page.get_by_role("cell", name="later").wait_for()
    with reader.page.expect_download() as download:
        reader.page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "answer.csv"
    assert Path(download.value.path()).read_text() == '"it"\n"later"\n'
    assert reader.complaints == []
    reader.page.fill("#sql", "SELECT nonsense")
    reader.page.get_by_role("button", name="Parquet").click()
    reader.page.locator("pre.error", has_text="nonsense").wait_for()
    assert reader.page.input_value("#sql") == "SELECT nonsense"
    reader.close()


def test_an_address_that_names_no_view_shows_one(browser: Any, world: World) -> None:
    """A view, a span or a vital that is not there, also by a name that every object has: the usual one is shown."""
    reader = Reader(browser, world)
    for query, heading in (
        ("view=constructor", "Now"),
        ("view=__proto__", "Now"),
        ("view=tests&span=constructor", "Tests"),
        ("view=vitals&vital=toString&span=7h", "Web Vitals"),
    ):
        reader.open(query)
        assert reader.page.inner_text("main h1") == heading
    assert reader.complaints == []
    reader.close()


def test_states_of_their_own(browser: Any, open_site: OpenSite) -> None:
    """Nothing there yet, and not signed in: each has its own text, and the latter a way in."""
    empty = open_site()
    reader = Reader(browser, empty)
    reader.open("view=tests")
    assert reader.page.get_by_text("No test ran in this span").count() >= 1
    reader.close()
    locked = open_site(web={"token": "t0ken"})
    stranger = browser.new_context().new_page()
    stranger.set_default_timeout(PATIENCE_MS)
    for view in ("platform", "tests"):  # the first has live figures alone, which would never come
        stranger.goto(f"{locked.site.url}/?view={view}")
        stranger.get_by_text("Sign in to see this").first.wait_for()
        stranger.get_by_text("not signed in").wait_for()
    stranger.get_by_role("button", name="Sign in").click()
    stranger.fill("input[name=token]", "t0ken")
    stranger.keyboard.press("Enter")
    stranger.get_by_text("No test ran in this span").first.wait_for()
    stranger.context.close()


def test_it_comes_back_after_a_restart(browser: Any, open_site: OpenSite) -> None:
    """While the service is away the page says so; once it is back the page is live again, without being loaded anew."""
    world = open_site()
    reader = Reader(browser, world)
    reader.page.wait_for_selector("#live.good")
    reader.page.evaluate("window.kept = true")
    port = int(world.site.url.rsplit(":", 1)[1])
    world.site.close()
    reader.page.wait_for_selector("#live.bad")
    again = Site(world.parts, "127.0.0.1", port)
    try:
        reader.page.wait_for_selector("#live.good")
        assert reader.page.evaluate("window.kept")
    finally:
        again.close()
        reader.close()


def test_vitals_all_the_way(browser: Any, open_site: OpenSite, settings: Settings) -> None:
    """The real web-vitals library, a real visit with a click: a report becomes a row of web_vitals and a bar here."""
    world = open_site(beacons=True)
    reader = Reader(browser, world)
    reader.open("view=tests")
    reader.page.click("#theme")
    reader.page.wait_for_timeout(500)
    reader.page.goto("about:blank")
    give_up = time.monotonic() + 60
    while world.buffer.client.llen(world.buffer.key) < 3 and time.monotonic() < give_up:
        time.sleep(0.1)
    sent = {
        metric["metric_type"]: metric["value"]
        for metric in map(json.loads, world.buffer.client.lrange(world.buffer.key, 0, -1))
    }
    assert {"lcp", "fcp", "ttfb"} <= set(sent)
    visits = {
        (metric["page"], metric["browser"], metric["environment"])
        for metric in map(json.loads, world.buffer.client.lrange(world.buffer.key, 0, -1))
    }
    assert visits == {("/", "chrome", "pipeline")}
    quick = DrainerSettings(batch_rows=100, durable_seal=False)
    Drainer(world.buffer, world.store, quick, Limits()).drain_until_empty()
    now_ms = time.time_ns() // 1_000_000
    starts = [
        start
        for (start,) in world.store.rows("SELECT DISTINCT intDiv(toUnixTimestamp(timestamp), 300) * 300 FROM metrics")
    ]
    VitalsJob(world.store, world.buffer.client, settings).write_windows(starts, now_ms)
    rows = dict(world.store.rows("SELECT vital, p75_rated FROM web_vitals WHERE page = '/' AND browser = 'chrome'"))
    # Each page that was opened on the way is a visit of its own.
    measured = [value for (value,) in world.store.rows("SELECT value FROM metrics WHERE lower(metric_type) = 'lcp'")]
    assert sent["lcp"] in measured
    assert rows["lcp"] == pytest.approx(np.quantile(measured, 0.75, method="inverted_cdf"))
    reader.page.goto(world.site.address)
    reader.open("view=vitals&vital=lcp&environment=pipeline")
    shown = reader.page.locator("main").inner_text()
    assert "LCP" in shown
    assert reader.page.locator("main svg[role=img]").count() >= 1
    assert reader.complaints == []
    reader.close()
