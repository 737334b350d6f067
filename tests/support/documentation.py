"""The generated parts of the documentation: ``make docs`` writes them, a test holds them to the code.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel

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


def schema() -> str:
    """The platform's Redis in one screen: a row a database, what its keys become, and what is written to it."""
    from pipeline.collect.catalogue import shipped

    lines = ["| database | read of it | becomes | written to it |", "|---|---|---|---|"]
    for name, number in config.RedisDatabases().model_dump().items():
        entries = [entry for entry in shipped() if entry.database == name]
        read = [entry for entry in entries if entry.writer == "platform"]
        types = dict.fromkeys(metric_type for entry in read for metric_type in entry.metric_types())
        written = [entry.glob for entry in entries if entry.writer == "pipeline"]
        globs = " ".join(f"`{entry.glob}`" for entry in read)
        lines.append(f"| {number} {name} | {globs} | {' '.join(types)} | {' '.join(f'`{glob}`' for glob in written)} |")
    return "\n".join(lines) + "\n"


def walk(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """Every command below ``command`` as one types it, in alphabetical order."""
    if not isinstance(command, click.Group):
        return [(path, command)]
    return [found for name in sorted(command.commands) for found in walk(command.commands[name], f"{path} {name}")]


GENERATED = {"settings": settings, "commands": commands, "schema": schema}


def _default(path: str, value: Any) -> str:
    if path == "vitals.browser_aliases":
        return "see `config/pipeline.yaml`"
    if value in ("", None, [], {}):
        return "empty"
    text = json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
    if path == "data_dir":
        text = f"./{text}"
    return f"`{text.removesuffix('.0')}`"


HEAD = """\
# Every setting with its default. A file like this one is read when PIPELINE_CONFIG names it; it needs
# to hold only what differs. Each setting can also be given by the environment, which wins:
# redis.pool.max_connections is PIPELINE_REDIS__POOL__MAX_CONNECTIONS, data_dir is PIPELINE_DATA_DIR.
# A secret may stand in a file: PIPELINE_CLICKHOUSE__DSN_FILE=/run/secrets/clickhouse_dsn.
"""


def settings_file() -> str:
    """``config/pipeline.yaml``: every setting with its default, its meaning as a comment."""
    return HEAD + "\n".join(_yaml_lines(config.Settings, 0)) + "\n"


def _yaml_lines(model: type[BaseModel], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        inner = field.annotation
        if depth == 0:
            yield ""
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield f"{indent}{name}:  # {(inner.__doc__ or '').splitlines()[0].removesuffix('.').replace('``', '')}"
            yield from _yaml_lines(inner, depth + 1)
            continue
        value = field.get_default(call_default_factory=True)
        comment = f"  # {field.description or ''}"
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:{comment}"
            yield from (f"{indent}  {key}: {_yaml_value(one)}" for key, one in value.items())
        else:
            yield f"{indent}{name}: {_yaml_value(value)}{comment}"


def _yaml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Path):
        return f"./{value}"
    if isinstance(value, list):
        return f"[{', '.join(_yaml_value(one) for one in value)}]"
    if isinstance(value, str) and yaml.safe_load(f"a: {value}") == {"a": value}:
        return value
    return json.dumps(value)


def renewed(text: str) -> str:
    """``text`` with its generated parts as the code has them now."""
    return PART.sub(lambda part: part[1] + GENERATED[part["name"]]() + part[3], text)


def pages() -> list[Path]:
    """Every page of the documentation."""
    folders = [ROOT, *(ROOT / name for name in ("config", "sql", "tests"))]
    return [*(folder / "README.md" for folder in folders), *sorted((ROOT / "pipeline").rglob("README.md"))]


def files() -> dict[Path, str]:
    """Every generated file, and every page with generated parts, as it should read now."""
    found = {page: renewed(page.read_text(encoding="utf-8")) for page in pages()}
    return {ROOT / "config/pipeline.yaml": settings_file(), **found}


if __name__ == "__main__":
    for file, text in files().items():
        if file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            sys.stderr.write(f"{file.relative_to(ROOT)} renewed\n")
