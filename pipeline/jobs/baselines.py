"""Keeps what is normal: the table ``baselines`` with its history, and ``baseline:{test_suite}`` in Redis.

The job computes all of them anew from the executions of the last ``baselines.days``: suite; suite and
environment; suite, environment and browser; suite and test. A baseline is written to the table only if
it differs from the last one written, all of them in one insert; so what was normal at a time T is the
newest row with ``computed_at`` <= T. Redis is written whole every time, in one pipeline: a turn that died
between the two is made good by the next.

When ClickHouse or Redis is away the outage is raised; nothing needs repair. A suite that was not
executed for longer than ``baselines.days`` keeps its last baseline, which says when that was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analyse.baselines import PERCENTILE_DEFINITION, History, baselines, history
from pipeline.analyse.cycles import MONDAY_S, SLOT_S, WEEK_S
from pipeline.base import keys
from pipeline.base.clock import iso_seconds
from pipeline.base.failpoints import hit
from pipeline.base.redis_link import outages
from pipeline.jobs.redis_text import number, report_damaged
from pipeline.store.arrow import AS_DICTIONARIES

if TYPE_CHECKING:
    import redis

    from pipeline.base.config import Settings
    from pipeline.store.client import Store

TABLE = "baselines"

GROUPINGS = (
    ("test_suite",),
    ("test_suite", "environment"),
    ("test_suite", "environment", "browser"),
    ("test_suite", "test_id"),
)
_KEY = ("test_suite", "environment", "browser", "test_id")
_FIGURES = (
    *("avg_duration", "p95_duration", "success_rate", "success_rate_low", "success_rate_high"),
    *("centre", "spread", "samples", "runs", "since", "state", "shift_pct", "autocorrelation"),
    *("cycle", "cycle_factors"),
)

_DAY_MS = 86_400_000

_EXECUTED = """
    lower(metric_type) = 'duration' AND statusWord(status) NOT IN ('skipped', 'retried')
    AND branch IN {branches:Array(String)}
    AND timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')
    AND timestamp <= fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')
"""

# ``newest`` finds where the newest max_runs executions of each test begin, so that only those leave the
# server, not seven days whole. Where times are equal some more come; ``history`` decides.
# GLOBAL lets the same text run on a cluster.
_READ = (
    f"""
WITH newest AS (
    SELECT test_suite, environment, browser, test_id, test_name,
           -groupArraySorted(%d)(-toUnixTimestamp64Milli(timestamp))[-1] AS first_ms
    FROM metrics
    WHERE {_EXECUTED}
    GROUP BY test_suite, environment, browser, test_id, test_name
), changes AS (
    SELECT environment, browser, test_suite, test_id, test_name, page, endpoint, node,
           max(toUnixTimestamp64Milli(changed_at)) AS since_ms
    FROM change_points
    WHERE lower(metric_type) = 'duration' AND kind != 'drift'
      AND changed_at <= fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC')
    GROUP BY environment, browser, test_suite, test_id, test_name, page, endpoint, node
), known_cycles AS (
    SELECT environment, browser, test_suite, test_id, test_name, page, endpoint, node,
           argMax(if(kind = '' OR scale != 'factor', [], factors), fitted_at) AS factors
    FROM cycles
    WHERE lower(metric_type) = 'duration'
    GROUP BY environment, browser, test_suite, test_id, test_name, page, endpoint, node
), executions AS (
    SELECT test_suite, environment, browser, test_id, test_name, page, endpoint, node, status, value,
           toUnixTimestamp64Milli(timestamp) AS timestamp_ms, run_id
    FROM metrics
    GLOBAL INNER JOIN newest USING (test_suite, environment, browser, test_id, test_name)
    WHERE {_EXECUTED} AND timestamp_ms >= first_ms
)
SELECT test_suite, environment, browser, test_id, test_name, status, value, timestamp_ms, run_id, since_ms,
       intDiv((intDiv(timestamp_ms, 1000) - {MONDAY_S}) %% {WEEK_S}, {SLOT_S}) + 1 AS slot,
       if(empty(factors), 1., toFloat64(factors[slot])) AS factor
FROM executions
GLOBAL LEFT JOIN changes USING (environment, browser, test_suite, test_id, test_name, page, endpoint, node)
GLOBAL LEFT JOIN known_cycles USING (environment, browser, test_suite, test_id, test_name, page, endpoint, node)
"""
    + AS_DICTIONARIES
)

_CYCLES = f"""
SELECT {", ".join(_KEY)}, kind, factors FROM (
    SELECT argMax(kind, fitted_at) AS kind, argMax(factors, fitted_at) AS factors, {", ".join(_KEY[:-1])},
           if(test_id = '', test_name, test_id) AS test_id
    FROM cycles WHERE lower(metric_type) = 'duration' AND scale = 'factor'
    GROUP BY environment, browser, test_suite, test_id, test_name, page, endpoint, node
) WHERE kind != ''
"""

_LAST_WRITTEN = f"""
SELECT {", ".join(_KEY)}, {", ".join(_FIGURES).replace("since", "toUnixTimestamp64Milli(since)")}
FROM baselines
WHERE computed_at > fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')
ORDER BY computed_at DESC
LIMIT 1 BY {", ".join(_KEY)}
"""


@dataclass
class BaselinesReport:
    """What one turn did: executions that came out of ClickHouse, baselines computed, written, and in Redis."""

    executions: int = 0
    baselines: int = 0
    written: int = 0
    published: int = 0


@dataclass
class BaselinesJob:
    """Baselines out of ``store``, into it and into the Redis database ``results``."""

    store: Store
    redis: redis.Redis
    settings: Settings
    _last: dict[tuple[Any, ...], tuple[Any, ...]] | None = field(default=None)

    def run(self, now_ms: int) -> BaselinesReport:
        """Compute every baseline as of ``now_ms``, write those that changed, publish those of suites.

        Raises ``StoreOutage`` or ``RedisOutage``; what is missing then follows with the next turn.
        """
        executions = self._read(now_ms)
        found = self._by_groupings(executions, self.store.rows(_CYCLES))
        written = self._write(found, now_ms)
        hit("baselines.before_publish")
        with outages():
            published = self._publish(found, now_ms)
        return BaselinesReport(executions.num_rows, found.num_rows, written, published)

    def _read(self, now_ms: int) -> pa.Table:
        limits = self.settings.baselines
        span = {
            "from_ms": now_ms - int(limits.days * _DAY_MS),
            "to_ms": now_ms,
            "branches": list(limits.branches),
        }
        return self.store.query(_READ % limits.max_runs, span)

    def _by_groupings(self, executions: pa.Table, cycles: Sequence[tuple[Any, ...]]) -> pa.Table:
        """All groupings in one table, ``""`` where a grouping does not tell apart.

        Since that means "all" there, executions that lack a dimension are in no group of a grouping that has it;
        only the absent suite is one.
        """
        limits = self.settings.baselines
        past = history(executions, limits.max_runs)
        tables = []
        for by in GROUPINGS:
            table = baselines(past, by, max_runs=limits.max_runs, min_runs=limits.min_runs)
            for name in by[1:]:
                table = table.filter(pc.not_equal(table.column(name), ""))
            everything = pa.array([""] * table.num_rows, pa.string())
            dimensions = {
                name: table.column(name).cast(pa.string()) if name in by else pa.chunked_array([everything])
                for name in _KEY
            }
            tables.append(pa.table(dimensions | {name: table.column(name) for name in _FIGURES[:-2]}))
        return _with_cycles(pa.concat_tables(tables), past, cycles)

    def _write(self, found: pa.Table, now_ms: int) -> int:
        """Write the baselines that differ from what was last written; returns how many."""
        comparable = found.set_column(
            found.column_names.index("since"), "since", found.column("since").cast(pa.int64())
        )
        current = {row[: len(_KEY)]: row[len(_KEY) :] for row in _tuples(comparable)}
        last = self._last if self._last is not None else self._last_written(now_ms)
        is_new = pa.array([last.get(key) != figures for key, figures in current.items()], pa.bool_())
        rows = found.filter(is_new)
        # Should the insert's outcome be in doubt, the next turn asks the table.
        self._last = None
        computed_at = pa.array(np.full(rows.num_rows, now_ms), pa.timestamp("ms", "UTC"))
        self.store.insert(TABLE, rows.append_column("computed_at", computed_at))
        hit("baselines.after_insert")
        self._last = current
        return int(rows.num_rows)

    def _last_written(self, now_ms: int) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        """The newest row of every baseline. An older one than ``days`` rests on executions that are out of sight."""
        from_ms = now_ms - int((self.settings.baselines.days + 1) * _DAY_MS)
        rows = self.store.rows(_LAST_WRITTEN, {"from_ms": from_ms})
        return {row[: len(_KEY)]: _comparable(row[len(_KEY) :]) for row in rows}

    def _publish(self, found: pa.Table, now_ms: int) -> int:
        if "baseline" in self.settings.publish.skip:
            return 0
        of_suites = [
            row
            for row in found.to_pylist()
            if row["test_suite"] and not (row["environment"] or row["browser"] or row["test_id"])
        ]
        with self.redis.pipeline(transaction=False) as pipeline:
            for row in of_suites:
                pipeline.hset(keys.baseline(row["test_suite"]), mapping=_fields(row, now_ms))
            replies = pipeline.execute(raise_on_error=False)
        report_damaged([keys.baseline(row["test_suite"]) for row in of_suites], replies)
        return len(of_suites)


def _fields(row: dict[str, Any], now_ms: int) -> dict[Any, str]:
    """The payload of redis-schema.md first, then the pipeline's own fields; rates are percentages here.

    A suite that never passed has no speed: those fields are left out.
    """
    speed = {name: number(row[name]) for name in ("avg_duration", "p95_duration") if math.isfinite(row[name])}
    return {
        **speed,
        "success_rate": _percentage(row["success_rate"]),
        "last_updated": iso_seconds(now_ms),
        "success_rate_low": _percentage(row["success_rate_low"]),
        "success_rate_high": _percentage(row["success_rate_high"]),
        **{name: number(row[name]) for name in ("centre", "spread") if math.isfinite(row[name])},
        "samples": str(row["samples"]),
        "runs": str(row["runs"]),
        "since": iso_seconds(round(row["since"].timestamp() * 1000)),
        "state": row["state"],
        **({"shift_pct": number(row["shift_pct"])} if math.isfinite(row["shift_pct"]) else {}),
        **({"cycle": row["cycle"]} if row["cycle"] else {}),
        "percentiles": PERCENTILE_DEFINITION,
    }


def _percentage(share: float) -> str:
    """0.57 as "57", not as "56.99999999999999"."""
    return number(round(100 * share, 10))


def _tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    return [_comparable(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def _comparable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """NaN equals nothing, itself included, and a list of factors may come as an array."""
    return tuple(
        None if isinstance(one, float) and math.isnan(one) else one if isinstance(one, str | int) else _plain(one)
        for one in row
    )


def _plain(one: Any) -> Any:
    return tuple(np.asarray(one, np.float32).tolist()) if isinstance(one, list | tuple | np.ndarray) else one


def _with_cycles(found: pa.Table, past: History, cycles: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Add to each baseline the mean factors of its tests; a test without a cycle of its own has factors of 1."""
    tests = past.dimensions.select(_KEY).group_by(list(_KEY)).aggregate([]).to_pylist()
    of_test: dict[tuple[str, ...], list[tuple[str, Any]]] = {}
    for *key, kind, factors in cycles:
        of_test.setdefault(tuple(key), []).append((kind, np.log(np.asarray(factors, np.float64))))
    total: dict[tuple[str, ...], Any] = {}
    count: dict[tuple[str, ...], int] = {}
    kinds: dict[tuple[str, ...], str] = {}
    for test in tests if of_test else ():
        own = of_test.get(tuple(test[name] for name in _KEY), [])
        for by in GROUPINGS:
            group = tuple(test[name] if name in by else "" for name in _KEY)
            count[group] = count.get(group, 0) + 1
            if own:
                total[group] = total.get(group, 0.0) + np.mean([effects for _, effects in own], axis=0)
                kinds[group] = max(kinds.get(group, ""), *(kind for kind, _ in own))
    groups = list(zip(*(found.column(name).to_pylist() for name in _KEY), strict=True))
    factors_of = [np.exp(total[group] / count[group]).tolist() if group in total else [] for group in groups]
    return found.append_column(
        "cycle", pa.array([kinds.get(group, "") for group in groups], pa.string())
    ).append_column("cycle_factors", pa.array(factors_of, pa.list_(pa.float32())))
