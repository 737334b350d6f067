"""Writes how tests fared to the platform's keys: ``test:history:*``, ``failure:pattern:*``, ``failure:analysis``.

Each key is rebuilt from the raw rows of the last 24 hours in one transaction, so that a kill doubles nothing and
readers never see half of it. A history has the newest 100 executions, the newest first; attempts that were tried again
are no executions. Only tests that got rows since the last turn are read again. When ClickHouse or Redis is away the
outage is raised; the next turn does the work.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.base import keys
from pipeline.base.clock import iso_seconds
from pipeline.base.failpoints import hit
from pipeline.base.redis_link import outages
from pipeline.jobs.redis_text import number, report_damaged

if TYPE_CHECKING:
    from pipeline.store.client import Store

DAY_MS = 86_400_000
HISTORY_LENGTH = 100
MAX_ERROR_TYPES = 200
MAX_TESTS_A_PATTERN = 1_000
TESTS_A_TRANSACTION = 100
"""Histories rewritten at once: 10,000 elements, about 5 ms of Redis in pieces of one list each."""
_OVERLAP_MS = 60_000

_SPAN = """lower(metric_type) = 'duration' AND test_name != ''
  AND timestamp >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"""

_HISTORY = f"""
SELECT test_name, arrayMap(one -> tuple(one.2, one.3, one.4, -one.1), groupArraySorted({HISTORY_LENGTH})(
    tuple(-toUnixTimestamp64Milli(timestamp),
          if(tags['execution_id'] != '', tags['execution_id'], concat(segment, ':', toString(position))),
          status, value)))
FROM metrics
WHERE {_SPAN} AND statusWord(status) != 'retried' AND test_name GLOBAL IN (
    SELECT DISTINCT test_name FROM metrics
    WHERE {_SPAN} AND ingested_at >= fromUnixTimestamp64Milli({{since_ms:Int64}}, 'UTC'))
GROUP BY test_name
"""

_PATTERNS = f"""
SELECT error_type, groupUniqArray({MAX_TESTS_A_PATTERN})(if(test_id != '', test_id, test_name)) AS tests,
       count() AS failures
FROM metrics
WHERE {_SPAN} AND error_type != '' AND statusWord(status) IN ('failed', 'retried')
GROUP BY error_type
ORDER BY failures DESC, error_type
LIMIT {MAX_ERROR_TYPES}
"""

_ANALYSIS = f"""
SELECT countIf(word = 'failed'), countIf(word NOT IN ('skipped', 'retried')), uniqExactIf(test_name, word = 'flaky')
FROM (SELECT statusWord(status) AS word, test_name FROM metrics WHERE {_SPAN})
"""


@dataclass
class FailuresReport:
    """What one turn wrote."""

    histories: int = 0
    patterns: int = 0


@dataclass
class FailuresJob:
    """Histories and failures out of ``store``, into the Redis database ``results``."""

    store: Store
    redis: Any
    skip: Collection[str] = ()
    """Names of catalogue entries that the platform writes itself."""
    _since_ms: int = field(default=0)
    _patterns: set[str] | None = field(default=None)

    def run(self, now_ms: int) -> FailuresReport:
        """Write what changed. Raises ``StoreOutage`` or ``RedisOutage``."""
        report = FailuresReport()
        span = {"from_ms": now_ms - DAY_MS, "since_ms": self._since_ms}
        if "test_history" not in self.skip:
            rows = self.store.rows(_HISTORY, span)
            for first in range(0, len(rows), TESTS_A_TRANSACTION):
                self._write_histories(rows[first : first + TESTS_A_TRANSACTION])
                hit("failures.between_histories")
            report.histories = len(rows)
        found = self.store.rows(_PATTERNS, span)
        if "failure_pattern" not in self.skip:
            self._write_patterns({str(error): list(tests) for error, tests, _ in found})
            report.patterns = len(found)
        if "failure_analysis" not in self.skip:
            ((failed, executed, flaky),) = self.store.rows(_ANALYSIS, span)
            common = str(found[0][0]) if found else ""
            self._write_analysis(int(failed), int(executed), int(flaky), common, now_ms)
        self._since_ms = now_ms - _OVERLAP_MS
        return report

    def _write_histories(self, rows: Sequence[tuple[Any, ...]]) -> None:
        for test_name, executions in rows:
            key = keys.test_history(str(test_name))
            elements = [
                json.dumps(
                    {
                        "executionId": one[0],
                        "status": one[1],
                        "duration": one[2],
                        "timestamp": iso_seconds(int(one[3])),
                    },
                    ensure_ascii=False,
                )
                for one in (_values(execution) for execution in executions)
            ]
            with outages(), self.redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                pipe.rpush(key, *elements)
                pipe.execute()

    def _write_patterns(self, found: dict[str, list[str]]) -> None:
        """All patterns in one transaction; those of errors that happened no more are removed with it."""
        with outages():
            if self._patterns is None:
                names = self.redis.scan_iter(match=keys.failure_pattern("*"), count=500)
                self._patterns = {name.decode().removeprefix(keys.failure_pattern("")) for name in names}
            with self.redis.pipeline(transaction=True) as pipe:
                for error in sorted(self._patterns | found.keys()):
                    pipe.delete(keys.failure_pattern(error))
                    if found.get(error):
                        pipe.sadd(keys.failure_pattern(error), *sorted(found[error]))
                pipe.execute()
        self._patterns = set(found)

    def _write_analysis(self, failed: int, executed: int, flaky: int, common: str, now_ms: int) -> None:
        fields = {
            "error_rate": number(round(100 * failed / executed, 2) if executed else 0.0),
            "most_common_error": common,
            "flaky_tests": str(flaky),
            "last_updated": iso_seconds(now_ms),
        }
        with outages(), self.redis.pipeline(transaction=False) as pipe:
            pipe.hset(keys.FAILURE_ANALYSIS, mapping=fields)
            report_damaged([keys.FAILURE_ANALYSIS], pipe.execute(raise_on_error=False))


def _values(execution: Any) -> list[Any]:
    """A tuple of ClickHouse comes as a tuple, or as a mapping of its elements."""
    return list(execution.values()) if isinstance(execution, dict) else list(execution)
