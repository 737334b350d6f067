"""The input of a unit test of rules: series, baselines, change points, drifts and facts out of a YAML file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.alerts.journal.silences import MuteTime
from pipeline.alerts.judge.entry_views import Baseline, ChangePoint
from pipeline.alerts.judge.facts import FACTS
from pipeline.alerts.judge.memory_source import Ended, MemorySource
from pipeline.alerts.rule_tests import series_notation
from pipeline.alerts.rule_tests.series_notation import STALE, Gap
from pipeline.alerts.rules import lined_yaml
from pipeline.alerts.rules.rule import BASELINE_DIMENSIONS, MINUTE_MS, SERIES_DIMENSIONS
from pipeline.analyse.cycles import MONDAY_S, SLOT_S, SLOTS
from pipeline.base import durations
from pipeline.base.errors import RuleError
from pipeline.base.nearest import nearest
from pipeline.base.text import printable

START_MS = 1_736_553_600_000
"""Time 0 of every test: 2025-01-11, midnight UTC."""

_DAY_MS = 86_400_000
MOST_ROWS = 5_000_000
LONGEST_MS = 31 * _DAY_MS
_LARGEST = 1e300
_DEFAULT_SAMPLES = "100"
_SERIES_KEYS = ("series", "values", "samples")

FactSeries = list[tuple[dict[str, str], dict[int, float]]]


def readings_at(series: FactSeries, tick_ms: int) -> list[tuple[dict[str, str], float]]:
    """A fact holds until its next value, as its interval says."""
    return [(labels, values[tick_ms]) for labels, values in series if tick_ms in values]


def source_of(reader: Reader, test: lined_yaml.Mapping) -> tuple[MemorySource, dict[str, FactSeries]]:
    """The numbers a test gives: windows, baselines and change points, and facts by name. Raises ``RuleError``."""
    interval_ms = reader.duration(test, "interval", default="1m")
    if interval_ms < MINUTE_MS or interval_ms % MINUTE_MS:
        raise reader.wrong(test, "interval", "interval must be a multiple of 1m, the length of a window")
    raw = _RawRows()
    ended: list[Ended] = []
    facts: dict[str, FactSeries] = {}
    for given in reader.mappings(test, "input_series", _SERIES_KEYS, optional=True):
        try:
            name, labels = series_notation.series(given["series"])
            values = series_notation.values(given["values"])
            samples = series_notation.values(given.get("samples", _DEFAULT_SAMPLES))
        except (ValueError, KeyError) as error:
            said = f"a series needs {error}" if isinstance(error, KeyError) else str(error)
            raise reader.wrong(given, "series", said) from None
        if len(values) * interval_ms > LONGEST_MS:
            raise reader.wrong(given, "values", f"a test may be {durations.show(LONGEST_MS)} long at most")
        if name in FACTS:
            facts.setdefault(name, []).append((labels, _fact_values(values, interval_ms)))
            continue
        if unknown := [label for label in labels if label not in (*SERIES_DIMENSIONS, "status")]:
            hint = nearest(unknown[0], (*SERIES_DIMENSIONS, "status"))
            raise reader.wrong(given, "series", f"{unknown[0]!r} is not a dimension of a series; {hint}")
        labels["metric_type"] = name
        try:
            raw.add(labels, values, samples, interval_ms)
        except ValueError as error:
            raise reader.wrong(given, "samples", str(error)) from None
        ended += [
            Ended(labels, (START_MS + i * interval_ms) // 1000) for i, value in enumerate(values) if value is STALE
        ]
    source = MemorySource(
        raw.table(),
        ended=ended,
        baselines=[_baseline(reader, one) for one in reader.listed(test, "baselines")],
        change_points=[
            *(_change_point(reader, one) for one in reader.listed(test, "change_points")),
            *(_drift(reader, one) for one in reader.listed(test, "drifts")),
        ],
    )
    return source, facts


def _fact_values(values: Sequence[float | Gap], interval_ms: int) -> dict[int, float]:
    held: dict[int, float] = {}
    for i, value in enumerate(values):
        if not isinstance(value, Gap):
            begin_ms = START_MS + i * interval_ms
            held |= dict.fromkeys(range(begin_ms, begin_ms + interval_ms, 1000), value)
    return held


class _RawRows:
    """Collects raw rows: in every minute of an interval, its value as often as there are samples."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in (*SERIES_DIMENSIONS, "status")}
        self._times: list[np.ndarray[Any, Any]] = []
        self._values: list[np.ndarray[Any, Any]] = []
        self._rows = 0

    def add(
        self,
        labels: Mapping[str, str],
        values: Sequence[float | Gap],
        samples: Sequence[float | Gap],
        interval_ms: int,
    ) -> None:
        counts = [*samples, *[samples[-1]] * (len(values) - len(samples))] if samples else []
        for i, (value, count) in enumerate(zip(values, counts, strict=False)):
            # What is not finite would be refused when it is decoded, and never reach a window.
            if isinstance(value, Gap) or isinstance(count, Gap) or not math.isfinite(value):
                continue
            if not 0 <= count <= MOST_ROWS:
                raise ValueError(f"samples: {count:g} is not a number of samples")
            end_ms = START_MS + i * interval_ms
            self._rows += int(count) * (interval_ms // MINUTE_MS)
            if self._rows > MOST_ROWS:
                raise ValueError(f"more than {MOST_ROWS:,} samples in one test")
            for minute_ms in range(end_ms - interval_ms, end_ms, MINUTE_MS):
                self._times.append(np.full(int(count), minute_ms))
                self._values.append(np.full(int(count), value))
                for name in self._columns:
                    self._columns[name] += [labels.get(name, "")] * int(count)

    def table(self) -> pa.Table:
        columns: dict[str, Any] = {name: pa.array(column, pa.string()) for name, column in self._columns.items()}
        columns["timestamp_ms"] = pa.array(np.concatenate([np.empty(0, np.int64), *self._times]))
        columns["value"] = pa.array(np.concatenate([np.empty(0), *self._values]))
        return pa.table(columns)


def _baseline(reader: Reader, given: lined_yaml.Mapping) -> Baseline:
    reader.known(given, (*BASELINE_DIMENSIONS, "centre", "spread", "samples", "usual"))
    centre, spread = reader.number(given, "centre"), reader.number(given, "spread", 0)
    samples = int(reader.number(given, "samples", 100))
    cycle, factors = _cycle(reader, given)
    return Baseline(START_MS - _DAY_MS, _labels(given, BASELINE_DIMENSIONS), centre, spread, samples, cycle, factors)


def _cycle(reader: Reader, given: lined_yaml.Mapping) -> tuple[str, Sequence[float]]:
    """What ``usual`` says: times of the week, and what the centre is multiplied by then; the last that holds counts."""
    usual = given.get("usual")
    if usual is None:
        return "", ()
    if not isinstance(usual, lined_yaml.Mapping) or not usual:
        raise reader.wrong(given, "usual", "usual must be a mapping of times to factors, as {Sat-Sun: 0.8}")
    factors, has_days = np.ones(SLOTS), False
    for span in usual:
        if (factor := reader.number(usual, span)) <= 0:
            raise reader.wrong(usual, span, f"{span}: a factor must be above 0")
        try:
            times = MuteTime.parse(span)
        except ValueError as error:
            raise reader.wrong(usual, span, str(error)) from None
        covered = [times.covers((MONDAY_S + at * SLOT_S) * 1000) for at in range(SLOTS)]
        factors[covered] = factor
        has_days |= span.strip()[:1].isalpha()
    return ("weekly" if has_days else "daily"), factors.tolist()


def _change_point(reader: Reader, given: lined_yaml.Mapping) -> ChangePoint:
    reader.known(given, (*SERIES_DIMENSIONS, "at", "change_pct", "points", "level_before"))
    at_ms = START_MS + reader.duration(given, "at")
    before = reader.number(given, "level_before", 100)
    change_pct = reader.number(given, "change_pct")
    after = before * (1 + change_pct / 100)
    points = int(reader.number(given, "points", 12))
    return ChangePoint(at_ms, at_ms, _labels(given, SERIES_DIMENSIONS), change_pct, points, before, after)


def _drift(reader: Reader, given: lined_yaml.Mapping) -> ChangePoint:
    """A drift that is seen at ``at``, with its slope in percent a week and the bounds of it."""
    reader.known(given, (*SERIES_DIMENSIONS, "at", "pct_per_week", "low", "high", "points", "level_before"))
    at_ms = START_MS + reader.duration(given, "at")
    slope = reader.number(given, "pct_per_week")
    low, high = reader.number(given, "low", slope), reader.number(given, "high", slope)
    if not low <= slope <= high:
        raise reader.wrong(
            given, "pct_per_week", f"pct_per_week is {slope:g}, outside of low {low:g} and high {high:g}"
        )
    before, points = reader.number(given, "level_before", 100), int(reader.number(given, "points", 100))
    return ChangePoint(
        changed_at_ms=at_ms - _DAY_MS,
        detected_at_ms=at_ms,
        dimensions=_labels(given, SERIES_DIMENSIONS),
        change_pct=slope / 7,
        points=points,
        level_before=before,
        level_after=before * (1 + slope / 700),
        kind="drift",
        slope_pct_per_day=(slope / 7, low / 7, high / 7),
    )


def _labels(given: lined_yaml.Mapping, names: Sequence[str]) -> dict[str, str]:
    return {name: str(given.get(name, "")) for name in names}


class Reader:
    """Reads the parts of a test file and says where something is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def document(self) -> lined_yaml.Mapping:
        document, problems = lined_yaml.read_file(self.path)
        place = printable(str(self.path))
        if problems:
            raise RuleError(
                "\n".join(f"{place}:{line}: {said}" if line else f"{place}: {said}" for line, said in problems)
            )
        if not isinstance(document, lined_yaml.Mapping):
            raise RuleError(f"{place}:1: expected a mapping with the keys 'rule_files' and 'tests'")
        self.known(document, ("rule_files", "tests"))
        return document

    def wrong(self, mapping: lined_yaml.Mapping, key: str, said: str) -> RuleError:
        return RuleError(f"{printable(str(self.path))}:{mapping.lines.get(key, mapping.line)}: {said}")

    def known(self, mapping: lined_yaml.Mapping, names: Sequence[str]) -> None:
        for key in mapping:
            if key not in names:
                raise self.wrong(mapping, key, f"unknown key {lined_yaml.shown(key)}; {nearest(key[:60], names)}")

    def mappings(
        self, parent: lined_yaml.Mapping, key: str, names: Sequence[str], *, optional: bool = False
    ) -> Iterable[lined_yaml.Mapping]:
        for one in self.listed(parent, key, optional=optional):
            self.known(one, names)
            yield one

    def listed(self, parent: lined_yaml.Mapping, key: str, *, optional: bool = True) -> list[lined_yaml.Mapping]:
        found = parent.get(key)
        if found is None and optional:
            return []
        if not isinstance(found, list) or not all(isinstance(one, lined_yaml.Mapping) for one in found):
            raise self.wrong(parent, key, f"{key!r} must be a list of mappings")
        return found

    def texts(self, parent: lined_yaml.Mapping, key: str) -> dict[str, str]:
        """A mapping of texts, empty when it is absent."""
        found = parent.get(key)
        if found is None:
            return {}
        if not isinstance(found, lined_yaml.Mapping) or any(isinstance(one, dict | list) for one in found.values()):
            raise self.wrong(parent, key, f"{key!r} must be a mapping of names to texts")
        return {name: str(value) for name, value in found.items()}

    def number(self, mapping: lined_yaml.Mapping, key: str, default: float | None = None) -> float:
        raw = mapping.get(key, default)
        if isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) <= _LARGEST:
            return float(raw)
        raise self.wrong(mapping, key, f"{key}: expected a number, not {lined_yaml.shown(raw)}")

    def duration(self, mapping: lined_yaml.Mapping, key: str, default: str | None = None) -> int:
        raw = mapping.get(key, default)
        try:
            span_ms = durations.read_ms(raw[:60] if isinstance(raw, str) else raw)
        except ValueError as error:
            raise self.wrong(mapping, key, f"{key}: {error}") from None
        if span_ms > LONGEST_MS:
            raise self.wrong(mapping, key, f"{key}: a test may be {durations.show(LONGEST_MS)} long at most")
        return span_ms
