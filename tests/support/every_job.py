"""Everything that the product says to ClickHouse and to Redis, said once, for tests of rights and of clusters.

``play`` builds the service that ``pipeline run`` builds and lets it do everything: drain, every job, every query, the
page, dead letters, audit, doctor. No step stops at an error; what each failed with stands in the result.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.alerts import commands as alerts
from pipeline.alerts.rules.load import load
from pipeline.base import config, resources
from pipeline.base.clock import iso
from pipeline.base.errors import PipelineError, StoreOutage
from pipeline.buffer.books import Books
from pipeline.deliver import dead_letters
from pipeline.demo.simulator import SimulatedPlatform
from pipeline.jobs.coarser import CoarserJob
from pipeline.operate import doctor
from pipeline.operate.audit import AuditReport, audit
from pipeline.operate.commands import roll_up
from pipeline.operate.findings import Finding
from pipeline.operate.service import Service
from pipeline.operate.status import gather
from pipeline.operate.wiring import build
from pipeline.store.client import Store
from pipeline.web import figures

MINUTES = 12
RATE = 2.0
PATIENCE_S = 240.0
_SPAN = "(from_s = 1700000000, to_s = 1700600000, step_s = 86400)"
VIEWS_WITH_PARAMETERS = {
    "metrics_over": "metrics_over(span_s = 3600)",
    **{name: name + _SPAN for name in ("windows_of", "suites_of", "vitals_of")},
}


@dataclass
class Played:
    """What came of it. ``failed``: by step, the error; ``steps``: all that were taken."""

    failed: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    audits: list[AuditReport] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    letters: int = 0
    trouble: list[str] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    retries: int = 0

    def step(self, name: str, action: Callable[[], Any]) -> Any:
        """Do it; remember what it failed with."""
        self.steps.append(name)
        try:
            return action()
        except (PipelineError, ValueError, AssertionError) as error:
            self.failed[name] = f"{type(error).__name__}: {error}"
            return None


def play(settings: config.Settings) -> Played:
    """All of it, once."""
    service = build(settings, threading.Event(), role="run", any_port=True, need_store=True)
    played = Played()
    try:
        service.start(scheduled=False)
        now_ms = service.clock.now_ms()
        _lose_a_reply(service)
        items = _items(now_ms)
        for turn, part in enumerate((items[::2], items[1::2])):
            played.step(f"drain, turn {turn}", lambda part=part: _push(service, part))
            _jobs(played, service, turn)
        request = {"from_ms": now_ms - 900_000, "to_ms": now_ms}
        played.step("rollup --from", lambda: roll_up(service, request, lambda *_: None))
        # As in two days, when the hour and the day of these windows are over.
        coarser = CoarserJob(service.store, 0.0)
        later_ms = now_ms + 2 * 86_400_000
        played.step("hours and days", lambda: coarser.write([now_ms // 300_000 * 300 - 600], later_ms))
        played.step("hours and days, what is missing", lambda: coarser.fill(later_ms))
        ask_everything(played, service.store)
        rules = load(settings.alerts.rules_file)
        played.step("rules replay", lambda: alerts.replay(service.store, rules, now_ms - 900_000, now_ms))
        played.step("alerts silence", lambda: alerts.silence(settings, service.link, ["rule=x"], 1000))
        played.step("alerts ls", lambda: alerts.list_alerts(settings, service.link))
        _letters(played, service)
        played.step("write marks", lambda: service.run_job("ledger"))
        _judge(played, service)
    finally:
        service.stop(within_s=PATIENCE_S)
    return played


def ask_everything(played: Played, store: Store) -> None:
    """Every view, every named query, every figure of the page."""
    for file in sorted(resources.path("sql/views").glob("*.sql")):
        name = VIEWS_WITH_PARAMETERS.get(file.stem, file.stem)
        played.step(f"view {file.stem}", lambda name=name: store.query(f"SELECT * FROM {name} LIMIT 5"))
    now_ms = time.time_ns() // 1_000_000
    for name, query in resources.queries().items():
        given = query.values({one.name: "x" for one in query.parameters if one.default is None}, now_ms)
        played.step(f"query {name}", lambda query=query, given=given: store.query(query.sql, given))
    values = figures.parameters({}, int(time.time()))
    with contextlib.closing(figures.ReaderPool(store.clone)) as handles:
        for name in resources.queries(figures.FILE):
            played.step(f"figure {name}", lambda name=name: figures.figure(handles, name, values))
        played.step("figure schema", lambda: figures.schema(handles, store.database))


def _push(service: Service, items: Sequence[bytes]) -> None:
    """As a producer does, and wait until each is stored or refused."""
    service.link.database("metrics").lpush(service.settings.buffer.keys[0], *items)
    until_s = time.monotonic() + PATIENCE_S
    while (books := service.books()).waiting or books.in_flight:
        assert time.monotonic() < until_s, f"not drained: {books.as_dict()}, {service.trouble()}"
        time.sleep(0.02)


def _jobs(played: Played, service: Service, turn: int) -> None:
    """Each scheduled job once."""
    for job in service.jobs:
        name = f"job {job.name}, turn {turn}"
        played.steps.append(name)
        if not service.run_job(job.name):
            played.failed[name] = service.schedule.states[job.name].trouble


def _letters(played: Played, service: Service) -> None:
    """List, show, replay, drop; what was replayed is drained again."""
    store, buffers, now_ms = service.store, service.buffers, service.clock.now_ms()
    found = played.step("dlq ls", lambda: dead_letters.letters(store, buffers)) or []
    played.letters = len(found)
    if found:
        played.step("dlq show", lambda: dead_letters.letter(store, buffers, found[0].name))
    played.step("dlq replay", lambda: dead_letters.replay(store, buffers, found[:1], now_ms))
    played.step("dlq drop", lambda: dead_letters.drop(store, buffers, found[1:2], now_ms))


def _judge(played: Played, service: Service) -> None:
    """What the product says of itself."""
    played.step("drain the last", lambda: _push(service, [b"{"]))
    now_ms = service.clock.now_ms()
    for full in (True, False):
        report = played.step("audit", lambda full=full: audit(service.store, service.buffers, full=full, now_ms=now_ms))
        played.audits += [report] if report is not None else []
    played.books = service.books()
    played.trouble = gather(service.settings, service.link, service.buffers, service.store).trouble
    found = doctor.examine(service.settings, service.link, service.store)
    played.findings = {finding.check: finding for finding in found}
    played.retries = service.drainers[0].activity.retries
    for table in ("metrics", "metrics_1min", "metrics_5min", "web_vitals", "runs", "alerts", "dead_letters", "ledger"):
        played.rows[table] = service.store.rows(f"SELECT count() FROM {table}")[0][0]


def _items(now_ms: int) -> list[bytes]:
    """Some minutes of the simulated platform, runs with attempts that were retried, and things that are no metrics."""
    found = SimulatedPlatform().metrics(now_ms - MINUTES * 60_000, now_ms - 60_000, RATE)
    for number in range(30):
        test = {
            "metric_type": "duration",
            "test_id": f"t{number % 10}",
            "test_suite": "auth",
            "test_name": f"T{number}",
        }
        run = {"run_id": f"r{number // 10}", "job": "a", "branch": "main", "commit": "c", "error_type": "timeout"}
        for attempt, status in ((1, "retried"), (2, "passed" if number % 3 else "failed")):
            at = iso(now_ms - 600_000 + number * 1000 + attempt)
            row = test | run | {"timestamp": at, "value": 100 + number, "status": status, "attempt": attempt}
            found.append(json.dumps(row).encode())
    return [*found, b"no json", b'{"metric_type": "duration"}', b"{}", b"\xff"]


def _lose_a_reply(service: Service) -> None:
    """The next insert lands and its reply is lost: it is read back, on a cluster from every replica."""
    handle = service.drainers[0].store
    insert = handle.insert

    def once(table: str, rows: pa.Table, *, token: str = "") -> int:
        insert(table, rows, token=token)
        handle.insert = insert  # type: ignore[method-assign]
        raise StoreOutage("the reply is lost")

    handle.insert = once  # type: ignore[method-assign]
