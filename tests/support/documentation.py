"""The generated parts of the documentation: ``make docs`` writes them, a test holds them to the code.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from pipeline.base import config

ROOT = Path(__file__).parent.parent.parent
PART = re.compile(r"(<!-- generated: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings() -> str:
    """Every setting with its default and its meaning, as a table."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    lines += [f"| `{path}` | {_default(path, value)} | {meaning} |" for path, value, meaning in config.setting_paths()]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with the first sentence of its help, as a table."""
    from pipeline.cli.main import cli

    lines = ["| command | does |", "|---|---|"]
    lines += [f"| `{path}` | {command.get_short_help_str(limit=300)} |" for path, command in walk(cli, "pipeline")]
    return "\n".join(lines) + "\n"


def walk(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """Every command below ``command`` as one types it, in alphabetical order."""
    if not isinstance(command, click.Group):
        return [(path, command)]
    return [found for name in sorted(command.commands) for found in walk(command.commands[name], f"{path} {name}")]


GENERATED = {"settings": settings, "commands": commands}


def _default(path: str, value: Any) -> str:
    if path == "vitals.browser_aliases":
        return "see `config/pipeline.yaml`"
    if value in ("", None, [], {}):
        return "empty"
    text = json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
    if path == "data_dir":
        text = f"./{text}"
    return f"`{text.removesuffix('.0')}`"


def renewed(text: str) -> str:
    """``text`` with its generated parts as the code has them now."""
    return PART.sub(lambda part: part[1] + GENERATED[part["name"]]() + part[3], text)


def pages() -> list[Path]:
    """Every page of the documentation."""
    folders = [ROOT, *(ROOT / name for name in ("config", "sql", "tests"))]
    return [*(folder / "README.md" for folder in folders), *sorted((ROOT / "pipeline").rglob("README.md"))]


if __name__ == "__main__":
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stderr.write(f"{page.relative_to(ROOT)} renewed\n")
