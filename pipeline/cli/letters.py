"""``pipeline dlq``: dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from pipeline.base import config
from pipeline.base.errors import UsageError
from pipeline.cli.group import JSON, cli, command, opened_parts, print_json, say, write_bytes


@cli.group()
def dlq() -> None:
    """Dead letters: items that were refused, with the reason."""


REASON = click.option("--reason", default="", help="Only letters whose reason contains this text.")
ALL = click.option(
    "--all", "include_marked", is_flag=True, help="Include letters that were replayed or dropped before."
)


@command(group=dlq, name="ls")
@REASON
@ALL
@click.option("--most", type=click.IntRange(min=1), default=50, show_default=True)
@JSON
def dlq_ls(settings: config.Settings, reason: str, include_marked: bool, most: int, as_json: bool) -> None:
    """The newest dead letters."""
    from pipeline.cli.console import print_letters
    from pipeline.deliver import dead_letters as deadletters

    with opened_parts(settings, need_store=True) as (_, buffers, store):
        found = deadletters.letters(store, buffers, reason=reason, include_marked=include_marked, most=most)
    if as_json:
        print_json({"dead_letters": [letter.as_dict() for letter in found]})
    else:
        print_letters(found)


@command(group=dlq, name="show")
@click.argument("name")
@click.option("--raw", is_flag=True, help="Print only the payload, byte for byte.")
@JSON
def dlq_show(settings: config.Settings, name: str, raw: bool, as_json: bool) -> None:
    """One dead letter, whole."""
    from pipeline.cli.console import print_facts
    from pipeline.deliver import dead_letters as deadletters

    with opened_parts(settings, need_store=True) as (_, buffers, store):
        letter = deadletters.letter(store, buffers, name)
    if raw:
        write_bytes(letter.payload)
    elif as_json:
        print_json(letter.as_dict())
    else:
        print_facts(letter.as_dict())


@command(group=dlq, name="replay")
@click.argument("names", nargs=-1)
@REASON
@click.option("--dry-run", is_flag=True, help="Only print what would be sent.")
@JSON
def dlq_replay(settings: config.Settings, names: tuple[str, ...], reason: str, dry_run: bool, as_json: bool) -> None:
    """Send dead letters to the buffer again: those named, or all open ones of a reason."""
    from pipeline.deliver import dead_letters as deadletters

    _act_on_letters(settings, names, reason, dry_run, as_json, "replayed", deadletters.replay)


@command(group=dlq, name="drop")
@click.argument("names", nargs=-1)
@REASON
@click.option("--dry-run", is_flag=True, help="Only print what would be dropped.")
@JSON
def dlq_drop(settings: config.Settings, names: tuple[str, ...], reason: str, dry_run: bool, as_json: bool) -> None:
    """Mark dead letters as of no further interest; the rows stay until their retention ends."""
    from pipeline.deliver import dead_letters as deadletters

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
    from pipeline.deliver import dead_letters as deadletters

    if not names and not reason:
        raise UsageError("name the dead letters, or choose them with --reason")
    with opened_parts(settings, need_store=True, start=True) as (_, buffers, store):
        if names:
            chosen = [deadletters.letter(store, buffers, name) for name in names]
        else:
            chosen = deadletters.letters(store, buffers, reason=reason, most=100_000)
        open_ones = [letter for letter in chosen if not letter.mark]
        count = 0 if dry_run else act(store, buffers, open_ones, time.time_ns() // 1_000_000)
    facts = {"chosen": len(open_ones), done: count, "dry_run": dry_run}
    if as_json:
        print_json(facts)
    else:
        say(f"{len(open_ones)} would be {done}" if dry_run else f"{count} of {len(open_ones)} {done}")
