"""Commands that only read: status, top, tap, doctor, audit, query."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pipeline.base import config
from pipeline.base.errors import PipelineError, UsageError
from pipeline.base.nearest import closest
from pipeline.cli.group import JSON, command, opened_parts, pair, print_json, say, write_bytes

if TYPE_CHECKING:
    from pipeline.operate.status import Status


@contextmanager
def _looked(settings: config.Settings) -> Iterator[Callable[[], Status]]:
    """A look at the pipeline, to be repeated; what cannot be opened is trouble in it."""
    from pipeline.base.redis_link import RedisLink
    from pipeline.buffer.buffer import open_buffers
    from pipeline.operate.status import gather
    from pipeline.store.client import Store

    link = RedisLink.open(settings, start=False)
    store: Store | None = None
    trouble = ""
    try:
        store = Store.open(settings, role="reader")
    except UsageError:
        raise
    except PipelineError as error:
        trouble = str(error)
    try:
        buffers = open_buffers(settings, link)
        yield lambda: gather(settings, link, buffers, store, trouble)
    finally:
        if store is not None:
            store.close()
        link.close()


@command()
@click.option("--live", is_flag=True, help="Only check that the processes of this data directory are alive.")
@JSON
def status(settings: config.Settings, live: bool, as_json: bool) -> None:
    """Depth, rates, lag and the ledger; unknown values are null. Exit 1 when something is wrong."""
    if live:
        _show_life(settings, as_json)
        return
    from pipeline.cli.console import print_status

    with _looked(settings) as look:
        found = look()
    if as_json:
        print_json(found.as_dict())
    else:
        print_status(found)
    if found.trouble:
        sys.exit(1)


def _show_life(settings: config.Settings, as_json: bool) -> None:
    from pipeline.operate import liveness

    lives = liveness.look(settings.data_dir)
    trouble = [life.trouble for life in lives if life.trouble]
    if not lives:
        trouble = [f"no process of the pipeline runs on {settings.data_dir}"]
    if as_json:
        print_json({"live": not trouble, "processes": [vars(life) for life in lives], "trouble": trouble})
    else:
        for life in lives:
            say(life.trouble or f"process {life.pid} ({life.role}) lives")
        if not lives:
            say(trouble[0])
    if trouble:
        sys.exit(1)


@command()
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.2),
    default=1.0,
    show_default=True,
    help="Refresh interval in seconds.",
)
@JSON
def top(settings: config.Settings, interval_s: float, as_json: bool) -> None:
    """A live view of the pipeline; q or Ctrl-C ends it. Needs a terminal; with --json it prints once."""
    from pipeline.cli.console import live_status, rates_between

    if as_json:
        with _looked(settings) as look:
            before, at_s = look(), time.monotonic()
            time.sleep(interval_s)
            found = look()
            rates = rates_between(before, found, time.monotonic() - at_s)
        print_json(found.as_dict() | {f"{name}_per_s": round(rate, 1) for name, rate in rates.items()})
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal; in a pipe use 'pipeline top --json'")
    with _looked(settings) as look:
        live_status(look, interval_s)


@command()
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many items.")
@click.option("--grep", default="", help="Only items that contain this text.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per item: its buffer and its text.")
def tap(settings: config.Settings, count: int | None, grep: str, as_json: bool) -> None:
    """Print a sample of incoming items, one per line; consumes nothing."""
    from pipeline.base.redis_link import RedisLink
    from pipeline.buffer.buffer import open_buffers
    from pipeline.operate.process import stopping

    buffers = open_buffers(settings, RedisLink.open(settings, start=False))
    shown = 0
    wanted = grep.encode()
    with stopping() as stop:
        last: list[list[bytes]] = [[] for _ in buffers]
        while not stop.is_set():
            for index, buffer in enumerate(buffers):
                newest = buffer.peek(10)
                for item in reversed([item for item in newest if item not in last[index] and wanted in item]):
                    text = item.decode("utf-8", "backslashreplace")
                    if as_json:
                        print_json({"buffer": buffer.key, "item": text})
                    else:
                        say(text.replace("\n", " "))
                    shown += 1
                    if count is not None and shown >= count:
                        return
                last[index] = newest or last[index]
            stop.wait(0.02)


@command()
@JSON
def doctor(settings: config.Settings, as_json: bool) -> None:
    """Check Redis, ClickHouse and this machine; each finding names its fix. Exit 1 when a promise cannot be kept."""
    from pipeline.cli.console import print_findings
    from pipeline.operate.doctor import examine, open_for_doctor

    link, store, opening = open_for_doctor(settings)
    try:
        findings = [*opening, *examine(settings, link, store)]
    finally:
        for opened in (store, link):
            if opened is not None:
                opened.close()
    if as_json:
        print_json({"ok": all(f.severity != "bad" for f in findings), "findings": [vars(f) for f in findings]})
    else:
        print_findings(findings)
    if any(finding.severity == "bad" for finding in findings):
        sys.exit(1)


@command()
@click.option("--full", is_flag=True, help="Check every chunk that is still kept, not only those since the last audit.")
@JSON
def audit(settings: config.Settings, full: bool, as_json: bool) -> None:
    """Prove that the books balance: every sealed item is stored, dead-lettered or in flight, once. Exit 1 if not."""
    from pipeline.cli.console import print_audit
    from pipeline.operate.audit import audit as check

    with opened_parts(settings, need_store=True) as (_, buffers, store):
        report = check(store, buffers, full=full, now_ms=time.time_ns() // 1_000_000)
    if as_json:
        print_json(report.as_dict())
    else:
        print_audit(report)
    if not report.ok:
        sys.exit(1)


@command()
@click.argument("sql", default="")
@click.option("--list", "list_them", is_flag=True, help="The named queries, with their parameters and defaults.")
@click.option("--since", help="Start of the span: ISO-8601, or a span back from now such as 7d.")
@click.option("--until", help="End of the span; default now.")
@click.option("--format", "output", default="", help="A ClickHouse format such as CSVWithNames; default: a table.")
@click.option("--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Fills {NAME:Type} in the query.")
@JSON
def query(
    settings: config.Settings,
    sql: str,
    list_them: bool,
    since: str | None,
    until: str | None,
    output: str,
    parameters: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask ClickHouse: SQL, or a named query (--list shows them). Read-only."""
    from pipeline.base import resources
    from pipeline.cli.console import print_queries, print_result
    from pipeline.store import results

    named = resources.queries()
    if list_them:
        if as_json:
            print_json({"queries": [query.as_dict(name) for name, query in named.items()]})
        else:
            print_queries(named)
        return
    if not sql:
        raise UsageError("a query is SQL or a name; 'pipeline query --list' shows the names")
    if re.fullmatch(r"\w+", sql) and sql not in named:
        near = closest(sql, named)
        raise UsageError(f"there is no named query {sql!r}{f'; did you mean {near!r}?' if near else ''} (see --list)")
    asked = named.get(sql) or resources.Query("", sql)
    given = dict(pair(parameter) for parameter in parameters)
    given |= {name: value for name, value in (("since", since), ("until", until)) if value is not None}
    text = results.one_statement(asked.sql)
    values = asked.values(given, time.time_ns() // 1_000_000)
    with opened_parts(settings, need_store=True) as (_, _, store):
        if output:
            write_bytes(store.raw(text, values, output))
            return
        result = results.parse(store.raw(text, values, results.FORMAT))
    if as_json:
        print_json(result.as_dict())
    else:
        print_result(result)
