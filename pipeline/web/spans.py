"""The views of spans (``windows_of``, ``suites_of``, ``vitals_of``) written out: ranges of the tables that are needed.

ClickHouse plans every branch of a view, also those that can hold nothing, and to find the days and hours that are
merged it reads their tables once more for each: of most figures that was more than half of the time. Here the days and
hours are known beforehand (``MergedSpans``), and filters that are not set and columns that the query does not name
are left out: to plan them costs more than to read windows. What is asked is what the view would have asked.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.base import resources
from pipeline.jobs.coarser import DAY_S, HOUR_S

if TYPE_CHECKING:
    from pipeline.store.client import Store

_CALL = re.compile(
    r"\b(?P<view>windows_of|suites_of|vitals_of)\(from_s = \{from:UInt32\}, "
    r"to_s = (?:\{to:UInt32\}|(?P<before>\{since:UInt32\} - 1)), "
    r"step_s = (?:(?P<step>\d+)|\{bucket:UInt32\})\)"
)
_COLUMN = re.compile(r"([\w.]+) AS (\w+)")
_FILTER = re.compile(r"\(\{(?P<name>\w+):String\} = '' OR (?P<condition>[\w.]+ = \{(?P=name):String\})\)")
_NAME = re.compile(r"\b\w+\b(?!\()")
_TABLE = re.compile(r"\bFROM (\w+) AS w FINAL")
_OF_TIME = re.compile(r"window_start|from_s|to_s|step_s")
_WINDOW_S = 300
_MOST_RANGES = 200
"""With more holes than this the view itself is asked."""
_REMEMBERED_S = 60.0

Merged = Callable[[str, int], Set[int]]
"""The starts of what a table of hours or days holds, from a time on: epoch seconds."""


class _Branch(NamedTuple):
    table: str
    columns: tuple[tuple[str, str], ...]
    """Name and expression, as the view selects them."""
    filters: str
    """Conditions that are not about time, each with its AND."""


class MergedSpans:
    """Which hours and days are there, remembered for a minute.

    One that came since is read as the windows that it was merged from, which give the same figures.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, int, frozenset[int]]] = {}
        """By table: when it was read (monotonic), from which start on, and the starts."""

    def of(self, store: Store) -> Merged:
        """What ``written_out`` asks."""

        def merged(table: str, from_s: int) -> Set[int]:
            with self._lock:
                read_s, since_s, starts = self._known.get(table, (float("-inf"), 0, frozenset()))
            if time.monotonic() - read_s < _REMEMBERED_S and since_s <= from_s:
                return starts
            began_s = time.monotonic()
            starts = frozenset(
                start
                for (start,) in store.rows(
                    f"SELECT DISTINCT toUnixTimestamp(w.window_start) FROM {table} AS w "
                    "WHERE w.window_start >= toDateTime({from:UInt32}, 'UTC') SETTINGS final = 0",
                    {"from": from_s},
                )
            )
            with self._lock:
                self._known[table] = (began_s, from_s, starts)
            return starts

        return merged


def written_out(sql: str, values: Mapping[str, Any], merged: Merged) -> str:
    """A query of the page, with the views in it replaced for this span; the rest means what it did."""
    from_s, to_s = int(values["from"]), int(values["to"])

    def filtered(found: re.Match[str]) -> str:
        return found["condition"] if values.get(found["name"], "") else "1"

    sql = _FILTER.sub(filtered, sql)
    named = frozenset(_NAME.findall(sql))

    def replaced(call: re.Match[str]) -> str:
        branches = _branches(call["view"])
        end_s = int(values["since"]) - 1 if call["before"] else to_s
        ranges = {
            table: list(_ranges(starts, _width_s(table)))
            for table, starts in _starts(
                [branch.table for branch in branches], from_s, end_s, int(call["step"] or values["bucket"]), merged
            ).items()
        }
        if max(map(len, ranges.values())) > _MOST_RANGES:
            return call[0]
        needed = [branch for branch in branches if ranges[branch.table]] or branches[-1:]
        return "(" + "\nUNION ALL\n".join(_limited(branch, ranges[branch.table], named) for branch in needed) + ")"

    # The client reads a statement letter by letter: without comments and indentation that is a tenth of a short answer.
    lines = (line.strip() for line in _CALL.sub(replaced, sql).splitlines())
    return "\n".join(line for line in lines if not line.startswith("--"))


def _starts(tables: Iterable[str], from_s: int, to_s: int, step_s: int, merged: Merged) -> dict[str, Iterable[int]]:
    """What is read of each table, in order: whole days where there are any, then whole hours, then windows.

    A whole hour (day) lies in the span, though its last window may still be under way.
    """
    by_width = {_width_s(table): table for table in tables}
    days, hours = (
        frozenset(
            start
            for start in (merged(by_width[width_s], from_s) if step_s % width_s == 0 and width_s in by_width else ())
            if from_s <= start <= to_s - width_s + _WINDOW_S
        )
        for width_s in (DAY_S, HOUR_S)
    )
    found: dict[int, list[int]] = {DAY_S: sorted(days), HOUR_S: [], _WINDOW_S: []}
    for hour_s in range(from_s // HOUR_S * HOUR_S, to_s + 1, HOUR_S):
        if hour_s // DAY_S * DAY_S in days:
            continue
        if hour_s in hours:
            found[HOUR_S].append(hour_s)
        else:
            found[_WINDOW_S] += [
                start for start in range(hour_s, hour_s + HOUR_S, _WINDOW_S) if from_s <= start <= to_s
            ]
    return {table: found[width_s] for width_s, table in by_width.items()}


def _ranges(starts: Iterable[int], width_s: int) -> Iterator[tuple[int, int]]:
    """Starts in order as ranges without holes, their ends excluded."""
    first = end = None
    for start in starts:
        if first is None:
            first = start
        elif start != end:
            yield first, end or start
            first = start
        end = start + width_s
    if first is not None and end is not None:
        yield first, end


def _limited(branch: _Branch, ranges: Iterable[tuple[int, int]], named: Set[str]) -> str:
    chosen = ", ".join(
        name if of == f"w.{name}" else f"{of} AS {name}"
        for name, of in branch.columns
        if name in named or name == "window_start"
    )
    of_time = " OR ".join(
        f"w.window_start >= toDateTime({first}, 'UTC') AND w.window_start < toDateTime({end}, 'UTC')"
        for first, end in ranges
    )
    # The span stays a parameter: a statement with one is bound by the server, and may hold any character.
    return (
        f"SELECT {chosen}\nFROM {branch.table} AS w FINAL\nWHERE w.window_start >= toDateTime({{from:UInt32}}, 'UTC') "
        f"AND ({of_time or '0'}){branch.filters}"
    )


@cache
def _branches(view: str) -> list[_Branch]:
    """Each SELECT of a view, by the table that it reads windows from."""
    lines = resources.text(f"sql/views/{view}.sql").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("--"))
    return [_branch(branch.strip()) for branch in text.split("\nUNION ALL\n")]


def _branch(text: str) -> _Branch:
    head, _, conditions = text.partition("\nWHERE ")
    filters = [line for line in conditions.splitlines() if line.startswith("    AND ") and not _OF_TIME.search(line)]
    return _Branch(
        _TABLE.findall(head)[0],
        tuple((name, of) for of, name in _COLUMN.findall(head.partition("FROM ")[0])),
        "".join("\n" + line for line in filters),
    )


def _width_s(table: str) -> int:
    return DAY_S if table.endswith("_1d") else HOUR_S if table.endswith("_1h") else _WINDOW_S
