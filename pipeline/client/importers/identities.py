"""What each producer's tests are called: one table, which ``--identity`` may differ from.

A rule is three templates over what a report says of a test. ``{nodeid}``, ``{nodename}`` and ``{module}`` are
those of pytest's node id, so that pytest's JUnit report, its JSON report, CTRF and our plugin name a test alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.base.errors import UsageError
from pipeline.client.identity import pytest_identity, pytest_node_id
from pipeline.client.importers.report import Context

FIELDS = ("test_id", "test_name", "test_suite")
_PYTEST = {"test_id": "{nodeid}", "test_name": "{nodename}", "test_suite": "{module}"}
_DOTNET = {"test_id": "{classname}::{name}", "test_name": "{name}", "test_suite": "{classname}"}
_BY_FILE = {"test_id": "{file}::{name}", "test_name": "{name}", "test_suite": "{file}"}

_NAMES = ("classname", "name", "suite", "file", "fullname", "nodeid", "nodename", "module")
"""What a template may name."""

RULES: dict[str, Mapping[str, str]] = {
    "junit": {"test_id": "{classname}::{name}", "test_name": "{name}", "test_suite": "{suite}"},
    "pytest": _PYTEST,
    "playwright": _BY_FILE,
    "ctrf": {"test_id": "{suite}::{name}", "test_name": "{name}", "test_suite": "{suite}"},
    "mocha": _BY_FILE,
    "mocha-junit": _BY_FILE,
    "mocha-xunit": _BY_FILE,
    "wdio": _BY_FILE,
    "cucumber": {"test_id": "{suite}::{name}", "test_name": "{name}", "test_suite": "{suite}"},
    "cypress": _BY_FILE,
    "jest": _BY_FILE,
    "jest-junit": _BY_FILE,
    "vitest": _BY_FILE,
    "vitest-junit": _BY_FILE,
    "node-test": _BY_FILE,
    "trx": _DOTNET,
    "nunit": _DOTNET,
    "xunit": _DOTNET,
    "allure": {"test_id": "{fullname}", "test_name": "{name}", "test_suite": "{suite}"},
}
"""Producer to templates; a producer that is not here follows its format."""


def identity(producer: str, format: str, context: Context, **said: str) -> tuple[str, str, str]:
    """(test_id, test_name, test_suite) of a test of which the report says ``said``."""
    rule = {**(RULES.get(producer) or RULES[format]), **context.identity.get(producer or format, {})}
    names = {"classname": "", "name": "", "suite": "", "file": "", "fullname": "", **said}
    names["file"] = relative(names["file"], context.root)
    names["suite"] = relative(names["suite"], context.root)
    if any("{node" in template or "{module" in template for template in rule.values()):
        nodeid = said.get("nodeid") or _node_id(names["classname"], names["name"], names["file"], context)
        names["nodeid"], names["nodename"], names["module"] = pytest_identity(nodeid)
    filled = [_filled(rule[field], names) for field in FIELDS]
    return filled[0], filled[1], filled[2]


def relative(path: str, root: str) -> str:
    """The path from ``root`` on, with slashes; one that does not lie under it stays as it is."""
    if not root or not path:
        return path
    base = root.replace("\\", "/").rstrip("/") + "/"
    plain = path.replace("\\", "/")
    return plain.removeprefix(base) if plain.startswith(base) else path


def _node_id(classname: str, name: str, file: str, context: Context) -> str:
    place = context.place_of(classname) if name and not file else None
    return "::".join([*place, name]) if place else pytest_node_id(classname, name, file)


def rules_of(options: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The rules of ``--identity PRODUCER.FIELD=TEMPLATE``. Raises ``UsageError``."""
    rules: dict[str, dict[str, str]] = {}
    for option in options:
        name, equals, template = option.partition("=")
        producer, _, field = name.rpartition(".")
        if not equals or field not in FIELDS or not producer:
            raise UsageError(f"--identity takes PRODUCER.FIELD=TEMPLATE (FIELD: {', '.join(FIELDS)}), not {option!r}")
        try:
            template.format_map(dict.fromkeys(_NAMES, ""))
        except (KeyError, ValueError, IndexError, AttributeError):
            names = ", ".join(f"{{{name}}}" for name in _NAMES)
            raise UsageError(f"--identity {option!r}: a template may name {names}") from None
        rules.setdefault(producer, {})[field] = template
    return rules


def _filled(template: str, names: Mapping[str, str]) -> str:
    """The template filled; what stands before ``::`` falls away where it is empty."""
    return template.format_map(names).removeprefix("::").removesuffix("::")
