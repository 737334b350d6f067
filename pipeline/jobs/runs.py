"""Keeps ``runs``: one row for each CI run, computed from all of its raw rows.

The rollup job names the runs that have rows in the windows it computes, and writes them before it remembers those
windows as done; so a run that died at any instruction is computed again. A run is final when no row of it came for
``runs.grace_s``; a row that comes later gives a new revision, which stays final. An execution whose attempts are all
``retried`` has no verdict: it counts as interrupted once its run is final.

The revision grows with the number of raw rows, so a stale computation never replaces a newer one.
When ClickHouse is away the outage is raised.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.base.failpoints import hit

if TYPE_CHECKING:
    from pipeline.store.client import Store

TABLE = "runs"

_AT_ONCE = 500
"""Runs computed by one query."""

# The attempts of an execution are told apart from others by the run, the session and the test alone. One of them is
# not retried; where a report came twice the newest one decides.
_READ = """
WITH attempts AS (
    SELECT run_id, job, test_suite, test_id, environment, browser,
           argMaxIf(statusWord(status), (timestamp, segment, position), statusWord(status) != 'retried') AS verdict,
           countIf(statusWord(status) = 'retried') AS retried,
           sumIf(value, statusWord(status) = 'retried') AS retried_ms,
           sum(value) AS test_ms,
           groupArrayIf(error_type, error_type != '') AS error_types,
           min(timestamp) AS first, max(timestamp) AS last, max(ingested_at) AS ingested, count() AS raw_rows,
           max(commit) AS commit, max(branch) AS branch,
           max(tags['base_branch']) AS base_branch, max(tags['pull_request']) AS pull_request,
           max(tags['ci']) AS ci_system, max(tags['run_link']) AS url
    FROM metrics
    WHERE run_id IN {run_ids:Array(String)} AND lower(metric_type) = 'duration'
    GROUP BY run_id, job, test_suite, test_id, environment, browser
), final_before AS (
    SELECT run_id, max(is_final) AS was_final FROM runs WHERE run_id IN {run_ids:Array(String)} GROUP BY run_id
)
SELECT
    attempts.run_id AS run_id,
    arraySort(groupUniqArray(job)) AS jobs,
    max(attempts.commit) AS commit, max(attempts.branch) AS branch, max(attempts.base_branch) AS base_branch,
    max(attempts.pull_request) AS pull_request, max(attempts.ci_system) AS ci_system, max(attempts.url) AS url,
    min(first) AS started, max(last) AS ended,
    max(was_final) OR max(ingested) <= fromUnixTimestamp64Milli({quiet_ms:Int64}, 'UTC') AS is_final,
    countIf(verdict NOT IN ('', 'skipped') OR (verdict = '' AND (attempts.retried = 0 OR is_run_final))) AS executions,
    countIf(verdict IN ('passed', 'flaky')) AS passed,
    countIf(verdict = 'flaky') AS flaky,
    countIf(verdict = 'failed') AS failed,
    countIf(verdict = 'skipped') AS skipped,
    countIf(verdict = 'interrupted' OR (verdict = '' AND attempts.retried > 0 AND is_run_final)) AS interrupted,
    sum(attempts.retried) AS retried,
    toFloat64(dateDiff('millisecond', started, ended)) AS duration_ms,
    sum(attempts.test_ms) AS test_ms,
    sum(attempts.retried_ms) AS retried_ms,
    sumMap(mapFromArrays(arrayDistinct(error_types),
        arrayMap(e -> toUInt64(countEqual(error_types, e)), arrayDistinct(error_types)))) AS error_types,
    sum(attempts.raw_rows) AS raw_rows,
    2 * raw_rows + is_final AS revision
FROM (
    SELECT attempts.*, was_final,
           max(was_final) OVER (PARTITION BY run_id)
           OR max(ingested) OVER (PARTITION BY run_id) <= fromUnixTimestamp64Milli({quiet_ms:Int64}, 'UTC')
           AS is_run_final
    FROM attempts GLOBAL LEFT JOIN final_before USING (run_id)
) AS attempts
GROUP BY attempts.run_id
"""

_OPEN = """
SELECT run_id FROM runs
WHERE NOT is_final AND computed_at <= fromUnixTimestamp64Milli({quiet_ms:Int64}, 'UTC')
LIMIT 10000
"""


@dataclass
class RunsReport:
    """What one run of the job did: runs that became final."""

    finished: int = 0


@dataclass
class RunsJob:
    """Runs out of the raw rows in ``store``, and into it."""

    store: Store
    grace_s: float

    def run(self, now_ms: int) -> RunsReport:
        """Write the runs that have become final as of ``now_ms``. Raises ``StoreOutage``."""
        quiet = self.store.rows(_OPEN, {"quiet_ms": self._quiet_ms(now_ms)})
        return RunsReport(self.write([str(run_id) for (run_id,) in quiet], now_ms))

    def write(self, run_ids: Collection[str], now_ms: int) -> int:
        """Compute these runs from their raw rows and write them; how many there were. Raises ``StoreOutage``."""
        written = 0
        names = sorted(run_ids)
        for first in range(0, len(names), _AT_ONCE):
            batch = names[first : first + _AT_ONCE]
            found = self.store.query(_READ, {"run_ids": batch, "quiet_ms": self._quiet_ms(now_ms)})
            hit("runs.before_insert")
            computed_at = pa.array([now_ms] * found.num_rows, pa.timestamp("ms", "UTC"))
            self.store.insert(TABLE, found.append_column("computed_at", computed_at))
            written += found.num_rows
        return written

    def _quiet_ms(self, now_ms: int) -> int:
        return now_ms - int(self.grace_s * 1000)
