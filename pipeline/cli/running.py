"""Commands that run: demo, the service, its parts."""

from __future__ import annotations

import sys
import time

import click

from pipeline.base import config, log
from pipeline.base.errors import UsageError
from pipeline.cli.group import JSON, Moment, command, print_json, say, show


@command()
@click.option("--seconds", type=click.FloatRange(min=1), help="Stop after this many seconds and print a summary.")
@click.option(
    "--rate", type=click.FloatRange(min=1, max=200_000), default=2000, show_default=True, help="Metrics per second."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulated platform.")
@JSON
def demo(settings: config.Settings, seconds: float | None, rate: float, seed: int, as_json: bool) -> None:
    """The whole pipeline on its embedded engines, with a simulated platform pushing metrics."""
    from pipeline.demo.demo import run_demo

    if not as_json and sys.stderr.isatty():
        # The live view tells of alerts; lines of log would push it off the screen.
        log.configure(settings.log.model_copy(update={"level": "error"}))
    summary = run_demo(settings, seconds=seconds, rate=rate, seed=seed, quiet=as_json)
    show(summary, as_json)
    if summary["unaccounted"]:
        sys.exit(1)


@command()
def run(settings: config.Settings) -> None:
    """The service: drainer, schedule, HTTP. SIGTERM drains what is claimed and ends; SIGHUP reloads alert rules."""
    from pipeline.operate.commands import run_service
    from pipeline.operate.process import STOP_WITHIN_S, stopping

    path = click.get_current_context().find_root().obj
    with stopping(STOP_WITHIN_S) as stop:
        run_service(settings, stop, lambda: config.load(path))


@command()
@click.option("--until-empty", is_flag=True, help="End when buffer and segments are empty.")
@JSON
def drain(settings: config.Settings, until_empty: bool, as_json: bool) -> None:
    """The drainer alone, of all buffers."""
    from pipeline.operate.commands import run_drainer
    from pipeline.operate.process import STOP_WITHIN_S, stopping

    with stopping(STOP_WITHIN_S) as stop:
        summary = run_drainer(settings, stop, until_empty=until_empty)
    if as_json:
        print_json(summary)
    else:
        say(f"stored {summary['stored']:,} rows, {summary['dead_lettered']:,} refused; waiting {summary['waiting']:,}")


@command()
@click.option(
    "--from",
    "from_ms",
    type=Moment(),
    help="Start of the range to rebuild: ISO-8601, or a span back from now such as 6h.",
)
@click.option("--to", "to_ms", type=Moment(), help="End of the range to rebuild; default: now.")
@JSON
def rollup(settings: config.Settings, from_ms: int | None, to_ms: int | None, as_json: bool) -> None:
    """Roll up what is due now, or rebuild a range; an interrupted rebuild goes on where it stopped.

    A running service does it, and this command shows how far it is. Exit 1 when it does not answer."""
    from pipeline.cli.progress import progress_bar
    from pipeline.operate.commands import run_rollup
    from pipeline.operate.process import STOP_WITHIN_S, stopping

    if to_ms is not None and from_ms is None:
        raise UsageError("--to needs --from")
    if from_ms is not None and from_ms >= min(to_ms or sys.maxsize, time.time_ns() // 1_000_000):
        raise UsageError("there is no time between --from and --to, or --from lies ahead; nothing was rebuilt")
    with stopping(STOP_WITHIN_S) as stop, progress_bar("rebuilding windows", quiet=as_json) as advance:
        facts = run_rollup(settings, stop, from_ms, to_ms, advance)
    show(facts, as_json)
