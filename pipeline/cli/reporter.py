"""The command ``reporter``: writes reporters for other test runners into a project."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import config
from pipeline.cli.group import JSON, cli, command, print_json


@cli.group()
def reporter() -> None:
    """Reporters to install into a project of another language."""


@command(group=reporter)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Directory to write to; default: the current one.",
)
@JSON
def playwright(settings: config.Settings, out: Path, as_json: bool) -> None:  # noqa: ARG001  # every command gets them
    """Write the reporter for Playwright; name it in playwright.config under 'reporter'."""
    from pipeline.client.reporters import RUNNERS, script

    out.mkdir(parents=True, exist_ok=True)
    file = out / RUNNERS["playwright"]
    file.write_text(script("playwright"), encoding="utf-8")
    if as_json:
        print_json({"file": str(file)})
        return
    click.echo(f"written: {file}")
    click.echo(f"playwright.config: reporter: [['list'], ['./{file.name}', {{environment: 'staging'}}]]")
