"""The views of spans (``windows_of``, ``suites_of``, ``vitals_of``), written out with the tables that a span needs.

ClickHouse plans every branch of a view, also those that can hold nothing: of a figure over three hours that was half
the time. What is asked is what the view would have asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pipeline.base import resources
from pipeline.jobs.coarser import DAY_S, HOUR_S

_CALL = re.compile(
    r"\b(?P<view>windows_of|suites_of|vitals_of)\(from_s = \{from:UInt32\}, to_s = \{to:UInt32\}, "
    r"step_s = (?:(?P<step>\d+)|\{bucket:UInt32\})\)"
)
_TABLE = re.compile(r"\bFROM (\w+) AS w FINAL")
_WINDOW_S = 300


def written_out(sql: str, values: Mapping[str, Any]) -> str:
    """A query of the page, with the views in it replaced for this span; the rest stays as it is."""

    def replaced(call: re.Match[str]) -> str:
        step_s = int(call["step"] or values["bucket"])
        text = "\nUNION ALL\n".join(
            branch
            for table, branch in _branches(call["view"])
            if _is_needed(_width_s(table), int(values["from"]), int(values["to"]), step_s)
        )
        # The span stays a parameter: a statement with one is bound by the server, and may hold any character.
        filled = {"from_s": "{from:UInt32}", "to_s": "{to:UInt32}", "step_s": str(step_s)}
        for name, value in filled.items():
            text = text.replace("{" + name + ":UInt32}", value)
        return f"({text})"

    return _CALL.sub(replaced, sql)


@cache
def _branches(view: str) -> list[tuple[str, str]]:
    """Each table that a view reads windows from, and the SELECT that does."""
    lines = resources.text(f"sql/views/{view}.sql").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--"))
    return [(_TABLE.findall(branch)[0], branch.strip()) for branch in text.split("\nUNION ALL\n")]


def _width_s(table: str) -> int:
    return DAY_S if table.endswith("_1d") else HOUR_S if table.endswith("_1h") else _WINDOW_S


def _is_needed(width_s: int, from_s: int, to_s: int, step_s: int) -> bool:
    """Whether a whole hour (day) lies in the span; its last window may still be under way."""
    first_s = -(-from_s // width_s) * width_s
    return width_s == _WINDOW_S or (step_s % width_s == 0 and first_s + width_s - _WINDOW_S <= to_s)
