"""What people see in a terminal, as tables on stdout.

Every text that reaches a table is made printable there, whatever it holds, and is never read as markup.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.base.text import printable
from pipeline.buffer.books import UNKNOWN
from pipeline.collect.told import quiet
from pipeline.store.results import QueryResult

if TYPE_CHECKING:
    from pipeline.base.resources import Query
    from pipeline.deliver.dead_letters import Letter
    from pipeline.operate.audit import AuditReport
    from pipeline.operate.findings import Finding
    from pipeline.operate.status import Status

_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}
_WIDE = 200
"""Columns assumed where no terminal tells: lines in a pipe must not be broken."""

_MAX_CELL = 60
_FILLS = {
    "rows": ("items not stored", "{:,.0f}", "high_water_rows"),
    "age_s": ("oldest item not stored", "{:,.1f} s", "high_water_age_s"),
    "memory_pct": ("redis memory in use", "{:.1f} %", "high_water_memory_pct"),
}
"""How full the buffer is: name, form of the value, and the setting that holds its limit."""


def stdout() -> Console:
    """The console for facts; without colours and breaks where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def print_facts(facts: dict[str, Any]) -> None:
    """One fact a line."""
    table = _plain_table()
    for name, value in facts.items():
        table.add_row(name, _shown(value))
    stdout().print(table)


def print_status(status: Status) -> None:
    """The whole status, once."""
    console = stdout()
    console.print(status_table(status))
    for heading, table in platform_tables(status):
        console.print("")
        console.print(Text(heading, style="bold"))
        console.print(table)


def live_status(gather: Callable[[], Status], interval_s: float) -> None:
    """The status again and again, with rates, until q or Ctrl-C."""
    console = Console()
    before, at = gather(), time.monotonic()
    with Live(status_table(before), console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while not quit_pressed(interval_s):
            status, now = gather(), time.monotonic()
            live.update(status_table(status, rates_between(before, status, now - at)), refresh=True)
            before, at = status, now


def rates_between(before: Status, after: Status, seconds: float) -> dict[str, float]:
    """Items a second between two looks; nothing where one of them is unknown."""
    if before.books is None or after.books is None:
        return {}
    grown = {name: getattr(after.books, name) - getattr(before.books, name) for name in _RATED}
    return {name: count / max(seconds, 1e-9) for name, count in grown.items()}


_RATED = ("stored", "sealed", "dead_lettered")


def status_table(status: Status, rates: dict[str, float] | None = None) -> Table:
    """A status as a table; with ``rates`` (rows a second by name) a third column."""
    table = _plain_table(columns=3)
    for name, value in (status.books.as_dict() if status.books is not None else UNKNOWN).items():
        if name == "pushed":
            continue  # only its producers know
        rate = f"{rates[name]:,.0f}/s" if rates and name in rates else ""
        style = "red" if name in ("unaccounted", "set_aside") and value else ""
        table.add_row(name, Text("unknown" if value is None else f"{value:,}", style=style), rate)
    for fill in status.highest():
        name, form, setting = _FILLS[fill.name]
        style = "red" if fill.is_passed else ""
        of_limit = f"{fill.pct:,.0f} % of buffer.{setting}"
        table.add_row(*(Text(text, style=style) for text in (name, form.format(fill.value), of_limit)))
    table.add_row("minutes to roll up", _known(status.dirty_minutes), "")
    memory = status.redis_memory_bytes
    table.add_row("redis memory", "unknown" if memory is None else f"{memory / 1048576:,.1f} MiB", "")
    age = "" if status.newest_row_age_s is None else f"newest {status.newest_row_age_s} s ago"
    table.add_row("rows in ClickHouse", _known(status.rows), age)
    kept = "" if status.kept_h is None else f"kept for {status.kept_h:,} h"
    table.add_row("items accepted", "unknown" if status.retention_h is None else f"{status.retention_h:,} h back", kept)
    table.add_row("open dead letters", _known(status.dead_letters_open), "")
    table.add_row("alerts firing", Text(_known(status.firing), style="red" if status.firing else ""), "")
    if status.collect:
        keys, items = (sum(int(one.get(name, 0)) for one in status.collect.values()) for name in ("keys", "items"))
        table.add_row("keys collected", f"{keys:,}", f"{items:,} metrics in the last look")
    for name, one in sorted((status.collect or {}).items()):
        if one.get("trouble"):
            trouble = _trouble_of(one)
            table.add_row(f"collect {name}", Text(trouble, style="yellow"), "")
    for service in status.services or []:
        table.add_row("running", str(service["name"]), str(service.get("role", "")))
    if status.services is not None and not status.services:
        table.add_row("running", Text("no service: items wait in Redis", style="yellow"), "")
    for trouble in status.trouble:
        table.add_row(Text("trouble", style="red"), Text(trouble, style="red"), "")
    return table


def _trouble_of(one: Mapping[str, Any]) -> str:
    """What is wrong with a collector; of a channel, or of a database that is skipped, no keys are counted."""
    keys = one.get("troubled_keys", 0)
    return f"{one['trouble']} ({keys} keys)" if keys else str(one["trouble"])


def _known(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def platform_tables(status: Status) -> list[tuple[str, Table]]:
    """The platform's Redis: the server, each database, and each collector that found something."""
    found: list[tuple[str, Table]] = []
    told = status.redis_health or {}
    if figures := told.get("figures"):
        server = _plain_table()
        for name, value in figures.items():
            server.add_row(name.replace("_", " "), f"{value:,.10g}")
        found.append(("Redis", server))
    if told.get("databases"):
        databases = _headed("database", "holds", ">keys", ">with a TTL", ">mean TTL, s")
        for one in told["databases"]:
            numbers = (one.get(name) for name in ("keys", "expires", "avg_ttl_s"))
            databases.add_row(str(one["database"]), ", ".join(one["names"]), *(_number(value) for value in numbers))
        found.append(("Databases", databases))
    states = status.collect or {}
    silent = set(quiet(states))
    if len(silent) < len(states):
        collectors = _headed("collector", ">last look, s ago", ">keys", ">items", ">gaps", "trouble")
        for name, one in sorted(states.items()):
            if name not in silent:
                ago = max(0.0, time.time() - int(one.get("last_ms", 0)) / 1000)
                told_of = _trouble_of(one) if one.get("trouble") else ""
                counts = (_number(one.get(name, 0)) for name in ("keys", "items", "gaps"))
                collectors.add_row(name, f"{ago:,.0f}", *counts, Text(told_of, style="yellow"))
        found.append((f"Collectors ({len(silent)} more found nothing)" if silent else "Collectors", collectors))
    return found


def _headed(*headings: str) -> Table:
    """A table with headings; ``>`` before one has its numbers to the right."""
    table = _Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading[0] == ">" else "left", overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.10g}"


def print_findings(findings: Sequence[Finding]) -> None:
    """The doctor's findings, each that is not well with its fix, and the sum of them."""
    table = _plain_table(columns=3)
    for finding in findings:
        table.add_row(Text(finding.severity, style=_COLOURS[finding.severity]), finding.check, Text(finding.detail))
        if finding.fix:
            table.add_row("", "", Text(f"fix: {finding.fix}", style="bold"))
    console = stdout()
    console.print(table)
    severities = [finding.severity for finding in findings]
    warned = f", {severities.count('warn')} to be warned of" if "warn" in severities else ""
    if "bad" in severities:
        console.print(Text(f"{severities.count('bad')} bad{warned}: a promise cannot be kept", style="red"))
    else:
        console.print(Text(f"nothing bad{warned}", style="yellow" if warned else "green"))


def print_audit(report: AuditReport) -> None:
    """The books, what was checked, and what is wrong."""
    console = stdout()
    table = _plain_table()
    for name, value in report.books.as_dict().items():
        if value is not None:
            table.add_row(name, f"{value:,}")
    table.add_row("chunks checked", f"{report.chunks:,} ({report.scope})")
    for name in ("missing", "duplicated", "altered", "unknown"):
        value = getattr(report, name)
        table.add_row(name, Text(f"{value:,}", style="red" if value else ""))
    console.print(table)
    for finding in report.findings:
        console.print(Text(f"{finding.kind}: {finding.where}: {finding.detail}", style="red"))
    if report.ok:
        console.print(Text("the books balance", style="green"))
    else:
        console.print(Text("the books do not balance", style="red"))


def print_letters(letters: Sequence[Letter]) -> None:
    """Dead letters, one a line."""
    table = _Table(box=None, pad_edge=False)
    for heading in ("name", "reason", "detail", "attempts", "mark", "payload"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=_MAX_CELL)
    for letter in letters:
        payload = printable(letter.payload.replace(b"\n", b" "))
        table.add_row(letter.name, letter.reason, letter.detail, str(letter.attempts), letter.mark, payload)
    stdout().print(table if letters else "no dead letters")


def print_rows(rows: Sequence[dict[str, Any]], nothing: str) -> None:
    """Records with the same fields, one a line."""
    if not rows:
        stdout().print(nothing)
        return
    table = _Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    stdout().print(table)


def print_result(result: QueryResult) -> None:
    """A query's result."""
    table = _Table(box=None, pad_edge=False)
    for number, name in enumerate(result.names):
        table.add_column(name, justify="right" if result.is_number(number) else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*(_shown(value, none="NULL") for value in row))
    stdout().print(table if result.rows else "no rows")


def print_queries(named: Mapping[str, Query]) -> None:
    """Named queries: what they answer and what they take."""
    for name, query in named.items():
        stdout().print(Text(name, style="bold"))
        stdout().print(Text(f"  {query.sentence}"))
        takes = [
            f"{one.name}={one.default if one.default else ('…' if one.default is None else 'all')}"
            for one in query.parameters
        ]
        if takes:
            stdout().print(Text(f"  {'  '.join(takes)}", style="dim"))


class _Table(Table):
    """A table whose cells are texts as they are: no markup, no control characters."""

    def add_column(self, header: Any = "", *arguments: Any, **options: Any) -> None:
        super().add_column(Text(printable(str(header))), *arguments, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(_harmless(cell) for cell in cells), **options)


def _harmless(cell: Any) -> Text:
    if isinstance(cell, Text):
        return Text(printable(cell.plain), style=cell.style)
    return Text(printable(str(cell)))


def _plain_table(columns: int = 2) -> Table:
    table = _Table(box=None, show_header=False, pad_edge=False)
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table


def _shown(value: Any, none: str = "–") -> str:
    """A value for people."""
    if value is None:
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_shown(inner, none)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(inner, none) for inner in value)
    if isinstance(value, bytes):
        return printable(value)
    return str(value)


def quit_pressed(wait_s: float) -> bool:
    """Wait; True when q came in meanwhile. Without a terminal to read keys from, only wait."""
    if not sys.stdin.isatty():
        time.sleep(wait_s)
        return False
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        ready, _, _ = select.select([sys.stdin], [], [], wait_s)
        return bool(ready) and sys.stdin.read(1) in "qQ"
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
