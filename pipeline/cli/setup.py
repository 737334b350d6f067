"""Commands around a deployment: schema and configuration."""

from __future__ import annotations

import click

from pipeline.base import config
from pipeline.cli.common import JSON, command, print_json, show


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
        click.echo(f"applied {len(applied)} migrations" if applied else "the schema is up to date")


@command()
@JSON
def validate(settings: config.Settings, as_json: bool) -> None:
    """Check settings and alert rules without touching Redis or ClickHouse."""
    from pipeline.alerts.rules.load import load

    rules = load(settings.alerts.rules_file)
    show({"ok": True, "settings": sum(1 for _ in config.setting_paths()), "rules": len(rules)}, as_json)
