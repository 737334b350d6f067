"""Commands on the platform's Redis schema: the catalogue, a live Redis held against it, the corrected scripts."""

from __future__ import annotations

import sys
from typing import Any

import click

from pipeline.base import config
from pipeline.base.errors import RedisDenied, UsageError
from pipeline.cli.group import JSON, cli, command, print_json, say


@cli.group(invoke_without_command=True)
@JSON
@click.pass_context
def schema(context: click.Context, as_json: bool) -> None:
    """The platform's Redis schema: every key pattern, and a live Redis held against it."""
    if context.invoked_subcommand is not None:
        return
    settings = config.load(context.find_root().obj)
    entries = [_facts(entry, settings) for entry in _catalogue(settings).entries]
    if as_json:
        print_json({"entries": entries})
        return
    from pipeline.cli.console import print_rows

    rows = [
        {
            "pattern": one["pattern"],
            "db": one["database"],
            "type": one["type"],
            "TTL": f"{one['ttl_s']} s" if one["ttl_s"] else "",
            "written by": one["writer"],
            "becomes": " ".join(one["metric_types"]),
        }
        for one in entries
    ]
    print_rows(rows, "the schema is empty")


@command(group=schema)
@click.argument("pattern")
@JSON
def show(settings: config.Settings, pattern: str, as_json: bool) -> None:
    """One entry whole, by name, pattern, or a key that belongs to it, with the document's example."""
    found = _catalogue(settings).find(pattern)
    if not found:
        raise UsageError(f"{pattern!r} is neither a name nor a pattern of the schema; 'pipeline schema' lists them")
    facts = [_facts(entry, settings) for entry in found]
    if as_json:
        print_json({"entries": facts})
        return
    for one in facts:
        for name, value in one.items():
            if value not in ("", None, [], False):
                say(f"{name + ':':<14}{', '.join(value) if isinstance(value, list) else value}")
        say("")


@command(group=schema)
@click.option("--sample", type=click.IntRange(min=1), help="Maximum number of keys to check in each database.")
@JSON
def check(settings: config.Settings, sample: int | None, as_json: bool) -> None:
    """Hold a live Redis against the schema. Exit 1 when something is wrong, each finding with its fix."""
    import time

    from pipeline.base.redis_link import RedisLink
    from pipeline.cli.console import print_rows
    from pipeline.cli.progress import progress_bar
    from pipeline.collect.check import findings, server_findings, walk
    from pipeline.collect.collector import DATABASES
    from pipeline.collect.own_keys import is_own
    from pipeline.operate import process

    link = RedisLink.open(settings)
    process.yield_to_redis()
    catalogue = _catalogue(settings)
    found, skipped, walked, keys = [], [], [], 0
    sampled = False
    try:
        info = link.server_info()
        found += server_findings(info, _server_config(link))
        names: dict[int, list[str]] = {}
        for name in DATABASES:
            names.setdefault(getattr(settings.redis.databases, name), []).append(name)
        sizes = [int(info.get(f"db{number}", {}).get("keys", 0)) for number in names]
        total = sum(min(size, sample or size) for size in sizes)
        with progress_bar("looking at keys", quiet=as_json) as advance:
            for number, called in names.items():

                def tell(done: int, before: int = keys) -> None:
                    advance(min(before + done, total), total)

                try:
                    counted = walk(
                        link.database(called[0]), called, catalogue, lambda key: is_own(key, settings),
                        most=sample, now_s=time.time(), progress=tell,
                    )  # fmt: skip
                except RedisDenied as denied:
                    skipped.append({"database": number, "reason": str(denied)})
                    continue
                keys += counted.keys
                sampled |= counted.sampled
                walked.append(counted)
        all_bytes = sum(counted.bytes_read for counted in walked)
        for counted in walked:
            found += findings(catalogue, counted, all_bytes)
    finally:
        link.close()
    is_broken = any(one.severity == "bad" for one in found)
    if as_json:
        print_json({"keys": keys, "sampled": sampled, "skipped": skipped, "findings": [one.as_dict() for one in found]})
    else:
        rows = [
            {"": one.severity, "pattern": one.pattern, "what": f"{one.what} ({one.count})", "fix": one.fix}
            for one in found
        ]
        print_rows(rows, "everything is as the document says")
        for one in skipped:
            say(f"database {one['database']} was skipped: {one['reason']}")
        say(f"{keys} keys looked at{' (a sample)' if sampled else ''}; {len(found)} findings")
    if is_broken:
        sys.exit(1)


@command(group=schema)
@click.argument("name", required=False)
@click.option("--load", is_flag=True, help="Load them into Redis and print their SHA1.")
@JSON
def scripts(settings: config.Settings, name: str | None, load: bool, as_json: bool) -> None:
    """The document's Lua scripts, corrected: list them, print NAME, or load them."""
    from pipeline.collect.platform import scripts as all_scripts

    known = all_scripts()
    if name is not None and name not in known:
        raise UsageError(f"{name!r} is not a script; there are {', '.join(known)}")
    wanted = [known[name]] if name is not None else list(known.values())
    digests: dict[str, str] = {}
    if load:
        from pipeline.base.redis_link import RedisLink, outages

        link = RedisLink.open(settings)
        try:
            with outages():
                digests = {one.name: str(link.database("coordination").script_load(one.text)) for one in wanted}
        finally:
            link.close()
    if as_json:
        print_json(
            {
                "scripts": [
                    {"name": one.name, "about": one.about, "sha1": digests.get(one.name), "text": one.text}
                    for one in wanted
                ]
            }
        )
    elif load or name is None:
        for one in wanted:
            say(f"{one.name:<18}{digests.get(one.name, one.about)}")
    else:
        click.echo(wanted[0].text, nl=False)


def _catalogue(settings: config.Settings) -> Any:
    from pipeline.collect.catalogue import catalogue

    return catalogue(settings.collect.keys)


def _facts(entry: Any, settings: config.Settings) -> dict[str, Any]:
    return {
        "name": entry.name,
        "pattern": entry.pattern,
        "database": getattr(settings.redis.databases, entry.database, entry.database),
        "type": entry.type,
        "ttl_s": entry.ttl_s,
        "most": entry.most,
        "writer": entry.writer,
        "reader": entry.reader,
        "secret": entry.secret,
        "metric_types": entry.metric_types(),
        "example": entry.example,
    }


def _server_config(link: Any) -> dict[str, str]:
    """What CONFIG GET says; nothing where it is forbidden."""
    import redis

    found: dict[str, str] = {}
    for name in ("maxmemory-policy", "appendonly", "appendfsync"):
        try:
            reply = link.database("metrics").config_get(name)
        except redis.RedisError:
            return {}
        found |= {_plain(key): _plain(value) for key, value in reply.items()}
    return found


def _plain(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)
