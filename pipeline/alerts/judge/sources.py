"""Where numbers come from: one query per table and range of ticks, never one per series.

``SourceBatch`` reads what a set of rules needs for a range of ticks and gives each rule its view of each
tick. ``StoreSource`` reads ClickHouse; unit tests of rules and the bench bring their own source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

from pipeline.alerts.judge.entry_views import Baseline, BaselineView, ChangePoint, change_point_view, fact_view
from pipeline.alerts.judge.facts import Facts, readings
from pipeline.alerts.judge.frames import Frame, Selection, needs_memory, select, selection_key
from pipeline.alerts.judge.views import View, WindowView
from pipeline.alerts.rules.rule import BASELINE_DIMENSIONS, SERIES_DIMENSIONS, VITAL_DIMENSIONS, Rule
from pipeline.store.client import Store

Table = Literal["metrics_1min", "metrics_5min", "web_vitals"]

WIDTH_S: dict[Table, int] = {"metrics_1min": 60, "metrics_5min": 300, "web_vitals": 300}
DIMENSIONS: dict[Table, tuple[str, ...]] = {
    "metrics_1min": SERIES_DIMENSIONS,
    "metrics_5min": SERIES_DIMENSIONS,
    "web_vitals": VITAL_DIMENSIONS,
}
_WINDOW_COLUMNS = ("samples", "total", "failed", "sum", "min", "max", "p50", "p75", "p90", "p95", "p99")
COLUMNS: dict[Table, tuple[str, ...]] = {
    "metrics_1min": _WINDOW_COLUMNS,
    "metrics_5min": _WINDOW_COLUMNS,
    "web_vitals": ("samples", "poor", "p75"),
}

BASELINE_MAX_AGE_MS = 8 * 86_400_000
"""A baseline not renewed for longer says nothing any more."""


class Source(Protocol):
    """Reads rows for a range of time; everything else is arithmetic."""

    def windows(
        self, table: Table, metrics: Sequence[str], dimensions: Sequence[str], histograms: bool, from_s: int, to_s: int
    ) -> Frame:
        """Windows that begin in [from, to), ascending by start and series."""
        ...

    def last_seen(
        self, table: Table, metrics: Sequence[str], dimensions: Sequence[str], from_s: int, to_s: int
    ) -> Frame:
        """Per series, as ``starts_s``, the last window that began in [from, to)."""
        ...

    def baselines(self, from_ms: int, to_ms: int) -> Sequence[Baseline]:
        """In order of time: those computed in (from, to], and of each kind the last before."""
        ...

    def change_points(self, from_ms: int, to_ms: int) -> Sequence[ChangePoint]:
        """Changes that happened in (from, to]."""
        ...


class SourceBatch:
    """Everything some rules need for the ticks from ``first_ms`` to ``last_ms``."""

    def __init__(self, source: Source, rules: Sequence[Rule], first_ms: int, last_ms: int, facts: Facts) -> None:
        self._facts = facts
        self._frames: dict[Table, Frame] = {}
        self._last_seen: dict[Table, Frame] = {}
        self._selections: dict[Any, Selection] = {}
        self._views: dict[Any, WindowView] = {}
        for table in dict.fromkeys(table_of(rule) for rule in rules if has_windows(rule)):
            mine = [rule for rule in rules if has_windows(rule) and table_of(rule) == table]
            self._read(source, table, mine, first_ms, last_ms)
        self._baselines: Sequence[Baseline] = ()
        self._changes: Sequence[ChangePoint] = ()
        if compared := [rule for rule in rules if rule.subject == "baselines"]:
            longest = max(rule.window_ms for rule in compared)
            self._baselines = source.baselines(first_ms - longest, last_ms)
        if found := [rule for rule in rules if rule.subject == "change_points"]:
            self._changes = source.change_points(first_ms - max(rule.window_ms for rule in found), last_ms)

    def view_at(self, rule: Rule) -> Callable[[int], View]:
        """What ``rule`` sees at a tick."""
        if rule.subject == "facts":
            return lambda _tick_ms: fact_view(readings(self._facts, rule.fact), rule)
        if rule.subject == "change_points":
            return lambda tick_ms: change_point_view(self._changes, rule, tick_ms)
        if rule.subject == "baselines":
            return lambda tick_ms: BaselineView(self._window(rule, tick_ms), self._baselines, rule, tick_ms)
        return lambda tick_ms: self._window(rule, tick_ms)

    def _window(self, rule: Rule, tick_ms: int) -> WindowView:
        table = table_of(rule)
        key = (table, *selection_key(rule))
        if key not in self._selections:
            last_seen = self._last_seen[table] if needs_memory(rule) else None
            self._selections[key] = select(self._frames[table], rule, last_seen)
        view_key = (*key, rule.window_ms)
        view = self._views.get(view_key)
        if view is None or view.tick_s != tick_ms // 1000:
            # Rules are judged one after the other, each over all its ticks: one view per selection is enough
            # for the usual single tick, and does not pile up over a long range.
            view = WindowView(self._selections[key], tick_ms // 1000, rule.window_ms // 1000)
            self._views[view_key] = view
        return view

    def _read(self, source: Source, table: Table, rules: Sequence[Rule], first_ms: int, last_ms: int) -> None:
        metrics = sorted({metric for rule in rules for metric in rule.metrics})
        used = {name for rule in rules for name in (*rule.by, *rule.where)} | {"metric_type"}
        dimensions = [name for name in DIMENSIONS[table] if name in used]
        from_s = (first_ms - max(rule.window_ms for rule in rules)) // 1000
        histograms = any(rule.quantile is not None or "avg" in _parts(rule) for rule in rules)
        self._frames[table] = source.windows(table, metrics, dimensions, histograms, from_s, last_ms // 1000)
        if remembering := [rule for rule in rules if needs_memory(rule)]:
            since_s = (first_ms - max(rule.remember_ms for rule in remembering)) // 1000
            self._last_seen[table] = source.last_seen(table, metrics, dimensions, since_s, from_s)


def has_windows(rule: Rule) -> bool:
    """Whether the rule reads a table of windows."""
    return rule.subject in ("windows", "vitals", "baselines")


def table_of(rule: Rule) -> Table:
    """The table whose windows answer the rule with the least reading."""
    if rule.subject == "vitals":
        return "web_vitals"
    return "metrics_5min" if rule.five_minutes else "metrics_1min"


class StoreSource:
    """Reads the windows of ``store``. Raises ``StoreOutage`` when ClickHouse is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def windows(
        self, table: Table, metrics: Sequence[str], dimensions: Sequence[str], histograms: bool, from_s: int, to_s: int
    ) -> Frame:
        """Windows that begin in [from, to), ascending by start and series."""
        columns = [*COLUMNS[table], *(["histogram"] if histograms else [])]
        order = ["window_start", *(_column(table, name) for name in DIMENSIONS[table])]
        found = self._store.query(
            f"SELECT {', '.join(['window_start', *_named(table, dimensions), *columns])} FROM {table} "
            f"WHERE {_range(table)} ORDER BY {', '.join(order)}",
            {"from": from_s, "to": to_s, "metrics": list(metrics)},
        )
        return Frame.of(found, WIDTH_S[table])

    def last_seen(
        self, table: Table, metrics: Sequence[str], dimensions: Sequence[str], from_s: int, to_s: int
    ) -> Frame:
        """The last window of every series in [from, to)."""
        names = [_column(table, name) for name in dimensions]
        found = self._store.query(
            f"SELECT max({table}.window_start) AS last, {', '.join(_named(table, dimensions))} FROM {table} "
            f"WHERE {_range(table)} GROUP BY {', '.join(names)} ORDER BY last",
            {"from": from_s, "to": to_s, "metrics": list(metrics)},
        )
        return Frame.of(found.rename_columns(["window_start", *dimensions]), WIDTH_S[table])

    def baselines(self, from_ms: int, to_ms: int) -> Sequence[Baseline]:
        """Baselines with enough history, in order of time."""
        names = ", ".join(BASELINE_DIMENSIONS)
        numbers = "(computed_at, centre, spread, samples, cycle, cycle_factors)"
        rows = self._store.rows(
            f"SELECT {names}, argMax({numbers}, computed_at) AS one FROM baselines "
            "WHERE computed_at > fromUnixTimestamp64Milli({oldest:Int64}) "
            "AND computed_at <= fromUnixTimestamp64Milli({from:Int64}) "
            f"AND state NOT IN ('insufficient_history', 'learning') GROUP BY {names} "
            f"UNION ALL SELECT {names}, {numbers} AS one FROM baselines "
            "WHERE computed_at > fromUnixTimestamp64Milli({from:Int64}) "
            "AND computed_at <= fromUnixTimestamp64Milli({to:Int64}) "
            "AND state NOT IN ('insufficient_history', 'learning')",
            {"oldest": from_ms - BASELINE_MAX_AGE_MS, "from": from_ms, "to": to_ms},
        )
        found = []
        for *dimensions, one in rows:
            computed_at, centre, spread, samples, cycle, factors = one.values() if isinstance(one, dict) else one
            at_ms = round(computed_at.timestamp() * 1000)
            labels = dict(zip(BASELINE_DIMENSIONS, dimensions, strict=True))
            found.append(Baseline(at_ms, labels, centre, spread, samples, cycle, tuple(factors)))
        return sorted(found, key=lambda baseline: baseline.computed_at_ms)

    def change_points(self, from_ms: int, to_ms: int) -> Sequence[ChangePoint]:
        """Steps that happened in (from, to], and drifts found then."""
        rows = self._store.rows(
            "SELECT toUnixTimestamp64Milli(changed_at), toUnixTimestamp64Milli(detected_at), change_pct, "
            "points_after, level_before, level_after, kind, slope_pct_per_day, slope_low, slope_high, explanation, "
            f"{', '.join(SERIES_DIMENSIONS)}, if(kind = 'drift', detected_at, changed_at) AS since FROM change_points "
            "WHERE since > fromUnixTimestamp64Milli({from:Int64}) "
            "AND since <= fromUnixTimestamp64Milli({to:Int64}) ORDER BY since",
            {"from": from_ms, "to": to_ms},
        )
        return [
            ChangePoint(at, found, dict(zip(SERIES_DIMENSIONS, rest[:-1], strict=True)), *figures)
            for at, found, figures, rest in (
                (row[0], row[1], (*row[2:7], row[7:10], row[10]), row[11:]) for row in rows
            )
        ]


def _parts(rule: Rule) -> tuple[str, ...]:
    """The statistics that a rule's number is made of."""
    return ("avg",) if rule.subject == "baselines" else (rule.statistic,)


def _column(table: Table, dimension: str) -> str:
    return "vital" if table == "web_vitals" and dimension == "metric_type" else dimension


def _named(table: Table, dimensions: Iterable[str]) -> list[str]:
    return [
        dimension if _column(table, dimension) == dimension else f"{_column(table, dimension)} AS {dimension}"
        for dimension in dimensions
    ]


def _range(table: Table) -> str:
    return (
        "window_start >= toDateTime({from:UInt32}, 'UTC') AND window_start < toDateTime({to:UInt32}, 'UTC') "
        f"AND lower({_column(table, 'metric_type')}) IN {{metrics:Array(String)}}"
    )
