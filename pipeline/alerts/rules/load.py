"""Where alert rules are read: ``config/rules.yaml`` as shipped, or the file of ``alerts.rules_file``.

A rule that makes no sense is refused with file, line and the nearest valid name, all mistakes of
a file at once; a service that is told to reload keeps its old rules when that happens.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.alerts.rules import fields as rule_fields
from pipeline.alerts.rules import lined_yaml
from pipeline.alerts.rules.rule import Rule
from pipeline.base import resources
from pipeline.base.errors import RuleError
from pipeline.base.text import printable


def shipped_path() -> Path:
    """The rules that come with the product."""
    return resources.path("config/rules.yaml")


def load(path: str | Path = "") -> list[Rule]:
    """Read the rules of ``path`` (empty: the shipped ones).

    Raises ``RuleError`` naming every mistake with its file and line.
    """
    place = Path(path) if path else shipped_path()
    rules, problems = _read(place)
    if problems:
        raise RuleError("\n".join(problems))
    return rules


def check(path: str | Path = "") -> list[str]:
    """Every mistake in a rules file, each with file and line; empty when it is valid."""
    place = Path(path) if path else shipped_path()
    return _read(place)[1]


def _read(path: Path) -> tuple[list[Rule], list[str]]:
    document, problems = lined_yaml.read_file(path)
    rules: list[Rule] = []
    if not problems:
        rules, problems = rule_fields.parse(document)
    place = printable(str(path))
    return rules, [f"{place}:{line}: {said}" if line else f"{place}: {said}" for line, said in sorted(problems)]
