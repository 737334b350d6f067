"""``pipeline rules`` and ``pipeline alerts``."""

from __future__ import annotations

import getpass
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from pipeline.base import config
from pipeline.base.errors import UsageError
from pipeline.cli.group import JSON, Moment, SpanType, cli, command, opened_parts, print_json, say, show


@cli.group()
def rules() -> None:
    """Alert rules: are they valid, do they do what is meant, what would they have told."""


FILE = click.argument("file", type=click.Path(path_type=Path), required=False)


@command(group=rules, name="check")
@FILE
@JSON
def rules_check(settings: config.Settings, file: Path | None, as_json: bool) -> None:
    """Are the rules of FILE (default: those of the settings) valid? Exit 1 and every mistake, with file and line."""
    from pipeline.alerts.rules.checks import hints
    from pipeline.alerts.rules.load import check, load

    path = file or settings.alerts.rules_file
    mistakes = check(path)
    said = [] if mistakes else [hint for rule in load(path) for hint in hints(rule)]
    if as_json:
        print_json({"ok": not mistakes, "mistakes": mistakes, "hints": said})
    else:
        count = 0 if mistakes else len(load(path))
        say("\n".join(mistakes) or f"{count} rule{'' if count == 1 else 's'} valid")
        for hint in said:
            say(f"hint: {hint}")
    if mistakes:
        sys.exit(1)


@command(group=rules, name="test")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--junit", type=click.Path(path_type=Path), help="Also write a JUnit XML report here.")
@JSON
def rules_test(_: config.Settings, file: Path, junit: Path | None, as_json: bool) -> None:
    """Run the unit tests of FILE: series in promtool's notation, and the alerts expected of them."""
    from pipeline.alerts.rule_tests.run import run_tests

    report = run_tests(file)
    if junit is not None:
        junit.write_text(report.junit_xml(), encoding="utf-8")
    if as_json:
        cases = [{"name": case.name, "failures": list(case.failures)} for case in report.cases]
        print_json({"ok": not report.failed, "tests": len(report.cases), "failed": report.failed, "cases": cases})
    else:
        for case in report.cases:
            say(f"{'FAILED' if case.failures else 'passed'}  {case.name}")
            for failure in case.failures:
                say(f"        {failure}")
        say(f"{len(report.cases) - report.failed} passed, {report.failed} failed")
    if report.failed:
        sys.exit(1)


@command(group=rules, name="replay")
@FILE
@click.option(
    "--from",
    "from_ms",
    type=Moment(),
    default="6h",
    help="Start of the span: ISO-8601, or a span back from now; default: 6h.",
)
@click.option("--to", "to_ms", type=Moment(), help="End of the span; default: now.")
@JSON
def rules_replay(settings: config.Settings, file: Path | None, from_ms: int, to_ms: int | None, as_json: bool) -> None:
    """What the rules of FILE (default: those of the settings) would have told on stored data; sends nothing."""
    from pipeline.alerts.commands import replay
    from pipeline.alerts.rules.load import load
    from pipeline.base.clock import iso
    from pipeline.cli.progress import progress_bar

    wanted = load(file or settings.alerts.rules_file)
    end_ms = time.time_ns() // 1_000_000 if to_ms is None else to_ms
    if from_ms >= end_ms:
        raise UsageError("there is no time between --from and --to, or --from lies ahead; nothing was replayed")
    with opened_parts(settings, need_store=True) as (_, _, store), progress_bar("replaying", quiet=as_json) as advance:
        found = replay(
            store, wanted, from_ms, end_ms, progress=lambda at_ms: advance(at_ms - from_ms, end_ms - from_ms)
        )
    if as_json:
        told = [{**msgspec.structs.asdict(one), "at": iso(one.at_ms)} for one in found]
        print_json({"transitions": told, "count": len(found)})
        return
    for one in found:
        say(f"{iso(one.at_ms)}  {one.to_state:<8}  {one.severity:<8}  {one.rule}: {one.message}")
    say(f"{len(found)} transitions of {len(wanted)} rules")


@cli.group()
def alerts() -> None:
    """Alerts now, silences, channels."""


@command(group=alerts, name="ls")
@click.option("--state", "states", multiple=True, type=click.Choice(["pending", "firing", "resolved"]))
@JSON
def alerts_ls(settings: config.Settings, states: tuple[str, ...], as_json: bool) -> None:
    """Alerts that are not inactive, silences, and maintenance windows, which mute alerts of their environment."""
    from pipeline.alerts.commands import list_alerts, list_maintenance, list_silences
    from pipeline.base.redis_link import RedisLink
    from pipeline.cli.console import print_rows

    link = RedisLink.open(settings, start=False)
    found = list_alerts(settings, link, states=states or ("pending", "firing"))
    silences = [silence.shown() for silence in list_silences(settings, link)]
    maintenance = [window.shown() for window in list_maintenance(link)]
    if as_json:
        print_json({"alerts": found, "silences": silences, "maintenance": maintenance})
        return
    print_rows([_in_words(one) for one in found], "no alerts")
    for heading, rows in (("silences", silences), ("maintenance", maintenance)):
        if rows:
            say(f"\n{heading}")
            print_rows([_in_words(one) for one in rows], "")


def _in_words(record: dict[str, Any]) -> dict[str, Any]:
    """A record for a table: labels as people write them, nothing where there is nothing."""
    words: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            words[name] = ", ".join(f"{label}={text}" for label, text in value.items())
        elif isinstance(value, list):
            words[name] = ", ".join(map(str, value))
        else:
            words[name] = "" if value is None else value
    return words


@command(group=alerts, name="silence")
@click.argument("matchers", nargs=-1)
@click.option("--for", "for_ms", type=SpanType(), default="1h", show_default=True, help="Duration: 30m, 2h, 1d.")
@click.option("--comment", default="", help="Reason, shown with the silence.")
@click.option("--end", "ended", metavar="ID", help="ID of a silence to end.")
@JSON
def alerts_silence(
    settings: config.Settings, matchers: tuple[str, ...], for_ms: int, comment: str, ended: str | None, as_json: bool
) -> None:
    """Hold notifications back: MATCHERS such as rule=high_failure_rate test_suite=~'auth.*'."""
    from pipeline.alerts.commands import end_silence, silence
    from pipeline.base.redis_link import RedisLink

    link = RedisLink.open(settings)
    if ended is not None:
        if not end_silence(settings, link, ended):
            raise UsageError(f"there is no silence {ended!r}")
        show({"ended": ended}, as_json)
        return
    if not matchers:
        raise UsageError("name what to silence, for example rule=high_failure_rate")
    made = silence(settings, link, matchers, for_ms, comment=comment, created_by=_user())
    show(made.shown(), as_json)


def _user() -> str:
    """Who works here; a container may run under a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


@command(group=alerts, name="test")
@click.argument("channel")
@JSON
def alerts_test(settings: config.Settings, channel: str, as_json: bool) -> None:
    """Send a notification that says it is a test to CHANNEL, a name in alerts.channels."""
    from pipeline.alerts.commands import test_channel

    test_channel(settings, channel)
    show({"channel": channel, "delivered": True}, as_json)
