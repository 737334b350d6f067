"""Writes Web Vitals: 5-minute windows to the table ``web_vitals``, the last hour to Redis.

``write_windows`` is called by the job that knows which windows were touched (the rollup job, before it forgets their
minutes) and is safe to repeat: a window is a function of its raw rows, its revision grows with their
number, and it is written whole. ``run`` publishes ``cwv:{browser}:{vital}`` and ``compat:scores`` from the raw
rows of the last ``vitals.rolling_s`` seconds and remembers nothing that the next turn would need.

Reports of one page view are counted once *within* a window, respectively within the rolling hour.

When ClickHouse or Redis is away the outage is raised; the next turn catches up. Should no process publish any
more, the keys expire instead of passing old figures off as the last hour.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.analyse.dimensions import VITALS, WINDOW_DIMENSIONS
from pipeline.analyse.vitals import (
    PERCENTILE_DEFINITION,
    RATED_BY,
    FormFactors,
    assess,
    assess_reports,
    reported_browser,
)
from pipeline.analyse.windows import is_final, revision
from pipeline.base import keys
from pipeline.base.clock import iso_seconds
from pipeline.base.failpoints import hit
from pipeline.base.redis_link import outages
from pipeline.jobs import vitals_rows
from pipeline.jobs.redis_text import number, report_damaged
from pipeline.jobs.vitals_rows import Span

if TYPE_CHECKING:
    import redis
    from redis.client import Pipeline

    from pipeline.base.config import Settings
    from pipeline.store.client import Store

TABLE = "web_vitals"
WINDOW_S = 300

_WINDOWS_PER_READ = 12
"""At most: the windows of an hour lie in one or two partitions. Busy windows are read alone, and in pieces."""

# The payload of redis-schema.md first, then the pipeline's own fields. All of these are figures of ``assess``.
_FIGURES = (
    *("avg", "p95", "p75", "samples", "rating"),
    *("p50", "p90", "p99", "good", "needs_improvement", "poor"),
    *("p75_rated", "p75_low", "p75_high", "p95_low", "p95_high", "low_confidence", "p95_low_confidence"),
    *("lighthouse_score", "is_legacy", "form_factor"),
)


_EXECUTIONS = """
SELECT browser, countIf(statusWord(status) NOT IN ('skipped', 'retried')) AS total,
       countIf(statusWord(status) IN ('passed', 'flaky')) AS passed
FROM metrics
WHERE lower(metric_type) = 'duration'
  AND timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
  AND timestamp < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
GROUP BY browser
"""


@dataclass
class VitalsReport:
    """What one publication held: ``cwv`` hashes written and removed, browsers scored."""

    published: int = 0
    removed: int = 0
    browsers_scored: int = 0


@dataclass
class VitalsJob:
    """Web Vitals out of ``store``, into it and into the Redis database ``metrics``."""

    store: Store
    redis: redis.Redis
    settings: Settings
    stop: threading.Event = field(default_factory=threading.Event)
    """Looked at between two pieces."""
    _published: set[str] | None = field(default=None)

    def write_windows(self, starts_s: Collection[int], now_ms: int) -> int:
        """Compute the 5-minute windows that begin at ``starts_s`` (epoch seconds) and write them; returns rows written.

        One insert per window. ``revision`` is twice the raw vitals of the window plus one when it is
        final (``rollups.grace_s`` past its end): the revision of more rows wins, in whatever order they are written.
        A window without vitals is not written. Raises ``StoreOutage``; then some may be written.
        """
        written = 0
        for spans in self._packed(sorted(starts_s)):
            for start, raw_rows, assessed in self._assessed(spans):
                rows = self._stamped(assessed, start, raw_rows, now_ms)
                hit("vitals.before_insert")
                self.store.insert(TABLE, rows)
                written += rows.num_rows
        return written

    def _packed(self, starts_s: list[int]) -> Iterator[dict[int, Span]]:
        """Windows that are read together, by start; those without vitals are left out."""
        pending = starts_s
        while pending:
            # Neighbours in one read, however far apart the windows lie otherwise.
            batch = [
                start for start in pending[:_WINDOWS_PER_READ] if start < pending[0] + _WINDOWS_PER_READ * WINDOW_S
            ]
            pending = pending[len(batch) :]
            rows = vitals_rows.count(self.store, batch[0] * 1000, (batch[-1] + WINDOW_S) * 1000, WINDOW_S)
            packed: dict[int, Span] = {}
            for start in batch:
                if start not in rows:
                    continue
                span = Span(start * 1000, (start + WINDOW_S) * 1000, rows[start])
                if packed and sum(one.total for one in packed.values()) + span.total > vitals_rows.PIECE_ROWS:
                    yield packed
                    packed = {}
                packed[start] = span
            if packed:
                yield packed

    def _assessed(self, spans: dict[int, Span]) -> Iterator[tuple[int, int, pa.Table]]:
        """Of each window its start, how many raw rows it was made of, and its assessment."""
        aliases = self.settings.vitals.browser_aliases
        first, last = min(spans), max(spans)
        if len(spans) == 1 and spans[first].total > vitals_rows.PIECE_ROWS:
            parts = self._assess_pieces(spans[first], WINDOW_DIMENSIONS)
            yield first, spans[first].total, pa.concat_tables(parts).unify_dictionaries()
            return
        types = dict.fromkeys(metric_type for span in spans.values() for metric_type in span.rows)
        whole = Span(first * 1000, (last + WINDOW_S) * 1000, dict.fromkeys(types, 0))
        views = vitals_rows.read(self.store, whole, WINDOW_DIMENSIONS)
        window = views.column("timestamp").cast(pa.int64()).to_numpy() // (WINDOW_S * 1000) * WINDOW_S
        for start in spans:
            of_window = views.filter(pa.array(window == start))
            yield start, of_window.num_rows, assess(of_window, aliases, WINDOW_DIMENSIONS, self._form_factors())

    def _form_factors(self) -> FormFactors:
        return FormFactors(self.settings.vitals.form_factor, self.settings.vitals.form_factors)

    def _assess_pieces(self, span: Span, dimensions: tuple[str, ...]) -> list[pa.Table]:
        aliases = self.settings.vitals.browser_aliases
        found = vitals_rows.reports(self.store, span, aliases, dimensions, self.stop)
        return [assess_reports(reports, dimensions, self._form_factors()) for reports in found]

    def run(self, now_ms: int) -> VitalsReport:
        """Publish the vitals and the scores of the ``vitals.rolling_s`` seconds up to ``now_ms``, inclusive.

        All pages and environments together, exact, from the raw rows. Raises ``StoreOutage`` or ``RedisOutage``.
        """
        from_ms, to_ms = now_ms - self.settings.vitals.rolling_s * 1000 + 1, now_ms + 1
        span = vitals_rows.span_of(self.store, from_ms, to_ms)
        parts = self._assess_pieces(span, ("browser",))
        assessed = [row for part in parts for row in part.drop_columns(["histogram"]).to_pylist()]
        scores = self._scores(from_ms, to_ms)
        with outages():
            return self._publish(assessed, scores, now_ms)

    def _stamped(self, rows: pa.Table, start_s: int, raw_rows: int, now_ms: int) -> pa.Table:
        final = is_final(start_s, WINDOW_S, now_ms, self.settings.rollups.grace_s)
        stamped = {
            "window_start": pa.array(np.full(rows.num_rows, start_s, dtype=np.uint32)),
            "revision": pa.array(np.full(rows.num_rows, revision(raw_rows, final), dtype=np.uint64)),
            "is_final": pa.array(np.full(rows.num_rows, final)),
            "computed_at": pa.array(np.full(rows.num_rows, now_ms), pa.timestamp("ms", "UTC")),
        }
        return pa.table({name: rows.column(name) for name in rows.column_names} | stamped)

    def _scores(self, from_ms: int, to_ms: int) -> dict[Any, str]:
        """Per reported browser the percentage of its executions that passed; no browser, no score."""
        aliases = self.settings.vitals.browser_aliases
        counted: dict[str, tuple[int, int]] = {}
        for sent, total, passed in self.store.rows(_EXECUTIONS, {"from_ms": from_ms, "to_ms": to_ms}):
            browser = reported_browser(sent, aliases)
            totals = counted.get(browser, (0, 0))
            counted[browser] = totals[0] + total, totals[1] + passed
        return {
            browser: _percentage(passed, total) for browser, (total, passed) in counted.items() if browser and total
        }

    def _publish(self, assessed: list[dict[str, Any]], scores: dict[Any, str], now_ms: int) -> VitalsReport:
        span_s = self.settings.vitals.rolling_s
        before = self._published_before()
        present: set[str] = set()
        pipeline = self.redis.pipeline(transaction=False)
        skip = self.settings.publish.skip
        for row in assessed:
            # The platform's schema knows no keys for what only laboratories measure.
            if not row["browser"] or VITALS[row["vital"]].is_lab or "web_vitals" in skip:
                continue
            key = keys.cwv(row["browser"], row["vital"])
            present.add(key)
            fields, absent = _fields(row, span_s, now_ms)
            pipeline.hset(key, mapping=fields)
            if absent:
                pipeline.hdel(key, *absent)
            pipeline.expire(key, span_s)
        gone = before - present if "web_vitals" not in skip else set()
        for key in gone:
            pipeline.delete(key)
        if "compat_scores" not in skip:
            self._replace_scores(pipeline, scores)
        # A key stays on the list until it is certainly gone.
        self._published = before | present
        hit("vitals.before_publish")
        names = [str(_decoded(command[0][1])) for command in pipeline.command_stack]
        report_damaged(names, pipeline.execute(raise_on_error=False))
        self._published = present
        return VitalsReport(len(present), len(gone), len(scores))

    def _replace_scores(self, pipeline: Pipeline, scores: dict[Any, str]) -> None:
        try:
            stale = {_decoded(browser) for browser in self.redis.hkeys(keys.COMPAT_SCORES)} - scores.keys()
        except redis.ResponseError as error:
            report_damaged([keys.COMPAT_SCORES], [error])
            return
        if stale:
            pipeline.hdel(keys.COMPAT_SCORES, *stale)
        if scores:
            pipeline.hset(keys.COMPAT_SCORES, mapping=scores)
            pipeline.expire(keys.COMPAT_SCORES, self.settings.vitals.rolling_s)

    def _published_before(self) -> set[str]:
        """Our keys in Redis; looked for once, then remembered."""
        if self._published is None:
            found = self.redis.scan_iter(match=keys.cwv("*", "*"), count=1000)
            self._published = {_decoded(key) for key in found}
        return self._published


def _fields(row: dict[str, Any], span_s: int, now_ms: int) -> tuple[dict[Any, str], list[str]]:
    """The hash of one vital, and which fields it must not have: figures that do not exist for it."""
    figures = {name: _text(row[name]) for name in _FIGURES}
    absent = [name for name, text in figures.items() if text is None]
    fields: dict[Any, str] = {name: text for name, text in figures.items() if text is not None}
    fields |= {
        "percentiles": PERCENTILE_DEFINITION,
        "rated_by": RATED_BY,
        "window_s": str(span_s),
        "last_updated": iso_seconds(now_ms),
    }
    successor = VITALS[row["vital"]].successor
    return fields | ({"successor": successor} if successor else {}), absent


def _decoded(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode()


def _text(value: float | bool | str) -> str | None:
    """NaN is no text: the field is left out. Yes and no are 1 and 0."""
    if isinstance(value, float):
        return None if math.isnan(value) else number(value)
    return value if isinstance(value, str) else str(int(value))


def _percentage(passed: int, total: int) -> str:
    """One decimal, as redis-schema.md has it; "100.0" only when everything passed."""
    rounded = round(100 * passed / total, 1)
    return f"{rounded if passed == total else min(rounded, 99.9):.1f}"
