"""``pipeline bench``: measure this machine, on private engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pipeline.base import config
from pipeline.cli.group import JSON, cli, command, print_json


@cli.group()
def bench() -> None:
    """Measure this machine, on private engines."""


def _bench(name: str, sentence: str, *options: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], click.Command]:
    """A benchmark: prints what it measured, progress goes to stderr."""

    def decorate(function: Callable[..., dict[str, Any]]) -> click.Command:
        def run_bench(settings: config.Settings, as_json: bool, **arguments: Any) -> None:
            result = function(settings, say=lambda text: click.echo(text, err=True), **arguments)
            if as_json:
                print_json(result)
            else:
                _print_nested(result)

        run_bench.__doc__ = sentence
        decorated: Any = JSON(run_bench)
        for option in options:
            decorated = option(decorated)
        return command(group=bench, name=name, help=sentence)(decorated)

    return decorate


def _rows(default: int) -> Callable[[Any], Any]:
    return click.option("--rows", type=click.IntRange(min=1), default=default, show_default=True)


def _print_nested(result: dict[str, Any]) -> None:
    from pipeline.cli.console import print_facts

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
    click.option("--rate", type=click.IntRange(min=1), default=50_000, show_default=True, help="Rows per second."),
    click.option("--seconds", type=click.FloatRange(min=1), default=20, show_default=True),
)
def bench_freshness(settings: config.Settings, say: Callable[[str], None], rate: int, seconds: float) -> dict[str, Any]:
    """Freshness."""
    from pipeline.bench import impact as measure

    return measure.freshness(settings, rate, seconds, say)


@_bench("producers", "How long a push takes while a backlog drains.", _rows(2_000_000))
def bench_producers(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """What producers notice."""
    from pipeline.bench import impact as measure

    return measure.producers(settings, rows, say)


@_bench("client", "What a push costs its caller, and metrics a second through one client.", _rows(1_000_000))
def bench_client(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """The producers' client."""
    from pipeline.bench import client as measure

    return measure.run(settings, rows, say)


@_bench(
    "collect",
    "Collecting from many keys: longest command, keys a second, what a producer notices meanwhile.",
    click.option("--keys", type=click.IntRange(min=1000), default=1_000_000, show_default=True),
)
def bench_collect(settings: config.Settings, say: Callable[[str], None], keys: int) -> dict[str, Any]:
    """Collectors."""
    from pipeline.bench import collect as measure

    return measure.run(settings, keys, say)


@_bench("backlog", "Memory of the drainer while a backlog drains.", _rows(5_000_000))
def bench_backlog(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """Memory."""
    from pipeline.bench import impact as measure

    return measure.backlog(settings, rows, say)


@_bench(
    "spill", "What an outage of ClickHouse takes on disk and in Redis, with buffer.overflow: spill.", _rows(2_000_000)
)
def bench_spill(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """Spilling."""
    from pipeline.bench import impact as measure

    return measure.spill(settings, rows, say)


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
def bench_alerts(settings: config.Settings, say: Callable[[str], None], series: int, rule_count: int) -> dict[str, Any]:
    """Alerts."""
    from pipeline.bench import alerts as measure

    return measure.run(settings, series, rule_count, say)


@_bench(
    "page",
    "How soon the page's figures answer over many raw rows, and its own Web Vitals in Chromium.",
    _rows(100_000_000),
)
def bench_page(settings: config.Settings, say: Callable[[str], None], rows: int) -> dict[str, Any]:
    """The page."""
    from pipeline.bench import page as measure

    return measure.run(settings, rows, say)
