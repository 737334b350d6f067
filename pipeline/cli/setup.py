"""Commands around a deployment: schema and configuration."""

from __future__ import annotations

import time

import click

from pipeline.base import config
from pipeline.cli.group import JSON, cli, command, print_json, say, show


@command()
@JSON
def migrate(settings: config.Settings, as_json: bool) -> None:
    """Bring the database to the schema this version expects; safe to repeat."""
    from pipeline.store.client import Store
    from pipeline.store.migrate import migrate as apply

    with Store.open(settings) as store:
        applied = apply(store, settings)
    if as_json:
        print_json({"applied": [str(migration) for migration in applied]})
    else:
        say(f"applied {len(applied)} migrations" if applied else "the schema is up to date")


@command()
@JSON
def prepare(settings: config.Settings, as_json: bool) -> None:  # noqa: ARG001  every command has the settings
    """Compile ahead what a first start would compile: the reader of items and the change detector."""
    from pipeline.analyse.changes import candidates, noise
    from pipeline.decode import columns

    began_s = time.monotonic()
    columns.prepare()
    noise.prepare()
    candidates.prepare()
    took_s = round(time.monotonic() - began_s, 1)
    if as_json:
        print_json({"took_s": took_s})
    else:
        say(f"compiled, or found compiled, in {took_s} s")


@command()
@JSON
def validate(settings: config.Settings, as_json: bool) -> None:
    """Check settings, certificates, channels and alert rules without touching Redis or ClickHouse."""
    from pipeline.operate import preflight

    rules = preflight.check(settings)
    warned = list(preflight.warnings(settings))
    facts = {"ok": True, "settings": sum(1 for _ in config.setting_paths()), "rules": len(rules)}
    if as_json:
        print_json({**facts, "warnings": warned})
        return
    show(facts, as_json)
    for warning in warned:
        say(f"warning: {warning}", err=True)


@cli.group(name="config")
def config_group() -> None:
    """Settings as they are in effect."""


@command(group=config_group, name="show")
@click.pass_context
@JSON
def config_show(context: click.Context, _: config.Settings, as_json: bool) -> None:
    """Every effective setting and where it comes from: default, file, variable, secret file. Secrets are masked."""
    found = list(config.with_origins(context.find_root().obj))
    if as_json:
        print_json({"settings": {name: {"value": value, "origin": origin} for name, value, origin in found}})
        return
    width = max(len(name) for name, _, _ in found)
    for name, value, origin in found:
        say(f"{name:<{width}}  {value}" + (f"  ({origin})" if origin != "default" else ""))
