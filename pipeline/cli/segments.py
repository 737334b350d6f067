"""``pipeline segments``: damaged segments and chunks that were set aside."""

from __future__ import annotations

import click

from pipeline.base import config
from pipeline.base.errors import UsageError
from pipeline.cli.group import JSON, cli, command, opened_parts, print_json, say


@cli.group()
def segments() -> None:
    """Damaged segments that were set aside: see what is left of them, and close them."""


@command(group=segments, name="ls")
@JSON
def segments_ls(settings: config.Settings, as_json: bool) -> None:
    """What is set aside, the oldest first. Exit 0 also when something is; 'pipeline status' exits 1 then."""
    from pipeline.buffer.set_aside import records
    from pipeline.cli.console import print_rows

    with opened_parts(settings) as (_, buffers, _):
        found = [record for buffer in buffers for record in records(buffer)]
    if as_json:
        print_json({"segments": [record.as_dict() for record in found], "count": len(found)})
        return
    rows = [
        {
            "name": one.name,
            "buffer": one.buffer,
            "kept": one.kept if one.is_exact else f"{one.kept} or fewer",
            "lost": one.lost if one.is_exact else f"{one.lost} or {'more' if one.kept else 'fewer'}",
            "reason": one.reason,
        }
        for one in found
    ]
    print_rows(rows, "nothing is set aside")


@command(group=segments, name="show")
@click.argument("name")
@click.option("--most", type=click.IntRange(min=0), default=10, show_default=True, help="Items to show, oldest first.")
@JSON
def segments_show(settings: config.Settings, name: str, most: int, as_json: bool) -> None:
    """One record, and the oldest items that are kept of it."""
    from pipeline.base.text import printable
    from pipeline.buffer.set_aside import find
    from pipeline.cli.console import print_facts

    with opened_parts(settings) as (_, buffers, _):
        buffer, record = find(buffers, name)
        there = buffer.aside_length(name)
        items = [item.decode("utf-8", "backslashreplace") for item in buffer.aside_items(name, 0, most)]
    facts = {**record.as_dict(), "in_redis": there}
    if as_json:
        print_json({**facts, "items": items})
        return
    print_facts(facts)
    for item in items:
        say(printable(item))


@command(group=segments, name="close")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Close all records.")
@click.option("--push", is_flag=True, help="Push what is kept to the buffer again, except what is stored already.")
@click.option("--allow-duplicates", is_flag=True, help="With --push: also where nothing tells what is stored.")
@JSON
def segments_close(
    settings: config.Settings,
    names: tuple[str, ...],
    everything: bool,
    push: bool,
    allow_duplicates: bool,
    as_json: bool,
) -> None:
    """Close records. Without --push, items that are kept are saved to a file under data_dir and count as dropped."""
    from pipeline.buffer.set_aside import find, records
    from pipeline.cli.console import print_rows
    from pipeline.deliver.close_aside import push_again, save_and_give_up

    if bool(names) == everything:
        raise UsageError("name what to close, as 'pipeline segments ls' prints it, or say --all")
    with opened_parts(settings, need_store=push) as (_, buffers, store):
        chosen = [find(buffers, name) for name in dict.fromkeys(names)]
        if everything:
            chosen = [(buffer, record) for buffer in buffers for record in records(buffer)]
        closed = [
            push_again(buffer, record, store, allow_duplicates=allow_duplicates)
            if push
            else save_and_give_up(buffer, record, settings.data_dir / "set_aside", store)
            for buffer, record in chosen
        ]
    if as_json:
        print_json({"closed": [vars(one) for one in closed], "count": len(closed)})
    else:
        print_rows([vars(one) for one in closed], "nothing is set aside")
