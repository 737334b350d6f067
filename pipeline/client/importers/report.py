"""What importers share: what they are told, what they give back, what they refuse, what they warn of.

One odd detail never costs a report: it costs a warning that names its place, and what hangs on it is left out or stored
without it. Only what cannot be read at all is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from pipeline.client.attempts import Execution, rows


class ReportRefused(Exception):
    """What is wrong with a report, and where: nothing is read from it."""


class ReportBroken(ReportRefused):
    """A report by all signs, that cannot be read: cut off, for one. In a directory too that is no file to pass over."""


class Warnings:
    """Odd details: each kind once, with its first place and how often."""

    def __init__(self) -> None:
        self._found: dict[str, list[Any]] = {}

    def add(self, kind: str, place: str = "", shown: object = None) -> None:
        """``kind`` says what is odd and what becomes of it; ``shown`` is an example."""
        found = self._found.setdefault(kind, [place, shown, 0])
        found[2] += 1

    def lines(self) -> list[str]:
        """One sentence a kind."""
        lines = []
        for kind, (place, shown, count) in self._found.items():
            example = f" ({str(shown)[:60]!r})" if shown is not None else ""
            times = f", {count:,} times" if count > 1 else ""
            lines.append(f"{place + ': ' if place else ''}{kind}{example}{times}")
        return lines


@dataclass
class Context:
    """What an importer is told, and where it puts its warnings."""

    now_ms: int
    """The time of what carries none."""
    zone: tzinfo | None = None
    """The zone of times that name none; None is UTC, or what fits (``times``)."""
    properties: frozenset[str] = frozenset()
    """Properties of a report that become tags besides those that name the run."""
    identity: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Rules of identity by producer that differ from ``identities``."""
    future_ms: int = 300_000
    root: str = ""
    """The directory of the checkout: absolute paths under it become relative, since machines differ in it."""
    place_of: Callable[[str], tuple[str, ...] | None] = lambda _: None
    """What the checkout says of a dotted name (``client/checkout.py``)."""
    warnings: Warnings = field(default_factory=Warnings)


@dataclass
class Report:
    """What was read."""

    format: str
    producer: str = ""
    """The tool that wrote it, where the report tells."""
    executions: list[Execution] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """What is no execution: vitals, scores."""
    troubles: list[str] = field(default_factory=list)
    """Why the run behind the report did not do its work: exit code 1, although something was read."""

    def rows(self, now_ms: int) -> list[dict[str, Any]]:
        """All metrics, in the order of the report."""
        return [*(row for execution in self.executions for row in rows(execution, now_ms)), *self.metrics]
