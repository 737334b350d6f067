"""The command ``pipeline``: asks the parts questions and prints the answers.

Exit 0: done. 1: trouble was found. 2: wrong use, said in one sentence. With ``--json`` one JSON object
goes to stdout and nothing else does; logs and progress go to stderr.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click

from pipeline import __version__, config, log
from pipeline.errors import Outage, PipelineError, UsageError

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


class _Moment(click.ParamType[int]):
    """A time: ISO-8601 (UTC unless it has a zone) or a span back from now such as 90m, 6h, 2d."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
        if value[:-1].isdigit() and value[-1:] in units:
            return int((time.time() - int(value[:-1]) * units[value[-1]]) * 1000)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither an ISO-8601 time nor a span such as 6h", param, ctx)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def main() -> NoReturn:
    """Run the command line; the errors of DESIGN's three kinds become their exit codes."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except UsageError as error:
        _fail(str(error), 2)
    except PipelineError as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(0)


def _fail(sentence: str, code: int) -> NoReturn:
    click.echo(f"pipeline: {sentence}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pipeline")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Settings file; also PIPELINE_CONFIG.")
@click.pass_context
def cli(context: click.Context, path: Path | None) -> None:
    """Metrics of browser tests: from a Redis list into ClickHouse, exactly once, and on to alerts."""
    context.obj = path


def _command(*, group: click.Group | None = None, **attributes: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A command that gets the settings as its first argument."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.pass_context
        @wraps(function)
        def with_settings(context: click.Context, /, *arguments: Any, **options: Any) -> None:
            settings = config.load(context.find_root().obj)
            log.configure(settings.log)
            function(settings, *arguments, **options)

        return (group or cli).command(**attributes)(with_settings)

    return decorate


# Running


@_command()
@click.option("--seconds", type=click.FloatRange(min=1), help="End after this long, with a summary.")
@click.option(
    "--rate", type=click.FloatRange(min=1, max=200_000), default=2000, show_default=True, help="Metrics a second."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The simulated platform is a function of it.")
@JSON
def demo(settings: config.Settings, seconds: float | None, rate: float, seed: int, as_json: bool) -> None:
    """The whole pipeline on its embedded engines, with a simulated platform pushing metrics."""
    from pipeline.demo import run_demo

    summary = run_demo(settings, seconds=seconds, rate=rate, seed=seed, quiet=as_json)
    if as_json:
        _print_json(summary)
    if summary["unaccounted"]:
        sys.exit(1)


@_command()
def run(settings: config.Settings) -> None:
    """The service: drainer, schedule, HTTP. SIGTERM drains what is claimed and ends; SIGHUP reads the rules again."""
    from pipeline.service import run_service

    with _stopping() as stop:
        run_service(settings, stop)


@_command()
@click.option("--until-empty", is_flag=True, help="End when buffer and segments are empty.")
@JSON
def drain(settings: config.Settings, until_empty: bool, as_json: bool) -> None:
    """The drainer alone."""
    from pipeline.service import run_drainer

    with _stopping() as stop:
        summary = run_drainer(settings, stop, until_empty=until_empty)
    if as_json:
        _print_json(summary)
    else:
        click.echo(
            f"stored {summary['stored']:,} rows, {summary['dead_lettered']:,} refused; waiting {summary['waiting']:,}"
        )


@_command()
@click.option("--from", "from_ms", type=_Moment(), help="Rebuild from here: ISO-8601, or back from now such as 6h.")
@click.option("--to", "to_ms", type=_Moment(), help="Rebuild up to here; default now.")
@JSON
def rollup(settings: config.Settings, from_ms: int | None, to_ms: int | None, as_json: bool) -> None:
    """Roll up what is due now, or rebuild a range; an interrupted rebuild goes on where it stopped."""
    from pipeline.console import progress_bar
    from pipeline.service import run_rollup

    if to_ms is not None and from_ms is None:
        raise UsageError("--to needs --from")
    with progress_bar("rebuilding windows", quiet=as_json) as advance:
        facts = run_rollup(settings, from_ms, to_ms, advance)
    _show(facts, as_json)


@_command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--format", "kind", type=click.Choice(["ndjson", "junit", "playwright", "lighthouse"]), default="ndjson")
@click.option("--suite", default="", help="test_suite of metrics that name none.")
@click.option("--environment", default="", help="environment of metrics that name none.")
@click.option("--browser", default="", help="browser of metrics that name none.")
@JSON
def push(
    settings: config.Settings, file: Any, kind: str, suite: str, environment: str, browser: str, as_json: bool
) -> None:
    """Send metrics from FILE or stdin to the buffer."""
    from pipeline.ingest import importers
    from pipeline.ingest.producer import MetricsClient
    from pipeline.redis_link import RedisLink

    link = RedisLink.open(settings)
    defaults = {"test_suite": suite, "environment": environment, "browser": browser}
    defaults = {name: value for name, value in defaults.items() if value}
    now_ms = time.time_ns() // 1_000_000
    with MetricsClient(link.url("metrics"), key=settings.buffer.keys[0], room_timeout_s=60, quiet=True) as client:
        offered = 0
        for metric in importers.read(kind, file, now_ms=now_ms, defaults=defaults):
            offered += 1
            if isinstance(metric, bytes):
                client.push_raw(metric)
            else:
                client.push_many([metric])
        client.flush(60)
        stats = client.stats()
    facts = {"offered": offered, "pushed": stats.pushed, "dropped": offered - stats.pushed}
    if as_json:
        _print_json(facts)
    else:
        click.echo(f"pushed {stats.pushed:,} of {offered:,} metrics to {settings.buffer.keys[0]}")
    if stats.pushed < offered:
        _fail(f"{offered - stats.pushed} metrics were not pushed: {client.trouble or 'Redis did not confirm them'}", 1)


# Looking


@_command()
@JSON
def status(settings: config.Settings, as_json: bool) -> None:
    """Depth, rates, lag and the ledger. Exit 1 when something is in trouble."""
    from pipeline.console import print_status

    with _surroundings(settings) as (link, buffers, store):
        from pipeline.status import gather

        found = gather(settings, link, buffers, store)
    if as_json:
        _print_json(found.as_dict())
    else:
        print_status(found)
    if found.trouble:
        sys.exit(1)


@_command()
@click.option(
    "--interval", "interval_s", type=click.FloatRange(min=0.2), default=1.0, show_default=True, help="Seconds."
)
def top(settings: config.Settings, interval_s: float) -> None:
    """A live view of the pipeline; q or Ctrl-C ends it."""
    from pipeline.console import live_status
    from pipeline.status import gather

    with _surroundings(settings) as (link, buffers, store):
        live_status(lambda: gather(settings, link, buffers, store), interval_s)


@_command()
@click.option("--count", type=click.IntRange(min=1), help="End after this many.")
@click.option("--grep", default="", help="Only items that contain this text.")
def tap(settings: config.Settings, count: int | None, grep: str) -> None:
    """A sample of what flows by, one item a line; consumes nothing."""
    from pipeline.redis_link import RedisLink
    from pipeline.service import open_buffers

    buffers = open_buffers(settings, RedisLink.open(settings))
    shown = 0
    wanted = grep.encode()
    with _stopping() as stop:
        last: list[list[bytes]] = [[] for _ in buffers]
        while not stop.is_set():
            for index, buffer in enumerate(buffers):
                newest = buffer.peek(10)
                for item in reversed([item for item in newest if item not in last[index] and wanted in item]):
                    click.echo(item.decode("utf-8", "backslashreplace"))
                    shown += 1
                    if count is not None and shown >= count:
                        return
                last[index] = newest or last[index]
            stop.wait(0.02)


@_command()
@JSON
def doctor(settings: config.Settings, as_json: bool) -> None:
    """Checks of the surroundings, each finding with its fix. Exit 1 when a promise cannot be kept."""
    from pipeline.console import print_findings
    from pipeline.doctor import examine
    from pipeline.service import open_for_doctor

    link, store, opening = open_for_doctor(settings)
    findings = [*opening, *examine(settings, link, store)]
    if as_json:
        _print_json({"ok": all(f.level != "bad" for f in findings), "findings": [vars(f) for f in findings]})
    else:
        print_findings(findings)
    if any(finding.level == "bad" for finding in findings):
        sys.exit(1)


@_command()
@click.option("--full", is_flag=True, help="Every chunk still kept, not only what is new since the last audit.")
@JSON
def audit(settings: config.Settings, full: bool, as_json: bool) -> None:
    """Prove that the books balance: every sealed item is stored, dead-lettered or in flight, once. Exit 1 if not."""
    from pipeline.audit import audit as check
    from pipeline.console import print_audit
    from pipeline.store.migrate import RAW_TTL_MARGIN_HOURS

    with _surroundings(settings, need_store=True) as (_, buffers, store):
        report = check(
            store,
            buffers,
            full=full,
            now_ms=time.time_ns() // 1_000_000,
            raw_ttl_ms=(settings.retention.raw_hours + RAW_TTL_MARGIN_HOURS) * 3_600_000,
        )
    if as_json:
        _print_json(report.as_dict())
    else:
        print_audit(report)
    if not report.ok:
        sys.exit(1)


@_command()
@click.argument("sql")
@click.option("--format", "output", default="", help="A ClickHouse format such as CSVWithNames; default: a table.")
@click.option("--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Fills {NAME:Type} in the query.")
@JSON
def query(settings: config.Settings, sql: str, output: str, parameters: tuple[str, ...], as_json: bool) -> None:
    """Ask ClickHouse: SQL, or the name of a query in sql/queries.sql. Read-only."""
    from pipeline import resources
    from pipeline.console import print_table

    named = resources.queries()
    text = named[sql].sql if sql in named else sql
    values = dict(_pair(parameter) for parameter in parameters)
    with _surroundings(settings, need_store=True) as (_, _, store):
        if output:
            sys.stdout.buffer.write(store.raw(text, values, output))
            return
        table = store.query(text, values)
    if as_json:
        _print_json({"rows": table.to_pylist(maps_as_pydicts="strict"), "row_count": table.num_rows})
    else:
        print_table(table)


# Dead letters


@cli.group()
def dlq() -> None:
    """Dead letters: items that were refused, with the reason."""


REASON = click.option("--reason", default="", help="Only those whose reason contains this text.")
ALL = click.option("--all", "include_marked", is_flag=True, help="Also those replayed or dropped before.")


@_command(group=dlq, name="ls")
@REASON
@ALL
@click.option("--most", type=click.IntRange(min=1), default=50, show_default=True)
@JSON
def dlq_ls(settings: config.Settings, reason: str, include_marked: bool, most: int, as_json: bool) -> None:
    """The newest dead letters."""
    from pipeline.console import print_letters
    from pipeline.ingest import deadletters

    with _surroundings(settings, need_store=True) as (_, buffers, store):
        found = deadletters.letters(store, buffers, reason=reason, include_marked=include_marked, most=most)
    if as_json:
        _print_json({"dead_letters": [letter.as_dict() for letter in found]})
    else:
        print_letters(found)


@_command(group=dlq, name="show")
@click.argument("name")
@click.option("--raw", is_flag=True, help="The payload alone, byte for byte.")
@JSON
def dlq_show(settings: config.Settings, name: str, raw: bool, as_json: bool) -> None:
    """One dead letter, whole."""
    from pipeline.console import print_facts
    from pipeline.ingest import deadletters

    with _surroundings(settings, need_store=True) as (_, buffers, store):
        letter = deadletters.letter(store, buffers, name)
    if raw:
        sys.stdout.buffer.write(letter.payload)
    elif as_json:
        _print_json(letter.as_dict())
    else:
        print_facts(letter.as_dict())


@_command(group=dlq, name="replay")
@click.argument("names", nargs=-1)
@REASON
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@JSON
def dlq_replay(settings: config.Settings, names: tuple[str, ...], reason: str, dry_run: bool, as_json: bool) -> None:
    """Send dead letters to the buffer again: those named, or all open ones of a reason."""
    from pipeline.ingest import deadletters

    _act_on_letters(settings, names, reason, dry_run, as_json, "replayed", deadletters.replay)


@_command(group=dlq, name="drop")
@click.argument("names", nargs=-1)
@REASON
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@JSON
def dlq_drop(settings: config.Settings, names: tuple[str, ...], reason: str, dry_run: bool, as_json: bool) -> None:
    """Mark dead letters as of no further interest; the rows stay until their retention ends."""
    from pipeline.ingest import deadletters

    _act_on_letters(settings, names, reason, dry_run, as_json, "dropped", deadletters.drop)


def _act_on_letters(
    settings: config.Settings,
    names: tuple[str, ...],
    reason: str,
    dry_run: bool,
    as_json: bool,
    done: str,
    act: Callable[..., int],
) -> None:
    from pipeline.ingest import deadletters

    if not names and not reason:
        raise UsageError("name the dead letters, or choose them with --reason")
    with _surroundings(settings, need_store=True) as (_, buffers, store):
        if names:
            chosen = [deadletters.letter(store, buffers, name) for name in names]
        else:
            chosen = deadletters.letters(store, buffers, reason=reason, most=100_000)
        open_ones = [letter for letter in chosen if not letter.mark]
        count = 0 if dry_run else act(buffers, open_ones, time.time_ns() // 1_000_000)
    facts = {"chosen": len(open_ones), done: count, "dry_run": dry_run}
    if as_json:
        _print_json(facts)
    else:
        click.echo(f"{len(open_ones)} would be {done}" if dry_run else f"{count} of {len(open_ones)} {done}")


# Alerts


@cli.group()
def rules() -> None:
    """Alert rules: are they valid, do they do what is meant, what would they have told."""


FILE = click.argument("file", type=click.Path(path_type=Path), required=False)


@_command(group=rules, name="check")
@FILE
@JSON
def rules_check(settings: config.Settings, file: Path | None, as_json: bool) -> None:
    """Are the rules of FILE (default: those of the settings) valid? Exit 1 and every mistake, with file and line."""
    from pipeline.alerts.rules import check, load

    path = file or settings.alerts.rules_file
    mistakes = check(path)
    if as_json:
        _print_json({"ok": not mistakes, "mistakes": mistakes})
    else:
        click.echo("\n".join(mistakes) or f"{len(load(path))} rules are valid")
    if mistakes:
        sys.exit(1)


@_command(group=rules, name="test")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--junit", type=click.Path(path_type=Path), help="Also write a JUnit XML report here.")
@JSON
def rules_test(_: config.Settings, file: Path, junit: Path | None, as_json: bool) -> None:
    """Run the unit tests of FILE: series in promtool's notation, and the alerts expected of them."""
    from pipeline.alerts.unit_tests import run_tests

    report = run_tests(file)
    if junit is not None:
        junit.write_text(report.junit_xml(), encoding="utf-8")
    if as_json:
        cases = [{"name": case.name, "failures": list(case.failures)} for case in report.cases]
        _print_json({"ok": not report.failed, "tests": len(report.cases), "failed": report.failed, "cases": cases})
    else:
        for case in report.cases:
            click.echo(f"{'FAILED' if case.failures else 'passed'}  {case.name}")
            for failure in case.failures:
                click.echo(f"        {failure}")
        click.echo(f"{len(report.cases) - report.failed} passed, {report.failed} failed")
    if report.failed:
        sys.exit(1)


@_command(group=rules, name="replay")
@FILE
@click.option("--from", "from_ms", type=_Moment(), default="6h", help="ISO-8601, or back from now; default 6h.")
@click.option("--to", "to_ms", type=_Moment(), help="Default now.")
@JSON
def rules_replay(settings: config.Settings, file: Path | None, from_ms: int, to_ms: int | None, as_json: bool) -> None:
    """What the rules of FILE (default: those of the settings) would have told on stored data; sends nothing."""
    from pipeline.alerts.commands import replay
    from pipeline.alerts.rules import load
    from pipeline.clock import iso
    from pipeline.console import progress_bar

    wanted = load(file or settings.alerts.rules_file)
    end_ms = to_ms or time.time_ns() // 1_000_000
    with _surroundings(settings, need_store=True) as (_, _, store), progress_bar("replaying", quiet=as_json) as advance:
        found = replay(
            store, wanted, from_ms, end_ms, progress=lambda at_ms: advance(at_ms - from_ms, end_ms - from_ms)
        )
    if as_json:
        told = [{**vars(one), "at": iso(one.at_ms)} for one in found]
        _print_json({"transitions": told, "count": len(found)})
        return
    for one in found:
        click.echo(f"{iso(one.at_ms)}  {one.to_state:<8}  {one.severity:<8}  {one.rule}: {one.message}")
    click.echo(f"{len(found)} transitions of {len(wanted)} rules")


@cli.group()
def alerts() -> None:
    """Alerts now, silences, channels."""


@_command(group=alerts, name="ls")
@click.option("--state", "states", multiple=True, type=click.Choice(["pending", "firing", "resolved"]))
@JSON
def alerts_ls(settings: config.Settings, states: tuple[str, ...], as_json: bool) -> None:
    """Alerts that are not inactive, and silences."""
    from pipeline.alerts.commands import list_alerts, list_silences
    from pipeline.console import print_rows
    from pipeline.redis_link import RedisLink

    link = RedisLink.open(settings)
    found = list_alerts(settings, link, states=states or ("pending", "firing"))
    silences = [silence.shown() for silence in list_silences(settings, link)]
    if as_json:
        _print_json({"alerts": found, "silences": silences})
        return
    print_rows(found, "no alerts")
    if silences:
        click.echo("\nsilences")
        print_rows(silences, "")


@_command(group=alerts, name="silence")
@click.argument("matchers", nargs=-1)
@click.option("--for", "duration", default="1h", show_default=True, help="How long: 30m, 2h, 1d.")
@click.option("--comment", default="", help="Why.")
@click.option("--end", "ended", metavar="ID", help="End a silence instead.")
@JSON
def alerts_silence(
    settings: config.Settings, matchers: tuple[str, ...], duration: str, comment: str, ended: str | None, as_json: bool
) -> None:
    """Hold notifications back: MATCHERS such as rule=high_failure_rate test_suite=~'auth.*'."""
    import getpass

    from pipeline.alerts.commands import end_silence, silence
    from pipeline.alerts.durations import parse_ms
    from pipeline.redis_link import RedisLink

    link = RedisLink.open(settings)
    if ended is not None:
        if not end_silence(settings, link, ended):
            raise UsageError(f"there is no silence {ended!r}")
        _show({"ended": ended}, as_json)
        return
    if not matchers:
        raise UsageError("name what to silence, for example rule=high_failure_rate")
    made = silence(settings, link, matchers, parse_ms(duration), comment=comment, created_by=getpass.getuser())
    _show(made.shown(), as_json)


@_command(group=alerts, name="test")
@click.argument("channel")
@JSON
def alerts_test(settings: config.Settings, channel: str, as_json: bool) -> None:
    """Send a notification that says it is a test to CHANNEL, a name in alerts.channels."""
    from pipeline.alerts.commands import test_channel

    test_channel(settings, channel)
    _show({"channel": channel, "delivered": True}, as_json)


# Schema, configuration, measuring


@_command()
@JSON
def migrate(settings: config.Settings, as_json: bool) -> None:
    """Bring the database to the schema this version expects; safe to repeat."""
    from pipeline.store.clickhouse import Store
    from pipeline.store.migrate import migrate as apply

    with Store.open(settings) as store:
        applied = apply(store, settings)
    if as_json:
        _print_json({"applied": [str(migration) for migration in applied]})
    else:
        click.echo(f"applied {len(applied)} migrations" if applied else "the schema is up to date")


@_command()
@JSON
def validate(settings: config.Settings, as_json: bool) -> None:
    """Check settings and alert rules without touching Redis or ClickHouse."""
    from pipeline.alerts.rules import load

    rules = load(settings.alerts.rules_file)
    _show({"ok": True, "settings": sum(1 for _ in config.setting_paths()), "rules": len(rules)}, as_json)


@cli.group()
def bench() -> None:
    """Measure this machine, on private engines."""


def _bench(name: str, sentence: str, *options: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], click.Command]:
    """A benchmark: prints what it measured, progress goes to stderr."""

    def decorate(function: Callable[..., dict[str, Any]]) -> click.Command:
        def run_bench(settings: config.Settings, as_json: bool, **arguments: Any) -> None:
            result = function(settings, say=lambda text: click.echo(text, err=True), **arguments)
            if as_json:
                _print_json(result)
            else:
                _print_nested(result)

        run_bench.__doc__ = sentence
        command: Any = JSON(run_bench)
        for option in options:
            command = option(command)
        return _command(group=bench, name=name, help=sentence)(command)

    return decorate


def _rows(default: int) -> Callable[[Any], Any]:
    return click.option("--rows", type=click.IntRange(min=1), default=default, show_default=True)


def _print_nested(result: dict[str, Any]) -> None:
    from pipeline.console import print_facts

    print_facts({name: value for name, value in result.items() if not isinstance(value, dict)})
    for name, value in result.items():
        if isinstance(value, dict):
            click.echo(f"\n{name}")
            print_facts(value)


@_bench(
    "drain",
    "Rows a second from Redis to ClickHouse, beside the floor measured in the same run.",
    _rows(1_000_000),
    click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True),
)
def bench_drain(settings: config.Settings, say: Callable[[str], None], rows: int, rounds: int) -> dict[str, Any]:
    """Speed of the drain."""
    from pipeline.bench import drain as measure

    return measure.run(settings, rows, rounds, say)


@_bench(
    "freshness",
    "How soon a pushed row can be queried, under a steady load and alone.",
    click.option("--rate", type=click.IntRange(min=1), default=50_000, show_default=True, help="Rows a second."),
    click.option("--seconds", type=click.FloatRange(min=1), default=20, show_default=True),
)
def bench_freshness(settings: config.Settings, say: Callable[[str], None], rate: int, seconds: float) -> dict[str, Any]:
    """Freshness."""
    from pipeline.bench import drain as measure

    return measure.freshness(settings, rate, seconds, say)


@_bench("producers", "How long a push takes while a backlog drains.", _rows(2_000_000))
def bench_producers(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """What producers notice."""
    from pipeline.bench import drain as measure

    return measure.producers(settings, rows, say)


@_bench("backlog", "Memory of the drainer while a backlog drains.", _rows(5_000_000))
def bench_backlog(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """Memory."""
    from pipeline.bench import drain as measure

    return measure.backlog(settings, rows, say)


@_bench(
    "rollup",
    "Exact grouped percentiles in numpy and a whole minute end to end, beside ClickHouse's own.",
    _rows(1_000_000),
)
def bench_rollup(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """Rollups."""
    from pipeline.bench import rollup as measure

    return measure.run(settings, rows, say)


@_bench(
    "changes",
    "The change detector on simulated series: false alarms, changes found, speed.",
    click.option(
        "--seeds", type=click.IntRange(min=1), default=200, show_default=True, help="Series a noise and step."
    ),
)
def bench_changes(_: config.Settings, say: Callable[[str], None], seeds: int) -> dict[str, Any]:
    """Changes."""
    from pipeline.bench import changes as measure

    return measure.run(seeds, say)


@_bench(
    "alerts",
    "Evaluation of many series by many rules.",
    click.option("--series", type=click.IntRange(min=1), default=10_000, show_default=True),
    click.option("--rules", "rule_count", type=click.IntRange(min=1), default=20, show_default=True),
)
def bench_alerts(_: config.Settings, say: Callable[[str], None], series: int, rule_count: int) -> dict[str, Any]:
    """Alerts."""
    from pipeline.bench import alerts as measure

    return measure.run(series, rule_count, say)


# Help for the many


@contextmanager
def _surroundings(settings: config.Settings, *, need_store: bool = False) -> Iterator[tuple[Any, Any, Any]]:
    """Redis, the buffers, and ClickHouse for reading; the store is None when it is away and not needed."""
    from pipeline.redis_link import RedisLink
    from pipeline.service import open_buffers
    from pipeline.store.clickhouse import Store

    link = RedisLink.open(settings)
    store: Store | None = None
    try:
        store = Store.open(settings, role="reader")
    except Outage:
        if need_store:
            raise
    try:
        yield link, open_buffers(settings, link), store
    finally:
        if store is not None:
            store.close()
        link.close()


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """SIGTERM and SIGINT set the event; a second one ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: Any) -> None:
        if stop.is_set():
            sys.exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--param takes NAME=VALUE, not {text!r}")
    return name, value


def _show(facts: dict[str, Any], as_json: bool) -> None:
    from pipeline.console import print_facts

    if as_json:
        _print_json(facts)
    else:
        print_facts(facts)


def _print_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, default=str, ensure_ascii=False))


if __name__ == "__main__":
    main()
