"""Reads a report as ``push`` does, and shows what came of it."""

import io
import json
from typing import Any

from pipeline.client.importers import formats
from pipeline.client.importers.report import Context, Report, ReportRefused

NOW_MS = 1_795_820_400_000
"""2026-11-27T23:00:00Z, the time of import in these tests."""


def read(content: str | bytes | dict[str, Any] | list[Any], format: str = "", **context: Any) -> Report:
    """The report; its warnings are in ``warnings_of``."""
    report, _ = read_and_warn(content, format, **context)
    return report


def read_and_warn(
    content: str | bytes | dict[str, Any] | list[Any], format: str = "", **context: Any
) -> tuple[Report, list[str]]:
    """The report, and the sentences of what is odd in it."""
    if isinstance(content, dict | list):
        content = json.dumps(content)
    stream = io.BytesIO(content.encode() if isinstance(content, str) else content)
    told = Context(NOW_MS, **context)
    return formats.read(stream, told, format), told.warnings.lines()


def rows(content: str | bytes | dict[str, Any] | list[Any], format: str = "", **context: Any) -> list[dict[str, Any]]:
    """The metrics of a report."""
    return read(content, format, **context).rows(NOW_MS)


def refusal(content: str | bytes | dict[str, Any] | list[Any], format: str = "") -> str:
    """The sentence by which a report is refused."""
    try:
        read(content, format)
    except ReportRefused as error:
        return str(error)
    raise AssertionError("it was read")


def shown(content: str | bytes | dict[str, Any] | list[Any], *fields: str, **context: Any) -> list[tuple[Any, ...]]:
    """These fields of each row."""
    return [tuple(row.get(field, "") for field in fields) for row in rows(content, **context)]
